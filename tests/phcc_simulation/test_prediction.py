"""The command line on a tiny data set of one's own: a whole run, scores for new images, and every wrong turn."""

from __future__ import annotations

import csv
import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import TINY, merged
from sklearn.metrics import roc_auc_score

from phcc_model.command_line import run_program
from phcc_model.errors import ConfigError, DatasetError, StorageError
from phcc_model.seeds import generator
from phcc_server.report.schema import Summary
from phcc_simulation.cli import app
from phcc_simulation.prediction import score_images

ORGANS = {
    "name": "organs",
    "data": {
        "source": "medmnist",
        "phases": ["image"],
        "centres": {"mode": "iid", "count": 2},
        "split": {"validation": 0.25},
    },
    "model": {"classifier": {"features": ["absolute"], "dropout": 0.0}},
    "pretrain": {"rounds": 1},
    "finetune": {"rounds": 4, "learning_rate": 0.02},
}
Usage = namedtuple("Usage", "total used free")  # as shutil gives it


def volumes(labels: Sequence[int]) -> np.ndarray:
    """Noise; the organs of label 1 hold something bright."""
    draw = generator(0, "organs", *labels)
    images = draw.integers(0, 90, (len(labels), 8, 16, 16))
    for image, label in zip(images, labels, strict=True):
        image[2:6, 4:12, 4:12] += 140 * label
    return images.astype(np.uint8)


