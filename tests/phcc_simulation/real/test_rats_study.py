from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_curves import write_centres

from phcc_model.errors import DatasetError
from phcc_simulation.cli import main
from phcc_simulation.real import rats_command, rats_study
from phcc_simulation.real.rats import Scans, read_rats
from phcc_simulation.real.rats_schema import BASELINE, FEDERATED, HEAD, RatsResult
from phcc_simulation.real.rats_study import folds, leave_one_out
from phcc_simulation.real.temporal import HeadSettings


def quick() -> list[HeadSettings]:
    return [HeadSettings(rounds=1, local_epochs=1), HeadSettings(rounds=4, local_epochs=3)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rats_study, "candidates", quick)
    monkeypatch.setattr(rats_command, "candidates", quick)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_centres(tmp_path_factory.mktemp("curves"))


def test_the_held_out_centre_plays_no_part_in_what_is_fitted_or_chosen(folder: Path) -> None:
    scans = read_rats([folder]).scans
    ((whole, logits),) = leave_one_out(scans, ["B"], [0, 1], lambda _: None)
    held = np.flatnonzero(np.array(scans.centre) == "B")
    ratio_nt, label_n = scans.ratio_nt.copy(), scans.label_n.copy()
    ratio_nt[held[1:]] = 1.0 + np.random.default_rng(0).random(ratio_nt[held[1:]].shape)
    label_n[held] = 1 - label_n[held]
    other = replace(scans, ratio_nt=ratio_nt, label_n=label_n)
    ((changed, again),) = leave_one_out(other, ["B"], [0, 1], lambda _: None)
    assert changed.choice == whole.choice
    for arm, logit_sn in logits.logits.items():
        np.testing.assert_allclose(again.logits[arm][:, 0], logit_sn[:, 0], atol=1e-5)
        assert again.logits[arm].shape == logit_sn.shape == (1 if arm == BASELINE else 2, len(held))


def test_what_is_chosen_is_the_best_by_the_training_centres(folder: Path) -> None:
    for found, _ in leave_one_out(read_rats([folder]).scans, ["A", "C"], [0], lambda _: None):
        areas = [area for area, _ in found.choice]
        assert areas[found.chosen] == max(areas)
        assert [arm.arm for arm in found.arms] == [BASELINE, HEAD, FEDERATED]
        assert found.arms[0].auc == 1.0  # made up so that the classes lie apart
        assert (found.facts.scans, found.facts.animals, found.facts.inhibited) == (12, 6, 3)


@pytest.mark.parametrize("centres", ["A", "AB", "ABC"])
def test_no_animal_stands_on_both_sides(folder: Path, centres: str) -> None:
    scans = read_rats([folder]).scans.of(list(centres))
    judged: list[str] = []
    for learn, test in folds(scans):
        assert not set(learn.animal) & set(test.animal)
        assert len(learn) + len(test) == len(scans)
        judged += test.name
    assert sorted(judged) == sorted(scans.name)


def test_what_cannot_be_left_out(folder: Path) -> None:
    scans = read_rats([folder]).scans

    def run(given: Scans, centre: str) -> None:
        list(leave_one_out(given, [centre], [0], lambda _: None))

    with pytest.raises(DatasetError, match="all scans are of one centre, A"):
        run(scans.of(["A"]), "A")
    with pytest.raises(DatasetError, match=r"no scan of this centre.*Choose among A, B, C"):
        run(scans, "Z")
    healthy = replace(
        scans, label_n=np.where(np.array(scans.centre) == "A", scans.label_n, 0).astype(np.int8)
    )
    with pytest.raises(DatasetError, match="of all other centres are of one class"):
        run(healthy, "A")


def test_the_command_writes_figures_page_and_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path) -> RatsResult:
        words = ["rats", str(folder), "--out", str(out), "--seeds", "5,6", "--centre", "A", "--centre", "B"]
        monkeypatch.setattr("sys.argv", ["phcc-simulate", *words])
        with pytest.raises(SystemExit, match="0"):
            main()
        return RatsResult.model_validate_json((out / "rats.json").read_text())

    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    assert one.model_copy(update={"seconds": 0.0}) == two.model_copy(update={"seconds": 0.0})
    rows = list(csv.DictReader((tmp_path / "one" / "scores.csv").read_text().splitlines()))
    assert len(rows) == 2 * 12 * (1 + 2 + 2)
    assert {row["seed"] for row in rows if row["score"] == HEAD} == {"5", "6"}
    page = (tmp_path / "one" / "rats.md").read_text()
    for text in (one.data, one.study, one.scores, "--seeds 5,6 --centre A --centre B", "| A | head |"):
        assert text in page
    assert json.loads((tmp_path / "one" / "rats.json").read_text())["seeds"] == [5, 6]
