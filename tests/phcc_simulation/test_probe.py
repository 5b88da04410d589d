"""What a linear reader makes of an encoder's features: on made ones, and by the command on a tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import TINY, merged
from numpy.typing import NDArray

from phcc_model.cases import CaseSet
from phcc_model.command_line import run_program
from phcc_simulation.cli import app
from phcc_simulation.finished import RunModel
from phcc_simulation.phantom.signs import SIGNS
from phcc_simulation.probe import FINETUNED, LABEL, PRETRAINED, RANDOM, Patients, _read, pooled_features

STUDY: dict[str, Any] = {
    "data": {
        "source": "phantom",
        "normalisation": "log-ratio",
        "crop": {"size": [4, 16, 16], "spacing_mm": [9.0, 4.8, 4.8]},
        "phantom": {"patients": 40, "external_patients": 12, "training_centres": 2},
        "centres": {"external": ["X1"]},
        "split": {"test": 0.3, "validation": 0.2},
    },
    "pretrain": {"rounds": 1},
    "finetune": {"rounds": 1},
    "federation": {"minimum_sites": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probed")
    (folder / "study.yaml").write_text(yaml.safe_dump(merged(TINY, STUDY)), encoding="utf-8")
    words = [
        "run",
        folder / "study.yaml",
        "--out",
        folder / "run",
        "--in-memory",
        "--threads",
        1,
        "--jobs",
        1,
    ]
    words += ["--arm", "full", "--arm", "no-pretraining"]
    assert run_program(app, [str(word) for word in words]) == 0
    return folder / "run"


def made(told: float, patients: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features of which one tells the label so well, among many that tell nothing."""
    rng = np.random.default_rng(seed)
    label_n = rng.integers(0, 2, patients)
    feature_nf = rng.normal(size=(patients, 20))
    feature_nf[:, 3] += told * label_n
    return feature_nf, label_n


def test_a_reader_finds_what_is_there_needs_patients_for_it_and_invents_nothing() -> None:
    tests = [made(3.0, 400, 1), made(3.0, 400, 2)]
    few, many = (_read([made(3.0, 400, 0), *tests], count, 0, 0) for count in (20, 300))
    assert min(many) > 0.95
    assert sum(many) > sum(few)
    nothing = _read([made(0.0, 400, 0), made(0.0, 400, 1), made(0.0, 400, 2)], 300, 0, 0)
    assert all(0.4 < auc < 0.6 for auc in nothing)


def test_a_target_that_is_not_known_is_left_out_and_one_class_has_no_auc() -> None:
    x_nf, y_n = made(3.0, 400, 0)
    hidden = y_n.copy()
    hidden[::2] = -1
    one_class = (x_nf, np.ones_like(y_n))
    inside, outside = _read([(x_nf, hidden), (x_nf, hidden), one_class], 200, 0, 0)
    assert inside > 0.95
    assert np.isnan(outside)


def test_the_command_reads_every_stage_and_says_the_same_each_time(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        words = ["probe", "--run", run, "--labels", "12,400", "--draws", 3, "--out", tmp_path / name]
        assert run_program(app, [str(word) for word in words]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = json.loads((tmp_path / "a").read_text(encoding="utf-8"))
    assert found["synthetic"] is True
    readings = found["readings"]
    assert list(dict.fromkeys(one["network"] for one in readings)) == [RANDOM, PRETRAINED, FINETUNED]
    everyone = len(Patients.of(RunModel.open(run, "full")).parts[0])
    for network in (RANDOM, PRETRAINED, FINETUNED):
        told = {(one["target"], one["patients"]): one for one in readings if one["network"] == network}
        # 400 labels there are not; all that there are, always.
        assert set(told) == {(LABEL, 12), (LABEL, everyone), *((sign, everyone) for sign in SIGNS)}
        assert told[LABEL, 12]["draws"] == 3
        assert told[LABEL, everyone]["draws"] == 1
    ranks = {one["network"]: one["rank"] for one in readings}
    assert len(set(ranks.values())) == 3  # three networks, not one three times


def test_an_arm_without_stage_one_has_no_such_row_and_sites_are_read_in_their_own_order(
    run: Path, tmp_path: Path
) -> None:
    words = ["probe", "--run", run, "--arm", "no-pretraining", "--labels", "12", "--out", tmp_path / "o"]
    assert run_program(app, [str(word) for word in words]) == 0
    readings = json.loads((tmp_path / "o").read_text(encoding="utf-8"))["readings"]
    assert {one["network"] for one in readings} == {RANDOM, FINETUNED}
    found = RunModel.open(run, "no-pretraining")
    patients = Patients.of(found)
    # The truth of the signs is that of the patient in the same place.
    for part, cases in enumerate(patients.parts):
        assert len(cases) == len(patients.target("rim", part))
        assert set(patients.target("rim", part).tolist()) <= {0, 1}
    training = patients.parts[0]
    whole = pooled_features(found.model, training)
    alone = pooled_features(found.model, CaseSet.join([training.take([2])]))
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--labels", "many"), "not a list of whole numbers"), (("--labels", "2"), "Ask for more labels")],
)
def test_a_wrong_turn_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, str], said: str
) -> None:
    assert run_program(app, ["probe", "--run", str(run), "--out", str(tmp_path / "o"), *words]) != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()
