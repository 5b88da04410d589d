"""A finished run before the second phantom: prepared and scored as the run did it, nothing of the run changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from phcc_client.imaging.dataset import stack
from phcc_client.imaging.preprocess import prepare
from phcc_client.imaging.readers import read_cases
from phcc_client.splits import read_splits
from phcc_model.command_line import run_program
from phcc_model.config import PhantomSettings
from phcc_model.study_file import dump_study, load_study
from phcc_model.training.predict import predict
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.schema import EXTERNAL, Summary
from phcc_server.report.scores import read_scores
from phcc_simulation.cli import app
from phcc_simulation.finished import RunModel
from phcc_simulation.judge_patients import judge_settings
from phcc_simulation.judge_seeds import JudgedSeeds
from phcc_simulation.phantom import SECOND_VERSION
from phcc_simulation.phantom.oracle import best_possible_auc

TINY = {
    "data.phantom.patients": "24",
    "data.phantom.external_patients": "12",
    "data.phantom.training_centres": "2",
    "data.crop.size": "[6, 16, 16]",
    "data.crop.spacing_mm": "[6.0, 4.8, 4.8]",
    "model.size": "custom",
    "model.depths": "[1, 1]",
    "model.dims": "[8, 16]",
    "model.stem": "[1, 2, 2]",
    "model.downsample": "[[2, 2, 2]]",
    "model.decoder_width": "16",
    "model.classifier.width": "16",
    "pretrain.rounds": "1",
    "finetune.rounds": "1",
    "evaluation.bootstrap": "0",
}
ARMS = ("full", "no-pretraining", "full+afp", "phase:arterial", "afp")
PATIENTS = 25


class Told:
    """What a command printed."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code = code
        self.out: str = captured.out
        self.err: str = captured.err


def call(capsys: pytest.CaptureFixture[str], *words: object) -> Told:
    capsys.readouterr()
    code = run_program(app, [str(word) for word in words])
    return Told(code, capsys.readouterr())


