from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from phcc_server.report import wording
from phcc_server.report.summary import ScoredCase, Summary
from phcc_server.report.table import markdown_table, result_table, table_title


def printed(summary: Summary, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(result_table(summary))
    return console.file.getvalue()


def test_synthetic_stands_in_every_title(fabricate, summary: Summary) -> None:
    assert table_title(summary) == "demo: AUC with 95 % interval, synthetic data"
    assert "synthetic data" in printed(summary)
    assert "synthetic data" in markdown_table(summary)
    real = fabricate([], data={"synthetic": False, "source": "nifti-csv", "patients": 0})
    assert "synthetic" not in printed(real) + markdown_table(real)


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_has_every_figure(summary: Summary, width: int) -> None:
    text = printed(summary, width)
    for results in summary.arms.values():
        assert f"{results['internal'].auc:.2f}" in text
    assert "0.89" in text
    assert max(len(line) for line in text.splitlines()) <= width


def test_markdown_is_a_table_of_arms_by_splits(summary: Summary) -> None:
    lines = markdown_table(summary).splitlines()
    header, rule, *rows = lines[2:]
    assert header.startswith("| arm | internal test (n = 93, ")
    assert [row.split(" | ")[0] for row in rows] == ["| full", "| no-pretraining", "| afp", "| best possible"]
    assert {line.count("|") for line in (header, rule, *rows)} == {8}
    full = summary.arms["full"]["external"]
    assert f"| {full.auc:.2f} ({full.ci[0]:.2f} to {full.ci[1]:.2f}) |" in rows[0]


def test_names_are_no_markup(fabricate, renamed) -> None:
    name = "[red]A|B*_[/red]"
    summary = fabricate(renamed(name), bootstrap=0)
    assert "[red]" in printed(summary, 400)
    assert r"\[red\]A\|B\*\_\[/red\]" in markdown_table(summary)


def test_an_arm_on_fewer_cases_says_so(fabricate, scored: list[ScoredCase]) -> None:
    rows = [
        dataclasses.replace(row, score=None) if row.arm == "afp" and row.case.startswith("A09") else row
        for row in scored
    ]
    row = next(line for line in markdown_table(fabricate(rows, bootstrap=0)).splitlines() if "afp" in line)
    assert "on 83 |" in row
    assert "on 14 |" in row


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0, "< 0.001"), (0.0312, "0.031"), (0.456, "0.46"), (1.0, "1.00")]
)
def test_p_values_are_never_zero(p: float | None, text: str) -> None:
    assert wording.p_value(p) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (412_000, "412 kB"), (2.5e9, "2.5 GB"), (3e12, "3000 GB")],
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert wording.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.4, "0.4 s"), (59.94, "59.9 s"), (119.6, "2 min 00 s"), (7260, "2 h 01 min")],
)
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert wording.duration(seconds) == text


def test_intervals_for_people() -> None:
    assert wording.estimate(None, None) == "not defined"
    assert wording.estimate(0.5, (0.25, 0.75)) == "0.50 (0.25 to 0.75)"
    assert wording.limits((-0.001, 0.2)) == "0.00 to 0.20"


def test_the_verdict_claims_no_more_than_the_intervals(summary: Summary) -> None:
    lines = wording.verdict(summary)
    for pair in summary.paired:
        if pair.split in ("internal", "external"):
            (line,) = (text for text in lines if text.startswith(f"{pair.a} against {pair.b}:"))
            claimed = f"higher on the {pair.split} test" in line or f"lower on the {pair.split} test" in line
            assert claimed == (pair.p < 0.05)
            assert claimed == (pair.ci[0] > 0 or pair.ci[1] < 0)
