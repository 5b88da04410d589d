"""``phcc-simulate``: a whole study on one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from phcc_model.command_line import DefaultCommandGroup, run_program
from phcc_model.machine import fast_environment
from phcc_simulation.explain_cli import register as register_explain
from phcc_simulation.judge_cli import register as register_judge
from phcc_simulation.probe_cli import register as register_probe
from phcc_simulation.proof.cli import register as register_proof
from phcc_simulation.proof.cli import register_claims, register_taking_part
from phcc_simulation.real.cli import register as register_real

app = typer.Typer(
    cls=DefaultCommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Simulate a federated pHCC-SSL study on one machine.\n\n"
    "Example: phcc-simulate configs/demo.yaml --out runs/demo",
    epilog="phcc-simulate STUDY is short for phcc-simulate run STUDY. --debug shows tracebacks.",
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study; repeatable."),
]
Out = Annotated[
    Path, typer.Option("--out", help="The run's folder; a second start goes on where it stopped.")
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Files worked on at a time; default: all cores.")
]


@app.command("run")
def run_command(
    study: Annotated[
        str, typer.Argument(help="A study file, or a shipped study by name (demo, study, adrenal...).")
    ],
    out: Out,
    overrides: Set = None,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="Run this arm in place of the study's; repeatable.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of each client.")] = None,
    jobs: Jobs = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1...")] = "cpu",
    memory: Annotated[
        bool,
        typer.Option("--in-memory", help="Without Flower, in this process: the same result, for debugging."),
    ] = False,
) -> None:
    """Run a study: prepare the data, train every arm over virtual centres, write table and report.

    Example: phcc-simulate configs/demo.yaml --out runs/demo --set finetune.rounds=3 --arm full --arm afp
    """
    from phcc_simulation.commands import run_study

    run_study(study, out, overrides or [], arm or [], threads, jobs or _cores(), device, in_memory=memory)


@app.command("phantom")
def phantom_command(
    study: Annotated[str, typer.Argument(help="The study whose phantom is meant.")] = "demo",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write it to.")] = None,
    overrides: Set = None,
    check: Annotated[
        bool, typer.Option("--check", help="Train a small network on each planted sign: can each be seen?")
    ] = False,
    cases: Annotated[int, typer.Option("--cases", min=40, help="Cases for --check.")] = 1000,
    jobs: Jobs = None,
) -> None:
    """Write the synthetic patients as files, or check that their signs can be seen.

    Example: phcc-simulate phantom demo --out data/phantom --set data.phantom.patients=1000
    """
    from phcc_simulation.commands import check_phantom, make_phantom

    if out is not None:
        make_phantom(study, out, overrides or [], jobs or _cores())
    if check:
        check_phantom(study, overrides or [], cases, jobs or _cores())
    if out is None and not check:
        raise typer.BadParameter("give --out FOLDER, --check, or both")


@app.command("predict")
def predict_command(
    run: Annotated[Path, typer.Option("--run", help="Folder of a finished run.")],
    npz: Annotated[Path, typer.Option("--npz", help="A MedMNIST file.")],
    out: Annotated[Path, typer.Option("--out", help="CSV to write: index,score.")],
    array: Annotated[str, typer.Option("--array", help="The array of the file to score.")] = "test_images",
    arm: Annotated[str, typer.Option("--arm", help="Which arm's model.")] = "full",
) -> None:
    """Score the images of a MedMNIST file with a run's model.

    Example: phcc-simulate predict --run runs/adrenal --npz adrenalmnist3d_64.npz --out scores.csv
    """
    from phcc_simulation.commands import predict_npz

    predict_npz(run, npz, array, arm, out)


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Work a finished run's figures out again from what it keeps, and write its page anew; nothing is trained.

    Example: phcc-simulate report runs/demo
    """
    from phcc_simulation.commands import report_once_more

    report_once_more(run)


register_explain(app)
register_probe(app)
register_proof(app)
register_claims(app)
register_taking_part(app)
register_judge(app)
register_real(app)


def _cores() -> int:
    return os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``phcc-simulate``."""
    os.environ.update({key: value for key, value in fast_environment(1).items() if key not in os.environ})
    sys.exit(run_program(app, arguments))
