"""Several studies' claims in one table: every figure is the study's own, and what was not run is a dash."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_seeds import make_seed

from phcc_model.command_line import run_program
from phcc_simulation.cli import app
from phcc_simulation.proof.commands import combine_seeds
from phcc_simulation.proof.schema import Combined
from phcc_simulation.proof.text import found_in_words

FIRST = {"full": 3.0, "no-pretraining": 0.5, "full+labels-10": 2.0, "no-pretraining+labels-10": 0.5}
SECOND = {"full": 3.0, "no-pretraining": 3.0, "afp": 0.2}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Combined]:
    out = tmp_path_factory.mktemp("studies")
    found = {}
    for name, strength, seeds in (("first", FIRST, (0, 1, 2)), ("second", SECOND, (4, 7))):
        for seed in seeds:
            arms = {k: v for k, v in strength.items() if seed or "labels" not in k}
            make_seed(out / name / f"seed-{seed}", seed, arms)
        found[str(out / name)] = combine_seeds(out / name, replicates=50)
    return found


def call(*words: object) -> int:
    return run_program(app, [*map(str, words)])


def cells_of(page: str) -> dict[str, list[str]]:
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in page.splitlines() if row.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_every_study_is_a_column_of_its_own_figures(studies: dict[str, Combined], tmp_path: Path) -> None:
    assert call("claims", *studies, "--out", tmp_path / "claims.md") == 0
    page = (tmp_path / "claims.md").read_text()
    assert page.startswith("# Claims, external test, synthetic data\n")
    cells = cells_of(page)
    assert cells["claim"] == ["wanted", "first, seeds 0 to 2", "second, seeds 4, 7"]
    for at, found in enumerate(studies.values(), 1):
        for claim in found.claims:
            words = found_in_words(claim).replace(">", "\\>")
            assert cells[claim.claim][at].strip("*") == words
            bold = cells[claim.claim][at].startswith("**")
            assert bold == (claim.verdict == "holds")
    assert next(iter(studies.values())).claims[0].verdict == "holds"
    assert cells["full − afp"][1] == "–"


def test_what_pretraining_adds_with_fewer_labels_has_its_row(
    studies: dict[str, Combined], tmp_path: Path
) -> None:
    assert call("claims", *studies, "--out", tmp_path / "claims.md") == 0
    row = cells_of((tmp_path / "claims.md").read_text())["full+labels-10 − no-pretraining+labels-10"]
    found = next(iter(studies.values())).delta("full+labels-10", "no-pretraining+labels-10", "external")
    assert found is not None
    assert found.value is not None
    assert row[1].startswith(f"{found.value:+.3f} (")
    assert row[1].endswith(", on 2 of 3 seeds")
    assert row[2] == "–"


def test_wrong_turns_end_in_one_line(
    studies: dict[str, Combined], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(studies))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "combined.json").write_text("{}")
    for folders, words in (
        ((first, tmp_path / "nothing"), "the study's figures are not there"),
        ((first, damaged), "does not hold a study's figures"),
        ((first, first), "two folders are of one name"),
    ):
        assert call("claims", *folders, "--out", tmp_path / "claims.md") == 1
        told = capsys.readouterr().err
        assert words in told
        assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "claims.md").exists()
