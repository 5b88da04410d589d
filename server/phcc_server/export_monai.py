"""The same model as a MONAI bundle: https://docs.monai.io/en/stable/mb_specification.html.

::

    monai/configs/metadata.json    what it is, what goes in, what comes out
    monai/configs/inference.json   one prepared case (.npz) in, one score (.json) out
    monai/models/model.onnx        run by onnxruntime: this project need not be installed
    monai/docs/README.md           the model card, and how to run it

A case is a crop as ``phcc-client`` prepares it: ``volumes`` float32 [P, D, H, W], ``present`` bool [P],
``lesion`` float32 [D, H, W]. How it is cut and normalised stands in ``package.json`` under ``study.data``.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.package_schema import Recalibration, Threshold
from phcc_model.statistics.calibration import CLIP
from phcc_model.storage import write_atomically
from phcc_server.export_card import purpose
from phcc_server.export_onnx import INPUTS, OUTPUT

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_USE = """

## Run it

    python -c "from monai.bundle import run; run(run_id='run', config_file='configs/inference.json', \\
        bundle_root='.', case_file='case.npz', output_file='score.json')"

`case.npz` holds `volumes` float32 [P, D, H, W], `present` bool [P] and `lesion` float32 [D, H, W]: a crop as
phcc-client prepares it. MONAI evaluates what stands in a configuration: run only a bundle whose digest you know.

There is no `model.pt`, which MONAI's specification names: it would be a pickle, which can run code when opened.
"""


def write_bundle(
    root: Path,
    study: StudyConfig,
    onnx: bytes,
    card: str,
    threshold: Threshold,
    calibration: Recalibration | None,
) -> tuple[str, ...]:
    """Write a bundle.

    Args:
        root: its folder, made if need be.
        study: of the arm.
        onnx: the model.
        card: the model card, Markdown.
        threshold: on the probability before recalibration.
        calibration: where there is one.

    Returns:
        Its files, relative to its folder.

    Raises:
        StorageError: the disk is full or not writable.
    """
    files: dict[str, str | bytes] = {
        "configs/metadata.json": json.dumps(metadata(study, threshold), indent=1) + "\n",
        "configs/inference.json": json.dumps(inference(threshold, calibration), indent=1) + "\n",
        "models/model.onnx": onnx,
        "docs/README.md": card.rstrip() + _USE,
    }
    for name, content in files.items():
        write_atomically(root / name, content)
    return tuple(files)


def metadata(study: StudyConfig, threshold: Threshold) -> dict[str, Any]:
    """What ``metadata.json`` says."""
    made = keys.package_version()
    return {
        "schema": SCHEMA,
        "version": made,
        "changelog": {made: f"exported from the study {study.name}, {study.digest}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"onnxruntime": version("onnxruntime")},
        "name": f"pHCC-SSL Federated: {study.name}",
        "task": purpose(study),
        "description": f"From one crop, {purpose(study)}. Research use only.",
        "authors": "The pHCC-SSL Federated authors",
        "copyright": "Apache-2.0",
        "intended_use": "Research use only. Not a medical device; not for diagnosis, treatment or screening.",
        "data_source": "synthetic phantom" if study.data.source == "phantom" else study.data.source,
        "threshold": threshold.model_dump(),
        "network_data_format": _formats(study),
    }


def _formats(study: StudyConfig) -> dict[str, Any]:
    """What goes in and what comes out, in the words of MONAI's schema."""
    phases, size = study.data.phases, list(study.data.crop.size)
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR" if study.data.source != "medmnist" else "n/a",
        "dtype": "float32",
        "is_patch_data": True,
    }
    return {
        "inputs": {
            "volumes": {
                **image,
                "num_channels": len(phases),
                "spatial_shape": size,
                "value_range": [],
                "channel_def": {str(place): phase for place, phase in enumerate(phases)},
            },
            "present": {
                **image,
                "type": "tuples",
                "format": "labels",
                "num_channels": len(phases),
                "spatial_shape": [],
                "dtype": "bool",
                "value_range": [0, 1],
                "channel_def": {str(place): f"{phase} is there" for place, phase in enumerate(phases)},
            },
            "lesion": {
                **image,
                "format": "segmentation",
                "num_channels": 1,
                "spatial_shape": size,
                "value_range": [0, 1],
                "channel_def": {"0": "lesion"},
            },
        },
        "outputs": {
            "pred": {
                "type": "probabilities",
                "format": "classes",
                "num_channels": 1,
                "spatial_shape": [],
                "dtype": "float32",
                "value_range": [0, 1],
                "is_patch_data": False,
                "channel_def": {"0": study.data.label},
            }
        },
    }


def inference(threshold: Threshold, calibration: Recalibration | None) -> dict[str, Any]:
    """What ``inference.json`` says: expressions that MONAI's `ConfigParser` evaluates."""
    inputs = {name: f"$@case['{name}'][None].astype(np.{kind})" for name, kind in _KINDS.items()}
    intercept, slope = (calibration.intercept, calibration.slope) if calibration else (0.0, 1.0)
    return {
        "imports": ["$import json", "$import pathlib", "$import numpy as np", "$import onnxruntime"],
        "bundle_root": ".",
        "case_file": "$@bundle_root + '/case.npz'",
        "output_file": "$@bundle_root + '/score.json'",
        "threshold": threshold.value,
        "recalibration": {"intercept": intercept, "slope": slope, "fitted": calibration is not None},
        "network": {
            "_target_": "onnxruntime.InferenceSession",
            "path_or_bytes": "$@bundle_root + '/models/model.onnx'",
            "providers": ["CPUExecutionProvider"],
        },
        "case": "$dict(np.load(@case_file))",
        "inputs": inputs,
        "logit": f"$float(@network.run(['{OUTPUT}'], @inputs)[0][0])",
        "score": "$1.0 / (1.0 + np.exp(-@logit))",
        "clipped": f"$np.clip(@score, {CLIP}, 1.0 - {CLIP})",
        "shifted": "$@recalibration#intercept + @recalibration#slope * np.log(@clipped / (1.0 - @clipped))",
        "probability": "$1.0 / (1.0 + np.exp(-@shifted)) if @recalibration#fitted else @score",
        "result": {
            "notice": "research use only",
            "logit": "@logit",
            "score": "$float(@score)",
            "probability": "$float(@probability)",
            "threshold": "@threshold",
            "positive": "$bool(@score >= @threshold)",
        },
        "run": ["$pathlib.Path(@output_file).write_text(json.dumps(@result, indent=1))"],
    }


_KINDS = dict(zip(INPUTS, ("float32", "bool_", "float32"), strict=True))
