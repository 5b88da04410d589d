"""A finished run's model leaves: of real hospitals, and of the simulation, whose folder holds scores as well."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CENTRES, open_sessions, tiny_study

from phcc_model.build import build_classifier, load_state
from phcc_model.checkpoint import load_checkpoint, save_checkpoint
from phcc_model.command_line import run_program
from phcc_model.errors import ConfigError, PhccError, StorageError
from phcc_model.package import ModelPackage
from phcc_model.package_schema import Threshold
from phcc_model.threshold import ScoreHistogram
from phcc_server import cli, export
from phcc_server.export import export_run, read_arm
from phcc_server.export_card import package_card
from phcc_server.ledger import Ledger, RoundRecord, ScoreCounts, read_rounds
from phcc_server.recalibration import fit_recalibration
from phcc_server.run_folder import RunFolder
from phcc_server.study_runner import StudyRunner
from phcc_simulation.federation import MemorySites

STUDY = tiny_study(evaluation={"arms": ["full", "no-pretraining"]})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("coordinator")
    run = RunFolder.create(folder / "runs", STUDY, ("Alma", "Berg", "Cork"))
    StudyRunner(run, MemorySites(open_sessions(folder / "hospitals", STUDY, CENTRES))).run()
    return run


@pytest.fixture
def simulated(finished: RunFolder, tmp_path: Path) -> Path:
    """The same run as a simulation keeps it: no request, but every score."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "simulated"))
    (folder / "request.json").unlink()
    shutil.rmtree(folder / "tests")
    draw = np.random.default_rng(3)
    with (folder / "scores.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["arm", "centre", "split", "patient", "case", "label", "score", "threshold"])
        for number in range(120):
            label = number % 2
            score = 1.0 / (1.0 + np.exp(-4.0 * draw.normal(0.5 * (2 * label - 1), 1.0)))
            rows.writerow(["full", "Alma", "validation", f"P{number}", f"P{number}", label, score, 0.5])
        rows.writerow(["full", "Alma", "train", "T", "T", 1, 0.0, 0.5])
        rows.writerow(["full", "Alma", "validation", "U", "U", -1, 0.9, 0.5])
    return folder


def test_the_model_of_real_hospitals_leaves_whole(finished: RunFolder, tmp_path: Path) -> None:
    package = export_run(finished.folder, "full", tmp_path / "package")
    ledger = [json.loads(line)["record"] for line in finished.ledger.read_text().splitlines()]
    chosen = [r for r in ledger if r["arm"] == "full" and r["stage"] == "finetune" and r["best"]][-1]
    assert package.threshold == chosen["validation"]["threshold"]
    assert package.description.weights_digest == chosen["digest_after"]
    assert package.description.stage_round == chosen["round"]
    assert "Youden" in package.description.threshold.source
    assert package.calibration is None
    assert "3 positive and 4 negative validation cases are too few" in package.description.calibration_note
    assert package.seen is None  # these hospitals' crops were made without images
    assert "no site announced it" in package.card
    assert {"onnx/model.onnx", "monai/configs/inference.json", "monai/models/model.onnx"} <= set(
        package.description.files
    )
    assert {str(p.relative_to(package.folder)) for p in package.folder.rglob("*") if p.is_file()} == {
        "package.json",
        *package.description.files,
    }
    assert "**Research use only.**" in package.card
    assert "## Model card: tiny" in package.card
    assert package.description.weights_digest in package.card
    assert (package.folder / "package.json").stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in tmp_path.iterdir()) == ["package"]

    state, _ = load_checkpoint(next(finished.checkpoints.glob(f"full/finetune-{chosen['round']:04d}.*")))
    expected = build_classifier(package.study).eval()
    load_state(expected, state)
    size = package.study.data.crop.size
    given = torch.randn(2, 2, *size), torch.tensor([[True, True], [False, True]]), torch.ones(2, *size)
    with torch.no_grad():
        assert torch.equal(package.model()(*given), expected(*given))


def test_a_package_is_the_same_every_time(finished: RunFolder, tmp_path: Path) -> None:
    first = export_run(finished.folder, "no-pretraining", tmp_path / "a", plain=True)
    again = export_run(finished.folder, "no-pretraining", tmp_path / "b", plain=True)
    other = export_run(finished.folder, "full", tmp_path / "c", plain=True)
    assert first.digest == again.digest != other.digest
    assert first.study.pretrain.rounds == 0
    assert set(first.description.files) == {"weights.safetensors", "model-card.md"}


