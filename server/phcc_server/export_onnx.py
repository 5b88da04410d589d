"""The whole classifier as one ONNX file, held against the model that it was made of before it is written.

The layers are torch's plain ones, on dense maps: every phase is encoded, and what stands in a missing one is set
to zero first and its features after. So the graph is one for every patient, and gives the same logit.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from phcc_model import heads
from phcc_model.build import build_classifier
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.look import Samples
from phcc_model.seeds import generator

INPUTS, OUTPUT = ("volumes", "present", "lesion"), "logit"
OPSET = 18
TOLERANCE = 1e-4
"""Largest difference of a logit, of torch and of onnxruntime."""
LARGEST_BATCH = 1024
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


class DenseClassifier(nn.Module):
    """A classifier whose steps do not depend on which phases are there.

    Args:
        model: a classifier of its own; its encoder is set to torch's plain layers.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        model.encoder.fast = model.encoder.packed = False
        self.model = model
        self.eval()

    def forward(self, volumes: Tensor, present: Tensor, lesion: Tensor) -> Tensor:
        """One logit per case.

        Args:
            volumes: float32 [B, P, D, H, W]; what stands in a missing phase is never used.
            present: bool [B, P].
            lesion: float32 [B, D, H, W], 1 inside the lesion.

        Returns:
            float32 [B]
        """
        model = self.model
        there = present[:, :, None, None, None]
        seen = torch.where(there, volumes, torch.zeros_like(volumes))
        tokens = torch.ones_like(present[:, :1]) if model.joint else model.counted(present)
        if model.joint:
            features = model.pool(self._maps(seen), lesion).f_nc[:, None]
        else:
            phases = len(model.phases)
            maps = self._maps(seen.flatten(0, 1)[:, None])
            each = lesion[:, None].expand(-1, phases, -1, -1, -1).flatten(0, 1)
            case_n = torch.arange(present.shape[0])[:, None].expand(-1, phases).flatten()
            phase_n = torch.arange(phases).expand(present.shape[0], -1).flatten()
            pooled = model.pool(maps, each, Samples(case_n, phase_n, tokens)).f_nc
            features = pooled.reshape(-1, phases, pooled.shape[1])
            features = torch.where(present[..., None], features, torch.zeros_like(features))
        dynamic = heads.dynamic_features(model.norm(features, tokens), tokens, model.kinds)
        logit: Tensor = model.out(model.fusion(dynamic, tokens))[:, 0]
        return logit

    def _maps(self, x_ncdhw: Tensor) -> Tensor:
        """The encoder with every branch kept, told so: it would count the samples, and fix their number."""
        encoder = self.model.encoder
        kept = torch.ones(x_ncdhw.shape[0], encoder.layers - 1, dtype=torch.bool)
        maps: Tensor = encoder(x_ncdhw, None, kept)
        return maps


def require_libraries() -> None:
    """Find out before any work is done whether the libraries are there.

    Raises:
        ConfigError: one is not installed.
    """
    lacking = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"{', '.join(lacking)} is not installed",
            where="ONNX",
            remedy="Run: pip install 'phcc-ssl-federated[export]', or export with --plain",
        )


def to_onnx(study: StudyConfig, model: Classifier) -> tuple[bytes, float]:
    """The classifier as ONNX, with its weights inside, for any number of cases.

    Args:
        study: of the model.
        model: with its weights; it stays as it is.

    Returns:
        The file's content, and the largest difference of a logit that was found.

    Raises:
        ConfigError: the exported model does not give the logits of the model, or the libraries are missing.
    """
    require_libraries()
    plain = build_classifier(study)
    plain.load_state_dict(model.state_dict())
    content = _converted(DenseClassifier(plain), random_cases(study, 3))
    worst = difference(content, study, model)
    if not worst <= TOLERANCE:
        raise ConfigError(
            f"the exported model's logits differ by {worst:.2g}, more than {TOLERANCE:g}",
            where="ONNX",
            remedy="Export with --plain, and report this study's model settings",
        )
    return content, worst


def difference(content: bytes, study: StudyConfig, model: Classifier) -> float:
    """The largest difference of a logit between onnxruntime and torch, over cases with phases missing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    worst = 0.0
    for cases in (1, 2, 7):
        given = random_cases(study, cases)
        with torch.no_grad():
            expected = model.eval()(*(torch.from_numpy(array) for array in given)).numpy()
        (found,) = session.run([OUTPUT], dict(zip(INPUTS, given, strict=True)))
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def random_cases(study: StudyConfig, cases: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Volumes, which phases are there (one at least), and lesions, the same at every call."""
    draw = generator(study.seed, "export", str(cases))
    phases, size = len(study.data.phases), study.data.crop.size
    volumes = draw.standard_normal((cases, phases, *size)).astype(np.float32)
    present = draw.random((cases, phases)) < 0.6
    present[np.arange(cases), draw.integers(phases, size=cases)] = True
    lesion = (draw.random((cases, *size)) < 0.1).astype(np.float32)
    return volumes, present, lesion


def _converted(model: DenseClassifier, example: tuple[NDArray[Any], ...]) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    given = tuple(torch.from_numpy(array) for array in example)
    with _quiet(), torch.no_grad(), patch.object(heads, "previous_present", _previous_present):
        program = torch.export.export(model, given, dynamic_shapes=tuple({0: batch} for _ in given))
        table = torch.export.default_decompositions()
        table[torch.ops.aten._adaptive_avg_pool3d.default] = _cell_means
        exported = torch.onnx.export(
            program.run_decompositions(table),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    return _stripped(exported.model_proto)


def _previous_present(present_bt: Tensor) -> Tensor:
    """`phcc_model.heads.previous_present` step by step: ONNX has no running maximum, and no fixed batch here."""
    latest_b = torch.full_like(present_bt[:, 0], -1, dtype=torch.int64)
    before = []
    for step in range(present_bt.shape[1]):
        before.append(latest_b)
        latest_b = torch.where(present_bt[:, step], step, latest_b)
    return torch.stack(before, dim=1)


def _cell_means(x_ncdhw: Tensor, grid: Sequence[int]) -> Tensor:
    """Adaptive average pooling, which ONNX lacks; a crop is a multiple of its cells along each axis."""
    return F.avg_pool3d(x_ncdhw, [size // cells for size, cells in zip(x_ncdhw.shape[2:], grid, strict=True)])


def _stripped(proto: Any) -> bytes:
    """Without the notes of the conversion, which name files of this machine, and checked."""
    import onnx

    for graph in (proto, proto.graph, *proto.functions, *proto.graph.initializer):
        graph.doc_string = ""
        del graph.metadata_props[:]
    del proto.graph.value_info[:]
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about torchvision, which is not needed, and about its own parts."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # A phase that no case had is normed by 0 / 0, which the model drops and the exporter warns of.
            warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
            yield
    finally:
        exporter.setLevel(level)
