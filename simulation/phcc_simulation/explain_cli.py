"""``phcc-simulate explain``: a run's heat maps as pictures and files, and what they are worth, measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from phcc_model.explain_measures import Interval
    from phcc_simulation.explain import Looked
    from phcc_simulation.explain_table import Row


def register(app: typer.Typer) -> None:
    """Add the command to a program."""

    @app.command("explain")
    def explain_command(
        run: Annotated[Path, typer.Option("--run", help="Folder of a finished run.")],
        out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
        cases: Annotated[int, typer.Option("--cases", min=2, help="Test cases that are measured.")] = 60,
        pictures: Annotated[int, typer.Option("--pictures", min=0, help="Of these, how many are drawn.")] = 8,
        arm: Annotated[str, typer.Option("--arm", help="Which arm's model.")] = "full",
        method: Annotated[
            str | None,
            typer.Option(help="grad-cam, hires-cam or layer-cam; unsaid, what suits the model's pooling."),
        ] = None,
    ) -> None:
        """Heat maps of test patients, and whether they lie in the lesion and depend on what was learnt.

        Example: phcc-simulate explain --run runs/demo --cases 60 --out heatmaps
        """
        explain_run(run, arm, cases, pictures, out, method)


def explain_run(run: Path, arm: str, count: int, pictures: int, out: Path, method: str | None = None) -> None:
    """Draw, measure, write and print.

    Raises:
        PhccError: the run is not finished, its data are gone, there is no such method, or the disk is full.
    """
    from rich.console import Console

    from phcc_model.errors import CaseError
    from phcc_model.explain import chosen_method
    from phcc_model.storage import write_atomically
    from phcc_simulation.explain import RIM_MM, looked, measure, true_lesion
    from phcc_simulation.explain_files import draw_case
    from phcc_simulation.explain_table import as_plain, tabulate, verdict
    from phcc_simulation.finished import RunModel

    console = Console(emoji=False)
    found = RunModel.open(run.expanduser().resolve(), arm)
    how = chosen_method(found.model, method)
    chosen = found.unseen(count)
    raw = found.raw()
    lesions, sources = zip(
        *(true_lesion(found, raw.get(c), chosen.lesion_ndhw[i]) for i, c in enumerate(chosen.case)),
        strict=True,
    )
    drawn, remarks = 0, []
    for i in range(min(pictures, len(chosen))):
        try:
            draw_case(found, chosen, i, raw.get(chosen.case[i]), out, how)
            drawn += 1
        except CaseError as error:
            remarks.append(str(error))
    rows = tabulate(
        list(measure(found, chosen, list(lesions), lambda *_: None, how)),
        found.study.seed,
    )
    judged, look = verdict(rows), looked(found.model, chosen)
    lesion = "the phantom's truth" if all(sources) else "as given with the images"
    result = {
        "arm": arm,
        "study_digest": found.plan.study.digest,
        "cases": list(chosen.case),
        "lesion": lesion,
        "rim_mm": RIM_MM,
        "pooling": found.model.pooling,
        "method": how,
        "verdict": judged,
        "looked": None if look is None else asdict(look),
        "networks": as_plain(rows),
        "remarks": remarks,
    }
    write_atomically(out / "explain.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    _print(console, rows, lesion, how)
    for line in (*_said(look, judged, drawn, out), *remarks):
        console.print(line, soft_wrap=True, markup=False)


def _said(look: Looked | None, judged: dict[str, Any], drawn: int, out: Path) -> Iterator[str]:
    """What stands below the table."""
    if look is not None:
        yield (
            f"where it looks: {look.within:.0%} in the lesion as given, {look.moved:.0%} with the images moved; "
            f"the lesion is {look.share:.0%} of the crop"
        )
    yield f"wanted: {judged['wanted']}: {'reached' if judged['reached'] else 'not reached'}"
    yield f"{drawn} cases drawn in {out}; every figure in {out / 'explain.json'}"


def _print(console: Console, rows: Sequence[Row], lesion: str, method: str) -> None:
    """What fits into a terminal of 80 columns; the file has every figure."""
    from rich.table import Table

    table = Table(
        title=f"heat maps ({method}), 95 % intervals over patients; lesion: {lesion}", pad_edge=False
    )
    table.add_column("network")
    for title in ("density in\nthe lesion", "trained over\nthis", "points\nat it", "empty"):
        table.add_column(title, no_wrap=True, justify="right")
    for row in rows:
        table.add_row(
            row.network,
            _words(row.concentration),
            "" if row is rows[0] else _words(row.trained_over_this),
            "" if row.pointing.value is None else f"{row.pointing.value:.0%}",
            f"{row.empty}/{row.maps}",
        )
    console.print(table)
    console.print(
        "density: how many times denser the map is in the lesion than on the whole; 1 is a flat map"
    )


def _words(interval: Interval) -> str:
    if interval.value is None:
        return "not defined"
    if interval.low is None:
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
