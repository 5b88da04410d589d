"""The commands that run the hospital's side: start, stop, status."""

from __future__ import annotations

from typing import Annotated

import typer

from phcc_client.options import DEFAULT_HOME, HomeFolder


def register(app: typer.Typer) -> None:
    """Add the commands to ``phcc-client``."""
    app.command("start")(start_command)
    app.command("stop")(stop_command)
    app.command("status")(status_command)


def start_command(
    home: HomeFolder = DEFAULT_HOME,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal, as a systemd unit wants it.")
    ] = False,
) -> None:
    """Start this hospital's side: Flower's node and the worker. What ends is started again.

    Example: phcc-client start
    """
    from phcc_client.service_commands import start

    start(home, foreground=foreground)


def stop_command(home: HomeFolder = DEFAULT_HOME) -> None:
    """Stop this hospital's side.

    Example: phcc-client stop
    """
    from phcc_client.service_commands import stop

    stop(home)


def status_command(home: HomeFolder = DEFAULT_HOME) -> None:
    """Show programs, connection and the order at work; exit 1 where it is not connected.

    Example: phcc-client status
    """
    from phcc_client.service_commands import status

    status(home)
