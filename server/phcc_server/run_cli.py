"""The commands of ``phcc-server`` about the service and about runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from phcc_server.options import DEFAULT_INSTANCE, InstanceFolder

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Its name, as phcc-server runs shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``phcc-server``."""
    for name, command in _COMMANDS.items():
        app.command(name)(command)


def start_command(
    instance: InstanceFolder = DEFAULT_INSTANCE,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal, as a systemd unit wants it.")
    ] = False,
) -> None:
    """Start the server: front door, SuperLink, SuperExec, keeper. What ends is started again.

    Example: phcc-server start
    """
    from phcc_server.run_commands import start

    start(instance, foreground=foreground)


def stop_command(instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Stop the server. Runs go on where they stood when it is started again.

    Example: phcc-server stop
    """
    from phcc_server.run_commands import stop

    stop(instance)


def status_command(instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Show programs, certificates, hospitals and runs; exit 1 where a program is not well.

    Example: phcc-server status
    """
    from phcc_server.run_commands import status

    status(instance)


def submit_command(
    study: Annotated[str, typer.Argument(help="A study file, or a shipped study by name (demo, hospital).")],
    instance: InstanceFolder = DEFAULT_INSTANCE,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study; repeatable."),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option("--site", metavar="HOSPITAL", help="Who is to take part; repeatable. Default: all."),
    ] = None,
) -> None:
    """Put a study before the hospitals, and run it as soon as enough of them have approved it.

    Example: phcc-server submit study.yaml --set finetune.rounds=30 --site st-mary --site charite
    """
    from phcc_server.run_commands import submit

    submit(instance, study, overrides or [], site or [])


def runs_command(instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """List all runs.

    Example: phcc-server runs
    """
    from phcc_server.run_commands import show_runs

    show_runs(instance)


def watch_command(run: RunName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Show a run as it goes. Exit code: 0 finished, 1 failed, 3 stopped.

    Example: phcc-server watch demo-1
    """
    from phcc_server.run_commands import watch

    sys.exit(watch(instance, run))


def stop_run_command(run: RunName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Stop a run. What it has finished is kept.

    Example: phcc-server stop-run demo-1
    """
    from phcc_server.run_commands import let_go_on

    let_go_on(instance, run, go_on=False)


def resume_command(run: RunName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Let a stopped or failed run go on from its last finished round.

    Example: phcc-server resume demo-1
    """
    from phcc_server.run_commands import let_go_on

    let_go_on(instance, run, go_on=True)


def report_command(run: RunName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Work every figure of a finished run out again from its record, and say where the report is.

    Example: phcc-server report demo-1, or: phcc-server report runs/demo
    """
    from phcc_server.run_commands import show_report

    show_report(instance, run)


def verify_command(run: RunName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Prove a run's record whole: ledger, checkpoints and report; exit 1 where it is not.

    Example: phcc-server verify demo-1
    """
    from phcc_server.run_commands import verify_run

    verify_run(instance, run)


_COMMANDS: dict[str, Callable[..., None]] = {
    "start": start_command,
    "stop": stop_command,
    "status": status_command,
    "submit": submit_command,
    "runs": runs_command,
    "watch": watch_command,
    "stop-run": stop_run_command,
    "resume": resume_command,
    "report": report_command,
    "verify": verify_command,
}
