"""The check of a site on the screen: the funnel, who dropped out by reason, and where the page is."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from phcc_client.ingest.check_result import Check
from phcc_client.ingest.funnel import Funnel
from phcc_client.ingest.record import Stage
from phcc_model.command_line import plain

SHOWN = 10
"""Patients of each reason who are named; the page names all."""


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
        console.print(f"[bold red]the folder[/]: {plain(problem.text)}\n  -> {plain(problem.remedy)}.")
    for reason in check.funnel.reasons:
        console.print(
            f"\n[bold]{reason.patients}[/] did not reach [bold]{reason.stage}[/]: {plain(reason.code)}"
        )
        console.print(f"  -> {plain(reason.remedy)}." if reason.remedy else "  nothing to do")
        group = [d for d in check.funnel.dropouts if (d.stage, d.code) == (reason.stage, reason.code)]
        for one in group[:SHOWN]:
            console.print(f"  {plain(one.patient)}  {plain(one.text)}")
        if len(group) > SHOWN:
            console.print(f"  and {len(group) - SHOWN} more: see the page")
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