def test_a_simulations_scores_give_the_recalibration(simulated: Path, tmp_path: Path) -> None:
    package = export_run(simulated, "full", tmp_path / "package", plain=True)
    assert package.calibration is not None
    assert 0.1 < package.calibration[1] < 0.6  # the scores were made four times too sure
    assert "60 positive and 60 negative" in package.description.calibration_note
    assert "the same that chose the round and the threshold" in package.card
    other = export_run(simulated, "no-pretraining", tmp_path / "other", plain=True)
    assert other.calibration is None
    assert "0 positive and 0 negative validation cases are too few" in other.card


def test_what_real_sites_counted_gives_the_recalibration_and_what_they_announced_the_ranges(
    finished: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(Path(shutil.copytree(finished.folder, tmp_path / "run")))
    draw = np.random.default_rng(3)
    label = np.arange(120) % 2
    score = 1.0 / (1.0 + np.exp(-4.0 * draw.normal(0.5 * (2 * label - 1), 1.0)))
    counts = ScoreHistogram.from_scores(score, label)
    seen = {"field.low": 1.5, "field.high": 3.0}
    seen |= {"enhancement.arterial.low": 0.1, "enhancement.arterial.high": 0.8}

    def changed(record: RoundRecord) -> RoundRecord:
        assert record.validation is not None
        own = ScoreCounts.of(counts.positive_k.tolist(), counts.negative_k.tolist())
        validation = record.validation.model_copy(update={"counts": {"Alma": own}, "cases": 120})
        cards = {site: card.model_copy(update={"seen": seen}) for site, card in record.cards.items()}
        return record.model_copy(update={"validation": validation, "cards": cards})

    records = [changed(record) for record in read_rounds(run.ledger)]
    for file in (run.ledger, run.ledger.with_name("ledger.jsonl.head")):
        file.unlink()
    ledger = Ledger(run.ledger)
    for record in records:
        ledger.append(record)
    package = export_run(run.folder, "full", tmp_path / "package", plain=True)
    exact, _ = fit_recalibration(label.tolist(), score.tolist())
    assert exact is not None
    assert package.calibration == pytest.approx((exact.intercept, exact.slope), abs=0.03)
    assert "60 positive and 60 negative" in package.description.calibration_note
    assert package.seen is not None
    assert (package.seen.sites, package.seen.patients) == (3, 13)
    assert "field strength: 1.5 to 3 T" in package.card
    assert "arterial against before contrast: ln 0.1 to 0.8" in package.card


def test_recalibration_is_the_joint_fit() -> None:
    draw = np.random.default_rng(1)
    logit = draw.normal(0.0, 2.0, 4000)
    label = (draw.random(4000) < 1.0 / (1.0 + np.exp(-(0.7 + 0.4 * logit)))).astype(int)
    found, _ = fit_recalibration(label.tolist(), (1.0 / (1.0 + np.exp(-logit))).tolist())
    assert found is not None
    assert found.slope == pytest.approx(0.4, abs=0.05)
    assert found.intercept == pytest.approx(0.7, abs=0.1)
    fitted = 1.0 / (1.0 + np.exp(-(found.intercept + found.slope * logit)))
    # The two equations of the maximum of the likelihood.
    assert float((label - fitted).sum()) == pytest.approx(0.0, abs=1e-3)
    assert float(((label - fitted) * logit).sum()) == pytest.approx(0.0, abs=1e-1)


@pytest.mark.parametrize(
    ("label", "score", "words"),
    [
        ([], [], "too few"),
        ([1] * 20, [0.5] * 20, "too few"),
        ([0, 1] * 20, [0.5] * 40, "all scores are equal"),
        ([0, 1] * 20, [0.2, 0.8] * 20, "separate the classes"),
        ([1, 0] * 20 + [0, 1] * 3, [0.2, 0.8] * 23, "do not rise with the outcome"),
    ],
)
def test_where_none_can_be_fitted_the_reason_is_said(
    label: list[int], score: list[float], words: str
) -> None:
    found, note = fit_recalibration(label, score)
    assert found is None
    assert words in note


def test_an_arm_without_a_report_has_a_short_card(finished: RunFolder, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    (run / "summary.json").unlink()
    card = export_run(run, "full", tmp_path / "package", plain=True).card
    assert "no figure of this model is known here" in card
    assert "**Research use only.**" in card
    assert "SYNTHETIC DATA" in card


@pytest.mark.parametrize(
    ("arm", "words"),
    [("afp", "no network"), ("ful", "did you mean full"), ("uniform", "has not finished"), ("", "no arm")],
)
def test_an_arm_that_cannot_leave_is_refused(
    finished: RunFolder, tmp_path: Path, arm: str, words: str
) -> None:
    with pytest.raises(PhccError, match=words):
        export_run(finished.folder, arm, tmp_path / "package")
    assert not list(tmp_path.iterdir())


def test_only_what_the_record_vouches_for_leaves(finished: RunFolder, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "weights"))
    best = next(path for path in sorted(run.glob("checkpoints/full/finetune-*")))
    for path in sorted(run.glob("checkpoints/full/finetune-*")):
        state, info = load_checkpoint(path)
        save_checkpoint(path, {name: array + 1 for name, array in state.items()}, info)
    with pytest.raises(StorageError, match="does not hold the weights that the ledger names"):
        read_arm(run, "full")
    best.write_bytes(best.read_bytes()[:100])

    run = Path(shutil.copytree(finished.folder, tmp_path / "ledger"))
    ledger = run / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"threshold": 0.', '"threshold": 0.1', 1))
    with pytest.raises(StorageError, match="altered"):
        read_arm(run, "full")
    ledger.unlink()
    with pytest.raises(PhccError, match="ledger"):
        read_arm(run, "full")

    run = Path(shutil.copytree(finished.folder, tmp_path / "summary"))
    (run / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"summary\.json"):
        read_arm(run, "full")


def test_nothing_that_is_there_is_written_over(finished: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(ConfigError, match="is there already"):
            export_run(finished.folder, "full", tmp_path / name, plain=True)
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export_run(finished.folder, "full", tmp_path / "empty", plain=True)
    with pytest.raises(StorageError, match="cannot be written"):
        export_run(finished.folder, "full", tmp_path / "file" / "package", plain=True)


def test_what_fails_halfway_leaves_nothing(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left on the disk")

    monkeypatch.setattr(export, "write_package", full)
    with pytest.raises(StorageError, match="no space"):
        export_run(finished.folder, "full", tmp_path / "package", plain=True)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_left(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(finished.folder), "--to", str(tmp_path / "package"), "--plain"]
    assert run_program(cli.app, words) == 0
    said = capsys.readouterr().out
    assert ModelPackage.open(tmp_path / "package").digest in said
    assert "Recalibration: none" in said
    assert "Research use only" in said
    assert run_program(cli.app, words) == 1
    assert "is there already" in capsys.readouterr().err
    assert run_program(cli.app, ["export", str(tmp_path), "--to", str(tmp_path / "p")]) == 1
    said = capsys.readouterr().err
    assert "this folder holds no run" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("phases", "pooling", "look", "find_moved", "said"),
    [
        ("shared", "gap", "own", 0.0, "places the crop.\n"),
        ("shared", "gap", "common", 0.25, "places the crop.\n"),
        ("joint", "gap+lesion+spread", "own", 0.0, "the network pools over it.\n"),
        ("joint", "gap+found+spread", "own", 0.0, "finds the lesion by itself, and is not told.\n"),
        ("shared", "gap+found+spread", "common", 0.25, "finds the lesion by itself, and is not told.\n"),
        ("shared", "gap+found+spread", "own", 0.25, "did not follow a lesion that was moved.\n"),
        ("shared", "gap+found+spread", "common", 0.0, "did not follow a lesion that was moved.\n"),
    ],
)
def test_the_card_says_what_becomes_of_the_drawn_lesion(
    phases: str, pooling: str, look: str, find_moved: float, said: str
) -> None:
    study = tiny_study(
        model={"phases": phases, "classifier": {"pooling": pooling, "look": look}},
        finetune={"find_moved": find_moved},
    )
    threshold = Threshold(value=0.4, source="a test")
    assert said in package_card(study, "full", "ab", 0, threshold, None, "", None, None)
