"""``phcc-simulate judge``: what a finished run, or all seeds of a study, are worth on scanners never seen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from phcc_server.screen import Screen


def register(app: typer.Typer) -> None:
    """Add the command to a program."""

    @app.command("judge")
    def judge_command(
        run: Annotated[Path, typer.Argument(help="Folder of a finished run, or of seeds: seed-0, seed-1...")],
        out: Annotated[
            Path, typer.Option("--out", help="Folder to write to; a second start goes on where it stopped.")
        ],
        patients: Annotated[
            int, typer.Option("--patients", min=20, help="Of all scanners together, for each run.")
        ] = 500,
        arm: Annotated[
            list[str] | None,
            typer.Option("--arm", help="Judge this arm; repeatable. Default: all that are finished."),
        ] = None,
        jobs: Annotated[
            int | None, typer.Option("--jobs", min=1, help="Files worked on at a time; default: all cores.")
        ] = None,
        device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1...")] = "cpu",
    ) -> None:
        """Score a finished run on the second phantom: other patients and scanners, the same disease.

        Nothing is trained and the run is not changed. Judge once, at the end: what was chosen by looking at this
        figure is no longer judged by it.

        Example: phcc-simulate judge runs/study --out runs/study-judged --patients 500
        """
        asked = Asked(patients, tuple(arm or ()), jobs or os.cpu_count() or 1, device)
        judge(run.expanduser().resolve(), out.expanduser().resolve(), asked)


@dataclass(frozen=True)
class Asked:
    """What is to be judged, and by what.

    Attributes:
        patients: of all scanners together, for each run.
        arms: these; none: all that are finished.
        jobs: files worked on at a time.
        device: that scores.
    """

    patients: int
    arms: tuple[str, ...]
    jobs: int
    device: str


def judge(run: Path, out: Path, asked: Asked) -> None:
    """Judge a run, or every seed below a folder, and print the verdict.

    Raises:
        PhccError: what is wrong, in one line; patients that were written are kept.
    """
    from rich.console import Console

    from phcc_model.errors import ConfigError
    from phcc_server.screen import Screen
    from phcc_simulation.finished import STUDY_FILE
    from phcc_simulation.proof.runs import SEED_FOLDERS

    console = Console(soft_wrap=True, highlight=False, emoji=False)
    if out == run or out.is_relative_to(run):
        raise ConfigError("lies in the run's own folder", where=f"--out {out}", remedy="Choose another one")
    with Screen(console) as screen:
        if (run / STUDY_FILE).is_file() or not any(run.glob(SEED_FOLDERS)):
            _judge_one(run, out, asked, screen, console)
        else:
            _judge_seeds(run, out, asked, screen, console)


def _judge_one(run: Path, out: Path, asked: Asked, screen: Screen, console: Console | None) -> None:
    """One run into one folder; printed where there is a console to print to."""
    from phcc_client.session import Runtime
    from phcc_server.report.table import result_table
    from phcc_simulation.judge import judge_run
    from phcc_simulation.judge_results import TEXT, first_of, headlines, write_judged

    runtime = Runtime(asked.device, 1)
    found = judge_run(run, out, asked.patients, asked.arms, runtime, asked.jobs, screen.files)
    screen.note("working out the figures")
    summary = write_judged(out, found, first_of(run))
    if console is not None:
        for text in headlines(summary, found.left_out):
            console.print(text, markup=False)
        console.print(result_table(summary))
        console.print(f"both phantoms {out / TEXT}", markup=False)


def _judge_seeds(run: Path, out: Path, asked: Asked, screen: Screen, console: Console) -> None:
    """Every finished seed into a folder of its own, then all of them together."""
    from phcc_model.errors import ConfigError
    from phcc_model.storage import write_atomically
    from phcc_simulation.judge_results import TEXT
    from phcc_simulation.judge_seeds import FIGURES, judge_together, read_judged
    from phcc_simulation.judge_text import headlines, in_words, markdown
    from phcc_simulation.proof.runs import read_runs

    runs, left_out = read_runs(run)
    if asked.arms and (parted := next((one for one in runs if len(one.parts) > 1), None)) is not None:
        raise ConfigError(
            f"the arms of seed {parted.seed} lie in several folders",
            where="--arm",
            remedy="Leave it out, or judge the one folder that has the arm",
        )
    for number, one in enumerate(runs, 1):
        screen.note(f"seed {one.seed}, {number} of {len(runs)}")
        for folder in one.parts:
            _judge_one(folder, out / folder.name, asked, screen, None)
    screen.note("the seeds together")
    found = judge_together(runs, [read_judged(out, one) for one in runs], left_out)
    write_atomically(out / TEXT, markdown(found))
    write_atomically(out / FIGURES, found.model_dump_json(indent=2) + "\n")
    for text in headlines(found):
        console.print(text, markup=False)
    for arm in found.arms:
        words = f"first phantom {in_words(arm.first)}, second {in_words(arm.second)}"
        console.print(f"{arm.arm}: {words}", markup=False)
    console.print(f"tables {out / TEXT}", markup=False)
