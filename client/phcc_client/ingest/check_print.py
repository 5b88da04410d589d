"""The check of a site on the screen: the funnel, who dropped out by reason, and where the page is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from phcc_client.ingest.check_page import sentence
from phcc_client.ingest.check_result import Check
from phcc_client.ingest.funnel import DropOut, Funnel, Reason
from phcc_client.ingest.record import Stage
from phcc_model.command_line import plain

SHOWN = 10
"""Patients of each reason who are named; the page names all."""

_A_LINE = 5


def tell(check: Check, console: Console, page: Path | None = None) -> None:
    """Print a check.

    Args:
        check: what was found.
        console: where to.
        page: the page, to be named at the end.
    """
    console.print(_funnel_table(check.funnel))
    if check.funnel.at(Stage.USED) is None:
        console.print("used: no study has been prepared from this site yet")
    for problem in check.problems:
        console.print(
            f"[bold red]the folder[/]: {plain(problem.text)}\n  -> {plain(sentence(problem.remedy))}"
        )
    for reason in check.funnel.reasons:
        _tell_reason(reason, check.funnel.dropouts, console)
    look = [remark for remark in check.remarks if remark.remedy]
    if look:
        console.print("\nworth a look:")
    for remark in look:
        example = remark.said[0]
        console.print(
            f"  [yellow]{len(remark.said)}[/] {plain(remark.code)}, as {plain(example.patient)}: "
            f"{plain(example.text)}"
        )
    if page is not None:
        console.print(f"\npage: {plain(str(page))}")


def _tell_reason(reason: Reason, dropouts: Sequence[DropOut], console: Console) -> None:
    console.print(f"\n[bold]{reason.patients}[/] did not reach [bold]{reason.stage}[/]: {plain(reason.code)}")
    if reason.remedy:
        console.print(f"  -> {plain(sentence(reason.remedy))}")
    group = [one for one in dropouts if (one.stage, one.code) == (reason.stage, reason.code)]
    shown = group[:SHOWN]
    if len(group) > 1 and len({one.text for one in group}) == 1:
        console.print(f"  {plain(reason.example)}:")
        for start in range(0, len(shown), _A_LINE):
            console.print("    " + "  ".join(plain(one.patient) for one in shown[start : start + _A_LINE]))
    else:
        for one in shown:
            console.print(f"  {plain(one.patient)}  {plain(one.text)}")
    if len(group) > SHOWN:
        console.print(f"  and {len(group) - SHOWN} more: see the page")


def _funnel_table(funnel: Funnel) -> Table:
    table = Table("", box=None, pad_edge=False)
    for name in ("patients", "proliferative", "not proliferative", "label unknown"):
        table.add_column(name, justify="right")
    for count in funnel.stages:
        table.add_row(
            str(count.stage),
            str(count.total),
            str(count.proliferative),
            str(count.not_proliferative),
            f"+ {count.unknown} for pre-training only" if count.pretraining_only else str(count.unknown),
        )
    return table
