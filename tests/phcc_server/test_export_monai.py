"""The bundle as another laboratory would meet it: a folder by itself, MONAI and onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import tiny_study
from monai.bundle.config_parser import ConfigParser

from phcc_model.build import build_classifier
from phcc_model.package_schema import Recalibration, Threshold
from phcc_server.export_monai import metadata, write_bundle
from phcc_server.export_onnx import random_cases, to_onnx

STUDY = tiny_study(data={"source": "phantom"})
THRESHOLD = Threshold(value=0.3, source="nobody")
RECALIBRATION = Recalibration(intercept=0.5, slope=2.0, source="nobody")
RUN = """
import sys
from monai.bundle import run
root, case, score = sys.argv[1:]
files = {"config_file": root + "/configs/inference.json", "meta_file": root + "/configs/metadata.json"}
run(run_id="run", **files, logging_file=False, bundle_root=root, case_file=case, output_file=score)
assert not any(name.startswith("phcc_") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a bundle")
    content, _ = to_onnx(STUDY, build_classifier(STUDY).eval())
    names = write_bundle(root, STUDY, content, "# Model card\n", THRESHOLD, RECALIBRATION)
    assert sorted(names) == sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    return root


def test_monai_runs_it_and_gives_the_models_score(bundle: Path, tmp_path: Path) -> None:
    volumes, present, lesion = random_cases(STUDY, 1)
    present[0] = [False, True]
    # As a crop is kept: half precision, and a mask of bytes.
    case = {
        "volumes": volumes[0].astype(np.float16),
        "present": present[0],
        "lesion": lesion[0].astype(np.uint8),
    }
    np.savez(tmp_path / "case.npz", **case)
    found = subprocess.run(
        [sys.executable, "-c", RUN, str(bundle), str(tmp_path / "case.npz"), str(tmp_path / "score.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    assert found.returncode == 0, found.stderr
    with torch.no_grad():
        logit = float(
            build_classifier(STUDY).eval()(
                torch.from_numpy(case["volumes"].astype(np.float32))[None],
                torch.from_numpy(present),
                torch.from_numpy(lesion),
            )
        )
    said = json.loads((tmp_path / "score.json").read_text())
    assert said["logit"] == pytest.approx(logit, abs=1e-4)
    assert said["score"] == pytest.approx(1.0 / (1.0 + np.exp(-logit)), abs=1e-4)
    assert said["probability"] == pytest.approx(1.0 / (1.0 + np.exp(-(0.5 + 2.0 * logit))), abs=1e-4)
    assert said["positive"] is True
    assert said["notice"] == "research use only"


def test_the_metadata_say_what_goes_in_and_what_it_is(bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_meta(bundle / "configs" / "metadata.json")
    meta = parser["_meta_"]
    # What MONAI's schema of metadata.json asks for.
    needed = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    assert needed | {"authors", "copyright", "network_data_format", "required_packages_version"} <= set(meta)
    volumes = meta["network_data_format"]["inputs"]["volumes"]
    assert volumes["num_channels"] == 2
    assert volumes["spatial_shape"] == list(STUDY.data.crop.size)
    assert volumes["channel_def"] == {"0": "pre-contrast", "1": "arterial"}
    assert meta["data_source"] == "synthetic phantom"
    assert "Research use only" in meta["intended_use"]
    readme = (bundle / "docs" / "README.md").read_text()
    assert readme.startswith("# Model card")
    assert "monai.bundle" in readme


def test_a_model_that_is_not_about_the_liver_does_not_say_so() -> None:
    study = tiny_study(data={"source": "medmnist", "phases": ["image"]})
    said = json.dumps(metadata(study, THRESHOLD))
    assert "hepatocellular" not in said
    assert "from a MedMNIST file" in said
    assert '"MR"' not in said
