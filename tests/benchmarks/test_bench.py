"""The benchmarks run, at sizes that say nothing; what they print and keep; what is called lost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import all_rows
import bench_aggregation
import bench_clients
import bench_depthwise
import bench_images
import bench_rounds
import bench_scale
import bench_step
import bench_wire
import pytest
import torch
from bench import Ratio, Run, Times, entries, in_turns, of_turns, options, ratio
from hypothesis import given
from hypothesis import strategies as st

import results
from phcc_model.errors import RoundError

MAINS = {
    "step": (bench_step.main, 8),
    "depthwise": (bench_depthwise.main, 2),
    "aggregation": (bench_aggregation.main, 3),
    "wire": (bench_wire.main, 4),
    "images": (bench_images.main, 5),
    "clients": (bench_clients.main, 1),
}
"""And how many figures each has."""


def run_tiny(main: Callable[[list[str]], int], history: Path) -> int:
    try:
        return main(["--tiny", "--repeats", "1", "--threads", "1", "--history", str(history)])
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("name", MAINS)
def test_a_benchmark_runs_and_prints_well_formed_lines(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, figures = MAINS[name]
    assert run_tiny(main, tmp_path / "history.jsonl") == 0
    shown = capsys.readouterr().out.splitlines()
    lines = [all_rows.LINE.match(line) for line in shown if line.startswith("BENCH ")]
    kept = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(lines) == len(kept) == figures
    for line, entry in zip(lines, kept, strict=True):
        assert line is not None
        assert line["name"] == entry["name"]
        assert entry["name"].startswith("tiny-")
        assert float(line["value"]) == pytest.approx(entry["value"], rel=1e-3)
        assert (line["met"] == "met") == entry["met"]


@pytest.mark.process
def test_rounds_are_carried_by_flower_and_by_memory_in_turns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tiny(bench_rounds.main, tmp_path / "history.jsonl") == 0
    shown = capsys.readouterr().out
    assert "a reply is the same to the bit" in shown
    assert sum(line.startswith("BENCH tiny-round-against-memory ") for line in shown.splitlines()) == 1


def a_run(folder: Path, busy: float = 0.0, threads: int = 2) -> Run:
    return Run(folder / "history.jsonl", threads, tiny=False, busy=busy)


@pytest.mark.parametrize(
    ("first", "second", "at_most", "lost"),
    [
        (Ratio(4.0, 0.1), Ratio(3.8, 0.1), False, True),
        (Ratio(4.0, 0.1), Ratio(3.8, 0.3), False, False),
        (Ratio(4.0, 0.3), Ratio(3.8, 0.1), False, False),
        (Ratio(4.0, 0.1), Ratio(4.4, 0.1), False, False),
        (Ratio(4.0, 0.1), Ratio(4.4, 0.1), True, True),
        (4.0, 3.7, False, False),
        (4.0, 3.5, False, True),
    ],
)
def test_a_figure_is_lost_where_it_is_worse_by_more_than_the_spread(
    first: Ratio | float, second: Ratio | float, at_most: bool, lost: bool,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for value in (first, second):
        a_run(tmp_path).tell("speed", value, 3.0, "times", at_most=at_most)
    once, again = (all_rows.LINE.match(line) for line in capsys.readouterr().out.splitlines())
    assert once is not None
    assert again is not None
    assert once["lost"] is None
    assert (again["lost"] is not None) == lost


def test_only_quiet_figures_of_the_same_conditions_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run(tmp_path, threads=1).tell("speed", Ratio(9.0, 0.1), 3.0, "other threads")
    a_run(tmp_path, busy=1.0).tell("speed", Ratio(9.0, 0.1), 3.0, "a busy machine")
    a_run(tmp_path).tell("speed", Ratio(4.0, 0.1), 3.0, "the first that counts")
    a_run(tmp_path, busy=1.0).tell("speed", Ratio(2.0, 0.1), 3.0, "says nothing")
    assert "lost" not in capsys.readouterr().out
    a_run(tmp_path).tell("speed", Ratio(2.0, 0.1), 3.0, "after the one that counts")
    assert "short lost, 4 before" in capsys.readouterr().out


def test_a_history_of_an_earlier_version_or_cut_off_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"name": "speed", "value": 9.0, "goal": 8, "met": True, "machine": "x86_64, 2 cores", "load": 0.1}
    (tmp_path / "history.jsonl").write_text(json.dumps(old) + '\n{"name": "speed", "val\n[]\n')
    a_run(tmp_path).tell("speed", Ratio(2.0, 0.1), 3.0, "nothing to compare with")
    assert "lost" not in capsys.readouterr().out


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=2, max_size=9))
def test_a_ratio_lies_among_its_turns_whatever_the_machine_did(turns: list[tuple[float, float]]) -> None:
    above, below = (tuple(side) for side in zip(*turns, strict=True))
    found = ratio(Times(above, above), Times(below, below))
    each = [a / b for a, b in turns]
    assert min(each) <= found.value <= max(each)
    assert 0.0 <= 2 * found.spread <= max(each) - min(each)
    slower = [factor * (1 + i) for i, factor in enumerate(above)], [f * (1 + i) for i, f in enumerate(below)]
    again = ratio(*(Times(tuple(side), tuple(side)) for side in slower))
    assert again.value == pytest.approx(found.value)


def test_a_single_turn_has_no_spread() -> None:
    assert of_turns([3.0]) == Ratio(3.0, 0.0)


def test_sides_run_in_turns_and_the_first_does_not_count() -> None:
    order: list[str] = []
    times = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4
    assert {name: len(each.walls) for name, each in times.items()} == {"a": 3, "b": 3}


def test_rows_of_one_benchmark_are_one_process() -> None:
    assert all_rows.commands([1, 3, 4]) == [["bench_step.py", "--row", "1", "4"], ["bench_depthwise.py"]]
    assert len(all_rows.commands(list(all_rows.ROWS))) == 7


def test_the_table_shows_the_last_figure_of_each_goal_and_how_far_to_trust_it(tmp_path: Path) -> None:
    a_run(tmp_path).tell("depthwise-against-x", Ratio(2.0, 0.1), 3.0, "before")
    a_run(tmp_path).tell("depthwise-against-x", Ratio(4.0, 0.1), 3.0, "after")
    a_run(tmp_path, busy=1.0).tell("wire-fp16-error", 0.1, 0.01, "of the change", at_most=True)
    shown = results.table(results.latest(entries(tmp_path / "history.jsonl")))
    assert "| depthwise-against-x | 4 | 0.1 | 3 | met | after |" in shown
    assert "| wire-fp16-error | 0.1 |  | 0.01 | **short**, provisional | of the change |" in shown
    assert "before" not in shown
    with pytest.raises(SystemExit, match="no figure"):
        results.table({})


def test_the_history_is_no_file_of_the_repository() -> None:
    parsed: argparse.Namespace = options("").parse_args([])
    assert parsed.history.parent.name == "runs"


def test_scale_without_flower_is_measured_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's own loop over centres that train nothing; Flower's engine is left out here."""
    monkeypatch.setattr(bench_scale, "by_flower", bench_scale.alone)
    words = ["--tiny", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    for sites in ("3", "2"):
        assert bench_scale.main([*words, "--sites", sites]) == 0
    rows = json.loads((tmp_path / bench_scale.FIGURES).read_text())["rows"]
    assert [row["sites"] for row in rows] == [2, 3]  # the earlier run's figures are kept
    for row in rows:
        assert row["alone"]["round_s"] > 0
        assert row["alone"]["run_mb"] > 4e-6 * row["weights"]  # a checkpoint at least
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "scale.json",
        "scale.md",
        "scale.png",
        "scale.svg",
    ]
    assert capsys.readouterr().out.count("SCALE ") == 2


def test_scale_names_a_run_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> float:
        raise RoundError("too few sites")

    monkeypatch.setattr(bench_scale, "by_flower", fails)
    words = ["--tiny", "--repeats", "1", "--threads", "1", "--out", str(tmp_path), "--sites", "2"]
    assert bench_scale.main(words) == 1
    assert "2 centres: too few sites" in capsys.readouterr().err
