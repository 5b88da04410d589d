"""``phcc-simulate probe``: what a run's encoder holds before, between and after its stages."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phcc_simulation.probe import Reading


def register(app: typer.Typer) -> None:
    """Add the command to a program."""

    @app.command("probe")
    def probe_command(
        run: Annotated[Path, typer.Option("--run", help="Folder of a finished run.")],
        out: Annotated[Path, typer.Option("--out", help="The file to write, JSON.")],
        arm: Annotated[str, typer.Option("--arm", help="Which arm's encoder.")] = "full",
        labels: Annotated[
            str,
            typer.Option("--labels", help="How many labelled patients a reader gets; several with commas."),
        ] = "54,108,216",
        draws: Annotated[int, typer.Option("--draws", min=1, help="Draws of so many patients.")] = 10,
    ) -> None:
        """What an encoder's frozen features tell a linear reader: the label, and a phantom's planted signs.

        With random weights, after stage 1 and after stage 2 (which has seen the arm's labels), pooled over the
        lesion as it is given.

        Example: phcc-simulate probe --run runs/study/seed-41 --out probe.json
        """
        probe_run(run, arm, labels, draws, out)


def probe_run(run: Path, arm: str, labels: str, draws: int, out: Path) -> None:
    """Read, write and print.

    Raises:
        PhccError: the run is not finished, its patients are not of two classes, or the disk is full.
    """
    from rich.console import Console
    from rich.markup import escape

    from phcc_model.storage import write_atomically
    from phcc_server.screen import Screen
    from phcc_simulation.finished import RunModel
    from phcc_simulation.probe import POOLING, Patients, probe
    from phcc_simulation.proof.cli import whole_numbers

    console = Console(emoji=False)
    counts = whole_numbers(labels, "--labels")
    found = RunModel.open(run.expanduser().resolve(), arm)
    with Screen(console) as screen:
        readings = list(probe(found, Patients.of(found), counts, draws, screen.files))
    synthetic = found.study.data.source == "phantom"
    result = {
        "arm": arm,
        "synthetic": synthetic,
        "study_digest": found.plan.study.digest,
        "pooling": POOLING,
        "readings": [asdict(reading) for reading in readings],
    }
    write_atomically(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    console.print(_table(readings, synthetic))
    console.print("A fine-tuned encoder has seen the labels of its own arm, whatever its reader is given.")
    console.print(f"figures in {escape(str(out))}", soft_wrap=True)


def _table(readings: Sequence[Reading], synthetic: bool) -> object:
    from rich.table import Table

    kind = ", synthetic data" if synthetic else ""
    title = f"AUC of logistic regression on frozen features, internal / external{kind}"
    table = Table("told", "fitted on", title=title)
    networks = list(dict.fromkeys(reading.network for reading in readings))
    for name in networks:
        rank = next(reading.rank for reading in readings if reading.network == name)
        table.add_column(f"{name}\n(rank {rank:.1f})", justify="right")
    cells = {
        (r.target, r.patients, r.network): f"{_said(r.internal)} / {_said(r.external)}" for r in readings
    }
    for target, patients in dict.fromkeys((r.target, r.patients) for r in readings):
        table.add_row(target, str(patients), *(cells[target, patients, name] for name in networks))
    return table


def _said(auc: float | None) -> str:
    return "–" if auc is None else f"{auc:.3f}"