def write_npz(path: Path, **others: Any) -> Path:
    arrays: dict[str, Any] = {}
    for part, count in (("train", 24), ("val", 8), ("test", 10)):
        labels = [(n // 2) % 2 for n in range(count)]
        arrays |= {f"{part}_images": volumes(labels), f"{part}_labels": np.array(labels)[:, None]}
    np.savez(path, **(arrays | others))
    return path


def write_study(folder: Path, **sections: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(merged(merged(TINY, ORGANS), sections)), encoding="utf-8")
    return path


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


def simulate(capsys: pytest.CaptureFixture[str], study: Path | str, out: Path, *words: object) -> Told:
    return call(capsys, study, "--out", out, "--in-memory", "--threads", "1", "--jobs", "1", *words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, the study and a finished run of it."""
    folder = tmp_path_factory.mktemp("organs")
    npz = write_npz(folder / "organs.npz")
    study = write_study(folder, data={"path": str(npz)})
    words = ["run", str(study), "--out", str(folder / "run"), "--in-memory", "--threads", "1", "--jobs", "1"]
    assert run_program(app, words) == 0
    return folder


def scores_of(path: Path) -> list[float]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["index", "score"]
    assert [row[0] for row in rows[1:]] == [str(n) for n in range(len(rows) - 1)]
    return [float(row[1]) for row in rows[1:]]


# ---- A run, and scores for images from outside


def test_a_run_leaves_its_figures_and_its_record(place: Path) -> None:
    summary = Summary.model_validate_json((place / "run" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary.arms) == {"full"}
    assert len(summary.rounds) == 5
    for name in ("report.html", "scores.csv", "splits.json", "study.yaml", "ledger.jsonl", "progress.jsonl"):
        assert (place / "run" / name).stat().st_size > 0


def test_a_run_says_round_by_round_what_it_does_and_ends_with_a_table(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = simulate(capsys, place / "study.yaml", place / "run")  # again: all is found finished
    assert (told.code, told.err) == (0, "")
    assert "preparing cases 32/32" in told.out
    assert "full" in told.out
    assert f"report  {place / 'run' / 'report.html'}" in told.out


def test_without_validation_patients_the_last_round_is_the_model_and_one_half_the_threshold(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"path": str(place / "organs.npz"), "split": {"validation": 0.0}}
    told = simulate(capsys, write_study(tmp_path, data=data), tmp_path / "run")
    assert (told.code, told.err) == (0, "")
    assert "no round can be chosen, the last one counts" in told.out
    summary = Summary.model_validate_json((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary.arms["full"]["internal"].threshold == 0.5
    assert [r.round for r in summary.rounds if r.best and r.stage == "finetune"][-1] == 3
    out = tmp_path / "scores.csv"
    told = call(capsys, "predict", "--run", tmp_path / "run", "--npz", place / "organs.npz", "--out", out)
    assert (told.code, told.err) == (0, "")
    assert len(scores_of(out)) == 10


def test_every_image_gets_a_score_that_tells_the_classes_apart(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.csv"
    told = call(capsys, "predict", "--run", place / "run", "--npz", place / "organs.npz", "--out", out)
    assert (told.code, told.err) == (0, "")
    assert told.out == f"10 scores in {out}\n"
    scores = scores_of(out)
    labels = np.load(place / "organs.npz", allow_pickle=False)["test_labels"][:, 0]
    assert roc_auc_score(labels, scores) > 0.9  # images that no part of the run has seen
    direct = score_images(place / "run", place / "organs.npz", "test_images", "full")
    np.testing.assert_allclose(scores, direct, rtol=1e-8)
    assert ((direct > 0) & (direct < 1)).all()


@pytest.mark.parametrize(("array", "name"), [("train_images", "train"), ("val_images", "val")])
def test_the_scores_are_those_that_the_run_itself_reports(array: str, name: str, place: Path) -> None:
    with (place / "run" / "scores.csv").open(newline="", encoding="utf-8") as stream:
        reported = {row["case"]: float(row["score"]) for row in csv.DictReader(stream)}
    scores = score_images(place / "run", place / "organs.npz", array, "full")
    for index, score in enumerate(scores):
        assert score == pytest.approx(reported[f"{name}-{index:05d}"], abs=2e-5)


def test_scores_do_not_depend_on_what_stands_beside_an_image(place: Path, tmp_path: Path) -> None:
    labels = [0, 1, 1, 0, 1]
    npz = write_npz(tmp_path / "more.npz", odd_images=volumes(labels), last_images=volumes(labels)[3:])
    together = score_images(place / "run", npz, "odd_images", "full")
    np.testing.assert_allclose(
        score_images(place / "run", npz, "last_images", "full"), together[3:], atol=2e-5
    )


def test_an_image_that_cannot_be_scored_is_named(place: Path, tmp_path: Path) -> None:
    images = volumes([0, 1, 0])
    images[1] = 7
    npz = write_npz(tmp_path / "flat.npz", test_images=images)
    with pytest.raises(DatasetError, match=r"flat.npz: test_images-00001: every voxel .* has the value 7"):
        score_images(place / "run", npz, "test_images", "full")


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (
            {"run": "nowhere"},
            ConfigError,
            "nowhere: this folder holds no run. Give the --out of a finished run",
        ),
        ({"array": "images"}, DatasetError, "has no array images; it holds train_images"),
        ({"array": "test_labels"}, DatasetError, r"test_labels is int64 of shape \(10, 1\), not uint8"),
        ({"npz": "none.npz"}, DatasetError, "none.npz: there is no such file"),
        ({"npz": "study.yaml"}, DatasetError, "study.yaml: is no readable .npz file"),
        ({"arm": "afp"}, ConfigError, "--arm afp: this arm trains no network of its own"),
        ({"arm": "ful"}, ConfigError, "there is no arm 'ful' in this study .did you mean full"),
        ({"arm": "mean"}, StorageError, "mean: this arm has not finished. Resume the run"),
    ],
)
def test_what_cannot_be_scored_is_told_in_one_line(
    changed: dict[str, str],
    error: type[Exception],
    words: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = {"run": "run", "npz": "organs.npz", "array": "test_images", "arm": "full"} | changed
    run, npz = place / asked["run"], place / asked["npz"]
    with pytest.raises(error, match=words):
        score_images(run, npz, asked["array"], asked["arm"])
    out = tmp_path / "scores.csv"
    options = ["--array", asked["array"], "--arm", asked["arm"], "--out", out]
    told = call(capsys, "predict", "--run", run, "--npz", npz, *options)
    assert told.code == 1
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
    assert not out.exists()


def test_a_run_without_its_splits_is_told(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(place / "run" / "study.yaml", run)
    with pytest.raises(StorageError, match="stopped before its patients were dealt"):
        score_images(run, place / "organs.npz", "test_images", "full")


def test_a_damaged_model_is_told(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    for file in (run / "checkpoints" / "full").glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    with pytest.raises(StorageError, match=r"cannot be used: its arrays do not match their digest"):
        score_images(run, place / "organs.npz", "test_images", "full")


# ---- Wrong turns of the command line: one line, exit code 1, nothing half made


WRONG: dict[str, tuple[list[str], str]] = {
    "an unknown key": (
        ["--set", "finetune.round=3"],
        "finetune.round: unknown key (did you mean finetune.rounds?)",
    ),
    "a wrong value": (["--set", "finetune.rounds=many"], "finetune.rounds: should be a valid integer"),
    "no assignment": (["--set", "seed"], "--set seed: is not of the form key.path=value"),
    "a missing data folder": (["--set", "data.path=/nowhere/x.npz"], "/nowhere/x.npz: there is no such file"),
    "more centres than patients": (["--set", "data.centres.count=40"], "40"),
    "an unknown arm": (["--arm", "ful"], "there is no arm 'ful' in this study (did you mean full?)"),
    "a phase that the study has not": (["--arm", "phase:arterial"], "there is no arm 'phase:arterial'"),
    "a centre that trains not": (["--arm", "local:virtual-9"], "there is no arm 'local:virtual-9'"),
    "a quorum that cannot be met": (
        ["--set", "federation.minimum_sites=3"],
        "federation.minimum_sites: a round needs 3 sites, but only 2 train",
    ),
    "a required site that is not there": (
        ["--set", "federation.required_sites=[Alma]"],
        "federation.required_sites: Alma is not among the training sites",
    ),
    "a reader that wants phases": (
        ["--set", "data.phases=[arterial]"],
        "has one image per case and no phases",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_turn_is_one_line(
    wrong: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = WRONG[wrong]
    told = simulate(capsys, place / "study.yaml", tmp_path / "run", *words)
    assert told.code == 1
    assert told.err.startswith("error: ")
    assert len(told.err.splitlines()) == 1
    assert said in told.err
    assert not (tmp_path / "run" / "ledger.jsonl").exists()  # nothing was trained


def test_an_empty_data_folder_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["--set", "data.source=nifti-csv", "--set", f"data.path={tmp_path / 'empty'}"]
    told = simulate(capsys, place / "study.yaml", tmp_path / "run", *words)
    assert (told.code, told.err) == (
        1,
        f"error: {tmp_path / 'empty'}: the folder is empty. Check data.path.\n",
    )


def test_a_study_that_does_not_exist_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = simulate(capsys, "dmo", tmp_path / "run")
    assert told.code == 1
    assert told.err.startswith("error: dmo: is neither a study file nor a shipped study. Give a .yaml file")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_before_anything_is_begun(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 3 * 2**20))
    told = simulate(capsys, place / "study.yaml", tmp_path / "run")
    assert told.code == 1
    assert told.err == (
        f"error: {tmp_path / 'run'}: only 3 MiB are free on this disk. Free some space first.\n"
    )
    assert not (tmp_path / "run" / "sites").exists()


def test_a_folder_that_is_a_file_is_told(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("no folder")
    told = simulate(capsys, place / "study.yaml", tmp_path / "run")
    assert told.code == 1
    assert "the run's folder cannot be written" in told.err
    assert (tmp_path / "run").read_text() == "no folder"


def test_a_folder_of_another_study_is_refused_and_left_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    told = simulate(capsys, place / "study.yaml", run, "--set", "finetune.rounds=5")
    assert told.code == 1
    assert "this folder holds the run of another study, or of this one configured otherwise" in told.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_wrong_use_is_told_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    told = call(capsys, "demo")
    assert told.code == 2
    assert "Missing option '--out'" in told.err


def test_arms_can_be_added_to_a_finished_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    told = simulate(capsys, place / "study.yaml", run, "--arm", "full", "--arm", "no-pretraining")
    assert (told.code, told.err) == (0, "")
    summary = Summary.model_validate_json((run / "summary.json").read_text(encoding="utf-8"))
    assert set(summary.arms) == {"full", "no-pretraining"}


def test_scores_that_cannot_be_written_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "no" / "folder" / "scores.csv"
    told = call(capsys, "predict", "--run", place / "run", "--npz", place / "organs.npz", "--out", out)
    assert told.code == 1
    assert str(out) in told.err
    assert "fault of the program" not in told.err