def files_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def words_of(command: Sequence[object], arms: Sequence[str]) -> list[str]:
    said = [*map(str, command), *(f"--set={key}={value}" for key, value in TINY.items())]
    return [*said, *(f"--arm={arm}" for arm in arms)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge") / "run"
    command = ("demo", "--out", folder, "--in-memory", "--threads", "1", "--jobs", "1")
    assert run_program(app, words_of(command, ARMS)) == 0
    return folder


@pytest.fixture(scope="module")
def judged(run: Path) -> Path:
    """Judged once, by the command; the run is what it was before."""
    out = run.parent / "judged"
    before = files_of(run)
    assert (
        run_program(app, ["judge", str(run), "--out", str(out), "--patients", str(PATIENTS), "--jobs", "1"])
        == 0
    )
    assert files_of(run) == before
    return out


def of_arm(judged: Path, arm: str) -> dict[str, ScoredCase]:
    return {row.case: row for row in read_scores(judged / "scores.csv") if row.arm == arm}


def test_every_arm_scores_the_same_new_patients(run: Path, judged: Path) -> None:
    known = {place.patient for place in read_splits(run / "splits.json").places}
    full = of_arm(judged, "full")
    assert len(full) == PATIENTS
    assert {row.centre for row in full.values()} == {"J1", "J2", "J3", "J4", "J5"}
    assert {row.split for row in full.values()} == {EXTERNAL}
    assert not {row.patient for row in full.values()} & known
    for arm in ARMS:
        scored = of_arm(judged, arm)
        # Of a single phase the examinations that lack it are left out, as in the run.
        assert scored.keys() <= full.keys() if arm == "phase:arterial" else scored.keys() == full.keys()
        assert all(row.label == full[case].label for case, row in scored.items())
    truth = {row["patient"]: row for row in _signs(judged)}
    assert {p: int(truth[p]["proliferative"]) for p in truth} == {r.patient: r.label for r in full.values()}


def _signs(judged: Path) -> list[dict[str, str]]:
    lines = (judged / "data" / "truth" / "signs.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


@pytest.mark.parametrize("arm", ["full", "phase:arterial"])
def test_a_network_scores_them_as_they_would_be_prepared_for_it(run: Path, judged: Path, arm: str) -> None:
    """By another way: each file read and prepared by itself, for this arm's study."""
    found = RunModel.open(run, arm)
    raws = read_cases(found.plan.study.data, judged / "data").cases[:4]
    cases = stack(raws, [prepare(raw, found.plan.study.data) for raw in raws])
    expected = expit(predict(found.model, cases, device=torch.device("cpu")).astype(np.float64))
    rows = of_arm(judged, arm)
    np.testing.assert_allclose([rows[raw.case].score for raw in raws], expected, rtol=1e-5)


def test_thresholds_and_baselines_are_those_of_the_run(run: Path, judged: Path) -> None:
    before = {row.arm: row.threshold for row in read_scores(run / "scores.csv")}
    for arm in ARMS:
        assert {row.threshold for row in of_arm(judged, arm).values()} == {before[arm]}
    # The same AFP gets the same score: the baseline was fitted on the run's patients alone.
    of_run = sorted(
        (_afp(run)[r.patient], r.score) for r in read_scores(run / "scores.csv") if r.arm == "afp"
    )
    of_judge = [(_afp(judged)[row.patient], row.score) for row in of_arm(judged, "afp").values()]
    both = sorted(of_run + of_judge)
    scores = [score for _, score in both]
    assert scores in (sorted(scores), sorted(scores, reverse=True))


def _afp(folder: Path) -> dict[str, float]:
    lines = (folder / "data" / "clinical.csv").read_text().splitlines()[1:]
    return {line.split(",")[0]: float(line.split(",")[3]) for line in lines}


def test_the_summary_holds_every_figure(run: Path, judged: Path) -> None:
    summary = Summary.model_validate_json((judged / "summary.json").read_text())
    study = load_study(run / "study.yaml")
    assert tuple(summary.arms) == ARMS
    assert summary.data.synthetic
    assert summary.centres == ("J1", "J2", "J3", "J4", "J5")
    for arm in ("full", "afp"):
        rows = of_arm(judged, arm).values()
        area = roc_auc_score([row.label for row in rows], [row.score for row in rows])
        assert summary.arms[arm][EXTERNAL].auc == pytest.approx(area)
        assert summary.arms[arm][EXTERNAL].ci is not None
    pairs = {pair.b for pair in summary.paired if (pair.a, pair.split) == ("full", EXTERNAL)}
    assert pairs == set(ARMS) - {"full"}
    assert summary.best_possible_auc == best_possible_auc(study.data.phantom)
    assert summary.digests["study"] == study.digest
    assert {
        f"weights.{arm}" for arm in ("full", "no-pretraining", "phase:arterial")
    } <= summary.digests.keys()
    page = (judged / "judge.md").read_text()
    assert "synthetic data" in page.splitlines()[0]
    first = Summary.model_validate_json((run / "summary.json").read_text()).arms["full"][EXTERNAL].auc
    row = next(line for line in page.splitlines() if line.startswith("| full |"))
    assert row.split("|")[2].strip().startswith(f"{first:.3f}")
    assert row.split("|")[3].strip().startswith(f"{summary.arms['full'][EXTERNAL].auc:.3f}")


def test_the_judges_patients_are_the_runs_disease_on_other_scanners(run: Path) -> None:
    study = load_study(run / "study.yaml")
    settings = judge_settings(study, 500)
    assert (settings.scanners, settings.patients, settings.external_patients) == ("second", 400, 100)
    assert settings.seed != study.data.phantom.seed
    other = study.model_copy(update={"seed": study.seed + 1})
    assert judge_settings(other, 500).seed != settings.seed
    where = {"scanners", "seed", "patients", "external_patients", "training_centres"}
    same = set(PhantomSettings.model_fields) - where
    assert all(getattr(settings, name) == getattr(study.data.phantom, name) for name in same)
    PhantomSettings.model_validate(settings.model_dump())


def test_a_second_start_changes_nothing_and_other_weights_are_refused(
    run: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "again"
    shutil.copytree(judged, out)
    words = ("--out", out, "--patients", PATIENTS, "--jobs", 1)
    assert call(capsys, "judge", run, *words).code == 0
    for name in ("scores.csv", "judge.md", "summary.json"):
        assert (out / name).read_bytes() == (judged / name).read_bytes()
    told = call(capsys, "judge", run, *words[:-4], "--patients", 30, "--jobs", 1)
    assert told.code == 1
    assert "other settings" in told.err
    summary = json.loads((out / "summary.json").read_text())
    summary["digests"]["weights.full"] = "0" * 64
    (out / "summary.json").write_text(json.dumps(summary))
    told = call(capsys, "judge", run, *words, "--arm", "full")
    assert told.code == 1
    assert "holds a judgement in which weights.full was another" in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_progress_is_shown(
    judged: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(judged / "data", tmp_path / "out" / "data")
    told = call(
        capsys, "judge", run, "--out", tmp_path / "out", "--patients", PATIENTS, "--arm", "afp", "--jobs", 1
    )
    assert told.code == 0
    for what in (
        f"writing the second phantom {PATIENTS}/{PATIENTS}",
        f"preparing cases {PATIENTS}",
        "scoring arms 1/1",
    ):
        assert what in told.out
    assert "The planted truth itself" in told.out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    told = call(capsys, "judge", *words)
    assert told.code == 1
    assert len(told.err.strip().splitlines()) == 1
    return told.err


def test_every_wrong_turn_ends_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out", "--patients", 20)
    assert "this folder holds no run" in refused(capsys, tmp_path / "nothing", *out)
    assert "lies in the run's own folder" in refused(capsys, run, "--out", run / "judge")
    assert "not finished: uniform" in refused(capsys, run, *out, "--arm", "uniform", "--arm", "afp")
    assert "did you mean full?" in refused(capsys, run, *out, "--arm", "fulll")
    study = load_study(run / "study.yaml")
    second = study.data.phantom.model_copy(update={"scanners": "second"})
    own = study.model_copy(update={"data": study.data.model_copy(update={"phantom": second})})
    outside = study.model_copy(update={"data": study.data.model_copy(update={"source": "nifti-csv"})})
    for name, changed, words in (
        ("own", own, "would judge itself"),
        ("outside", outside, "the second phantom's are others"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "study.yaml").write_text(dump_study(changed), encoding="utf-8")
        assert words in refused(capsys, folder, *out)
    assert not (tmp_path / "out").exists()


def test_seeds_are_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds without a network, one's arms in two folders: each its own patients, then one table."""
    study, out = tmp_path / "study", tmp_path / "judged"
    folders = {"seed-1": ("afp", "ratio"), "seed-2": ("afp",), "seed-2-more": ("ratio",)}
    for name, arms in folders.items():
        command = ("demo", "--out", study / name, "--in-memory", "--threads", "1", "--jobs", "1")
        seeds = (f"--set=seed={name[5]}", f"--set=data.phantom.seed={name[5]}")
        assert call(capsys, *words_of(command, arms), *seeds).code == 0
    (study / "seed-3").mkdir()
    asked = ("judge", study, "--out", out, "--patients", 30, "--jobs", 1)
    assert "arms of seed 2 lie in several folders" in refused(capsys, *asked[1:], "--arm", "afp")
    told = call(capsys, *asked)
    assert told.code == 0, told.err
    assert "seed 2, 2 of 2" in told.out
    found = JudgedSeeds.model_validate_json((out / "judge.json").read_text())
    assert (found.phantom_version, found.left_out, found.synthetic) == (SECOND_VERSION, ("seed-3",), True)
    assert [one.arm for one in found.arms] == ["afp", "ratio"]
    phantoms = {one.digests["phantom"] for one in found.seeds}
    assert len(phantoms) == 2
    for one in found.arms:
        for figure, folder in ((one.first, study), (one.second, out)):
            of_arm = [name for name, arms in folders.items() if one.arm in arms]
            each = [_area(folder / name / "scores.csv", one.arm) for name in of_arm]
            assert figure.each == pytest.approx(each)
            assert figure.value == pytest.approx(np.mean(each))
            assert figure.ci is not None
            assert figure.ci[0] <= figure.value <= figure.ci[1]
    assert [one.patients for one in found.seeds] == [30, 30]
    assert found.differences == ()  # the arm full was not run
    page = (out / "judge.md").read_text()
    assert page.startswith("# demo: 2 seeds judged by the second phantom, synthetic data")


def _area(scores: Path, arm: str) -> float:
    rows = [row for row in read_scores(scores) if (row.arm, row.split) == (arm, EXTERNAL)]
    return float(roc_auc_score([row.label for row in rows], [row.score for row in rows]))
