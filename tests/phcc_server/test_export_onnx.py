from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import tiny_study

from phcc_model.build import build_classifier
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.heads import CaseNorm, previous_present
from phcc_server import export_onnx
from phcc_server.export_onnx import INPUTS, DenseClassifier, difference, random_cases, to_onnx

THREE_PHASES = {"phases": ["pre-contrast", "arterial", "delayed"]}
KINDS = [
    tiny_study(),
    tiny_study(
        data=THREE_PHASES, model={"classifier": {"pooling": "gap+lesion+rim+core+spread", "fusion": "concat"}}
    ),
    tiny_study(data=THREE_PHASES, model={"classifier": {"pooling": "lesion", "feature_norm": "layer"}}),
    tiny_study(model={"phases": "joint", "classifier": {"pooling": "gap+lesion"}}),
    tiny_study(data=THREE_PHASES, model={"classifier": {"pooling": "gap+found+spread"}}),
    tiny_study(data=THREE_PHASES, model={"classifier": {"pooling": "gap+found+spread", "look": "common"}}),
    tiny_study(model={"classifier": {"fusion": "mean", "features": ["relative"]}}),
    tiny_study(data=THREE_PHASES, model={"classifier": {"projection": "per-phase"}}),
]


def lived_in(study: StudyConfig) -> Classifier:
    """A model none of whose arrays is at its start, where GRN and norms would be the identity."""
    model = build_classifier(study).eval()
    draw = torch.Generator().manual_seed(5)
    for name, array in model.state_dict().items():
        noise = torch.randn(array.shape, generator=draw) * 0.1
        array.copy_((array + noise).abs() + 0.5 if name.startswith("norm.") else array + noise)
    return model


@pytest.mark.parametrize("study", KINDS)
def test_the_dense_model_gives_the_same_logits(study: StudyConfig) -> None:
    model = lived_in(study)
    plain = build_classifier(study)
    plain.load_state_dict(model.state_dict())
    given = [torch.from_numpy(array) for array in random_cases(study, 6)]
    with torch.no_grad():
        expected = model(*given)
        assert float(expected.std()) > 1e-3
        torch.testing.assert_close(DenseClassifier(plain)(*given), expected, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("look", ["own", "common"])
def test_the_dense_model_leaves_out_what_was_never_taught(look: str) -> None:
    head = {"projection": "per-phase", "pooling": "gap+found+spread", "look": look}
    study = tiny_study(data=THREE_PHASES, model={"classifier": head})
    model = lived_in(study)
    assert isinstance(model.norm, CaseNorm)
    model.norm.mass_t1[1] = 0.0
    assert model.untaught() == ("arterial",)
    volumes, present, lesion = (torch.from_numpy(array) for array in random_cases(study, 6))
    present[:, :2] = True
    plain = build_classifier(study)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model(volumes, present, lesion)
        dense = DenseClassifier(plain)
        torch.testing.assert_close(dense(volumes, present, lesion), expected, atol=1e-5, rtol=0.0)
        present[:, 1] = False
        torch.testing.assert_close(dense(volumes, present, lesion), expected, atol=1e-5, rtol=0.0)


def test_what_stands_in_a_missing_phase_is_not_used() -> None:
    study = KINDS[0]
    model = DenseClassifier(lived_in(study))
    volumes, present, lesion = (torch.from_numpy(array) for array in random_cases(study, 4))
    present[0, 1] = False
    spoiled = volumes.masked_fill(~present[:, :, None, None, None], float("nan"))
    with torch.no_grad():
        assert torch.equal(model(volumes, present, lesion), model(spoiled, present, lesion))


def test_the_phase_before_is_the_models_own() -> None:
    present = torch.rand(50, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(export_onnx._previous_present(present), previous_present(present))


@pytest.fixture(scope="module")
def exported() -> tuple[StudyConfig, Classifier, bytes, float]:
    study = KINDS[1]
    model = lived_in(study)
    content, worst = to_onnx(study, model)
    return study, model, content, worst


def test_onnxruntime_gives_torchs_logits(exported: tuple[StudyConfig, Classifier, bytes, float]) -> None:
    study, model, content, worst = exported
    assert worst < 1e-4
    assert difference(content, study, model) == worst
    other = lived_in(study)
    with torch.no_grad():
        other.out.bias.add_(0.01)
    assert difference(content, study, other) == pytest.approx(0.01, rel=1e-2)


def test_the_file_is_whole_and_tells_nothing_of_this_machine(
    exported: tuple[StudyConfig, Classifier, bytes, float],
) -> None:
    import onnx

    study, _, content, _ = exported
    assert b".py" not in content
    assert b"stack_trace" not in content
    graph = onnx.load_from_string(content).graph
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    size = list(study.data.crop.size)
    assert shapes == {
        "volumes": ["batch", 3, *size],
        "present": ["batch", 3],
        "lesion": ["batch", *size],
        "logit": ["batch"],
    }
    assert all(not array.external_data for array in graph.initializer)


def test_a_file_that_answers_otherwise_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "_converted", lambda *_: b"")
    monkeypatch.setattr(export_onnx, "difference", lambda *_: 2e-4)
    with pytest.raises(ConfigError, match=r"differ by 0\.0002"):
        to_onnx(KINDS[0], lived_in(KINDS[0]))
    monkeypatch.setattr(export_onnx, "difference", lambda *_: float("nan"))
    with pytest.raises(ConfigError, match="differ by nan"):
        to_onnx(KINDS[0], lived_in(KINDS[0]))


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_onnx, "LIBRARIES", ("onnx", "onnx_of_tomorrow"))
    with pytest.raises(ConfigError, match="onnx_of_tomorrow is not installed"):
        to_onnx(KINDS[0], lived_in(KINDS[0]))


def test_random_cases_are_the_same_and_never_empty() -> None:
    first, again = random_cases(KINDS[1], 40), random_cases(KINDS[1], 40)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    present = first[INPUTS.index("present")]
    assert present.any(axis=1).all()
    assert not present.all()
