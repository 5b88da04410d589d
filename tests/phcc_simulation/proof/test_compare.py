"""What an arm costs, and one study's arms side by side under several conditions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_seeds import make_seed

from phcc_model.errors import ConfigError
from phcc_simulation.cli import main
from phcc_simulation.proof.combine import combine
from phcc_simulation.proof.compare import Condition, comparison, picture, refuse_unlike
from phcc_simulation.proof.runs import read_runs
from phcc_simulation.proof.text import markdown
from phcc_simulation.proof.work import works_of

SKEW = "data.centres.mode=dirichlet"
STRENGTHS = {"scanners": {"full": 1.0, "fedprox": 3.5, "int8": 1.0}, "labels": {"full": 3.5, "fedprox": 1.0}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("conditions")
    for name, strength in STRENGTHS.items():
        for seed in (0, 1):
            changes = (SKEW,) if name == "labels" else ()
            make_seed(out / name / f"seed-{seed}", seed, strength, changes)
    return out


def condition(made: Path, name: str) -> Condition:
    runs, left_out = read_runs(made / name)
    return Condition(name, runs[0].study, combine(runs, left_out, replicates=200))


def test_an_arm_costs_what_its_ledgers_say(tmp_path: Path) -> None:
    make_seed(tmp_path / "seed-0", 0, {"full": 2.0, "given": 2.0, "uniform": 2.0, "pooled": 2.0, "afp": 1.0})
    runs, left_out = read_runs(tmp_path)
    costs = {work.arm: work for work in works_of(runs)}
    # One place sends nothing, and a baseline trains nothing; concat has its pre-training from full.
    assert set(costs) == {"full", "given", "uniform"}
    assert (costs["full"].bytes_up, costs["full"].bytes_down, costs["full"].seconds) == (9e3, 27e3, 18.0)
    assert costs["given"].bytes_up == 9e3
    assert costs["uniform"].bytes_up == 5e3
    assert costs["full"].rounds == (runs[0].study.pretrain.rounds, runs[0].study.finetune.rounds)
    text = markdown(combine(runs, left_out, replicates=20), [])
    assert "## What an arm costs, synthetic data" in text
    assert "| 9.0 kB | 27.0 kB | 18.0 s |" in text


def test_the_same_difference_stands_with_the_other_sign(made: Path) -> None:
    one = condition(made, "scanners")
    delta, turned = one.found.delta("full", "fedprox", "external"), one.delta("fedprox")
    assert delta is not None
    assert turned is not None
    assert delta.value is not None
    assert delta.ci is not None
    assert turned.value == -delta.value
    assert turned.ci == (-delta.ci[1], -delta.ci[0])
    assert one.delta("scaffold") is None


def test_better_and_worse_are_named_with_their_condition(made: Path) -> None:
    found = [condition(made, name) for name in STRENGTHS]
    text = comparison(found)
    assert text.startswith("# demo under 2 conditions: scanners, labels, synthetic data\n")
    assert 'data.centres.mode="by-centre"; seeds 0, 1' in text
    assert 'data.centres.mode="dirichlet"; seeds 0, 1' in text
    assert "Better than full, by an interval that leaves out 0: fedprox (scanners)." in text
    assert "Worse than full, by an interval that leaves out 0: fedprox (labels)." in text
    # int8 is full, rounded otherwise: the yardstick of chance.
    assert "Otherwise rounded on its way, and else the same method as full: int8 " in text
    row = next(line for line in text.splitlines() if line.startswith("| int8 |"))
    assert row.split(" | ")[2] == "–"  # not run under the second condition
    assert row.endswith(" of 1 |")
    drawn = picture(found)
    assert b"synthetic" in drawn.picture.document.encode()
    assert drawn.png.startswith(b"\x89PNG")


def test_the_command_writes_page_and_picture(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *(str(made / name) for name in STRENGTHS), "--out", str(tmp_path)])
    assert ended.value.code == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"comparison.md", "comparison.json", "comparison.svg", "comparison.png"}
    figures = json.loads((tmp_path / "comparison.json").read_text())
    assert {name: one["synthetic"] for name, one in figures.items()} == dict.fromkeys(STRENGTHS, True)
    assert "under 2 conditions" in capsys.readouterr().out


def test_one_condition_is_none_to_compare(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folders in (["scanners"], ["scanners", "scanners"]):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *(str(made / name) for name in folders), "--out", str(made)])
        assert ended.value.code == 1
        assert "two folders or more" in capsys.readouterr().err.replace("\n", " ")


def test_what_is_not_one_study_is_refused(made: Path, tmp_path: Path) -> None:
    make_seed(tmp_path / "other" / "seed-0", 0, STRENGTHS["scanners"], ("name=other",))
    make_seed(tmp_path / "bare" / "seed-0", 0, {"fedprox": 1.0, "int8": 1.0})
    first = condition(made, "scanners")
    for name, said in (("other", "other is of other"), ("bare", "bare has not both full and another arm")):
        with pytest.raises(ConfigError, match=said):
            refuse_unlike([first, condition(tmp_path, name)])
