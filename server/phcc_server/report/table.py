"""The results as a table: for the terminal, and as Markdown."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from phcc_server.report.schema import TRAIN, VALIDATION, ArmResult, Summary
from phcc_server.report.wording import UNDEFINED, estimate, figure, split_title

CEILING = "best possible"


def table_title(summary: Summary) -> str:
    """What the table shows; that data are synthetic is never left out."""
    kind = ", synthetic data" if summary.data.synthetic else ""
    return f"{summary.study}: AUC with {100 * summary.confidence:.0f} % interval{kind}"


def result_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows: arms by test splits, the best possible AUC last, where it is known."""
    splits = [split for split in summary.splits if split not in (TRAIN, VALIDATION)]
    largest = {
        split: max((results[split].n, results[split].n_pos) for results in summary.arms.values())
        for split in splits
    }
    header = ["arm"]
    header += [f"{split_title(split)} (n = {n}, {n_pos} positive)" for split, (n, n_pos) in largest.items()]
    rows = [
        [arm, *(_cell(results[split], largest[split]) for split in splits)]
        for arm, results in summary.arms.items()
    ]
    if summary.ceiling is not None:
        rows.append([CEILING, *(figure(summary.ceiling[1]) for _ in splits)])
    return header, rows


def result_table(summary: Summary) -> Table:
    """The table for a terminal."""
    header, rows = result_rows(summary)
    table = Table(title=Text(table_title(summary)), title_justify="left", caption_justify="left")
    for index, name in enumerate(header):
        # Folded, not cut: on a narrow terminal an arm's name is still whole.
        table.add_column(Text(_two_lines(name)), justify="right" if index else "left", overflow="fold")
    for row in rows:
        last = row[0] == CEILING
        if last:
            table.add_section()
        # Text, not str: a centre's name may hold what rich would take for markup.
        cells = (Text(_two_lines(cell), style="dim" if cell == UNDEFINED else "") for cell in row)
        table.add_row(*cells)
    if summary.data.synthetic:
        table.caption = Text("Synthetic data: shows that the machinery works, not what the method gains.")
    return table


def markdown_table(summary: Summary) -> str:
    """The table for a README, its title as a line of its own."""
    header, rows = result_rows(summary)
    lines = [f"**{plain(table_title(summary))}**", "", line([plain(cell) for cell in header])]
    lines.append("|" + "|".join([" --- ", *(" ---: " for _ in header[1:])]) + "|")
    return "\n".join([*lines, *(line([plain(cell) for cell in row]) for row in rows)]) + "\n"


def _cell(result: ArmResult, largest: tuple[int, int]) -> str:
    text = estimate(result.auc, result.ci)
    # An arm that could not score every case stands on other patients than its neighbours in the column.
    return text if (result.n, result.n_pos) == largest or result.auc is None else f"{text} on {result.n}"


def _two_lines(text: str) -> str:
    """What stands in brackets below what it belongs to, for a narrow column."""
    return text.replace(" (", "\n(", 1).replace(", ", ",\n").replace(" positive)", " pos.)")


def line(cells: list[str]) -> str:
    """One row of a Markdown table; the cells are Markdown already."""
    return "| " + " | ".join(cells) + " |"


def plain(text: str) -> str:
    """Text that Markdown leaves alone."""
    for mark in "\\|<>*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return text
