"""What a centre gains by taking part, from made-up seeds with it, without it and of it alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_seeds import make_seed
from sklearn.metrics import roc_auc_score

from phcc_model.errors import ConfigError
from phcc_server.report.scores import read_scores, scores_csv
from phcc_simulation.cli import main
from phcc_simulation.proof.figures import Draws
from phcc_simulation.proof.runs import read_runs
from phcc_simulation.proof.taking_part import ALONE, LEFT_OUT, TAKES_PART, AtCentre, at_centre

DRAWS = Draws(200, 0.95)
SEEDS = (0, 1)
LEAVE_OUT = "data.centres.leave_out=C1"


def make_without(folder: Path, seed: int, *changes: str) -> Path:
    """A seed that leaves C1 out: all of its patients, those it would have trained on too, are external."""
    make_seed(folder, seed, {"full": 1.0}, (LEAVE_OUT, *changes))
    rows = [
        replace(row, split="external" if row.centre == "C1" else row.split)
        for row in read_scores(folder / "scores.csv")
    ]
    (folder / "scores.csv").write_text(scores_csv(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("centres")
    for seed in SEEDS:
        make_seed(out / "whole" / f"seed-{seed}", seed, {"full": 2.5, "local:C1": 0.5, "local:C2": 9.0})
        make_without(out / "without-C1" / f"seed-{seed}", seed)
    return out


def found(made: Path, without: str = "without-C1") -> AtCentre:
    return at_centre(read_runs(made / "whole")[0], read_runs(made / without)[0], DRAWS)


def area(made: Path, folder: str, arm: str, split: str) -> float:
    """Mean over seeds of an arm's AUC at C1's test patients, straight from the files."""
    areas = []
    for seed in SEEDS:
        rows = [
            row
            for row in read_scores(made / folder / f"seed-{seed}" / "scores.csv")
            if (row.arm, row.centre, row.split) == (arm, "C1", split)
            and row.label >= 0
            and row.case.startswith("test-")
        ]
        areas.append(roc_auc_score([row.label for row in rows], [row.score for row in rows]))
    return float(np.mean(areas))


def test_all_ways_are_judged_on_the_centres_own_test_patients(made: Path) -> None:
    at = found(made)
    expected = {
        TAKES_PART: area(made, "whole", "full", "test"),
        LEFT_OUT: area(made, "without-C1", "full", "external"),
        ALONE: area(made, "whole", "local:C1", "test"),
    }
    assert at.centre == "C1"
    assert {way: one.value for way, one in at.auc.items()} == pytest.approx(expected)
    # 29 of 30 test patients have a label, in two seeds; those that it trains on are not among them.
    assert {(one.n, one.seeds) for one in at.auc.values()} == {(58, SEEDS)}
    gain = at.gains[TAKES_PART, LEFT_OUT]
    assert gain.value == pytest.approx(expected[TAKES_PART] - expected[LEFT_OUT])
    assert gain.ci is not None
    assert gain.ci[0] < (gain.value or 0.0) < gain.ci[1]
    assert expected[TAKES_PART] > expected[LEFT_OUT] > expected[ALONE]


def test_a_way_that_was_not_run_is_left_open(made: Path, tmp_path: Path) -> None:
    make_seed(tmp_path / "whole" / "seed-0", 0, {"full": 2.5})
    at = at_centre(read_runs(tmp_path / "whole")[0], read_runs(made / "without-C1")[0], DRAWS)
    assert set(at.auc) == {TAKES_PART, LEFT_OUT}
    assert set(at.gains) == {(TAKES_PART, LEFT_OUT)}
    assert at.auc[LEFT_OUT].seeds == (0,)


def test_the_command_writes_page_picture_and_figures(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["taking-part", str(made / "whole"), str(made / "without-C1"), "--out", str(tmp_path)])
    assert ended.value.code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"taking-part.md", "taking-part.json", "taking-part.svg", "taking-part.png"}
    page = (tmp_path / "taking-part.md").read_text()
    assert page.startswith("# demo: what a centre gains by taking part, synthetic data\n")
    row = next(line for line in page.splitlines() if line.startswith("| C1 |"))
    assert row.count(" (0.") + row.count(" (-0.") + row.count(" (1.") == 6  # every cell has its interval
    assert b"synthetic" in (tmp_path / "taking-part.svg").read_bytes()
    figures = json.loads((tmp_path / "taking-part.json").read_text())
    assert figures["synthetic"] is True
    (one,) = figures["centres"]
    assert set(one["gains"]) == {"takes part less left out", "takes part less alone", "left out less alone"}
    assert "what a centre gains" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(made: Path, tmp_path: Path) -> None:
    make_without(tmp_path / "other-study" / "seed-0", 0, "finetune.rounds=3")
    make_without(tmp_path / "other-seed" / "seed-7", 7)
    folder = make_without(tmp_path / "other-patients" / "seed-0", 0)
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace("f" * 64, "e" * 64))
    for name, said in (
        ("other-study", r"is of another study: finetune\.rounds=3"),
        ("other-seed", "has no seed that the first folder has"),
        ("other-patients", "holds other patients than seed-0"),
    ):
        with pytest.raises(ConfigError, match=said):
            at_centre(read_runs(made / "whole")[0], read_runs(tmp_path / name)[0], DRAWS)
    with pytest.raises(ConfigError, match="leaves out no centre"):
        found(made, "whole")
    make_seed(tmp_path / "no-full" / "seed-0", 0, {"pooled": 1.0}, (LEAVE_OUT,))
    with pytest.raises(ConfigError, match="has not the arm full"):
        at_centre(read_runs(made / "whole")[0], read_runs(tmp_path / "no-full")[0], DRAWS)
    make_seed(tmp_path / "outsider" / "seed-0", 0, {"full": 1.0}, ("data.centres.leave_out=X1",))
    with pytest.raises(ConfigError, match="leaves out X1, which does not take part in seed-0 either"):
        at_centre(read_runs(made / "whole")[0], read_runs(tmp_path / "outsider")[0], DRAWS)


def test_a_centre_named_twice_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["taking-part", str(made / "whole"), *[str(made / "without-C1")] * 2, "--out", str(made)])
    assert ended.value.code == 1
    assert "leaves out C1, as another folder does" in capsys.readouterr().err.replace("\n", " ")
