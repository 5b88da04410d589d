"""What ``phcc-client start``, ``stop`` and ``status`` do."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from phcc_client.connection import CONNECTED, connection_of
from phcc_client.desk import NOTICES
from phcc_client.home import Home
from phcc_client.machine_notes import latest
from phcc_client.service import serve
from phcc_client.spool import Spool
from phcc_client.supernode import programs
from phcc_model.command_line import EXIT_ERROR
from phcc_model.contract import keys
from phcc_model.supervised import read_status
from phcc_model.supervision import start_detached, stop_detached

console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)


def start(folder: Path, *, foreground: bool) -> None:
    """Start the service.

    Raises:
        PhccError: it runs already, or something that it needs is missing.
    """
    home = Home.open(folder)
    started = programs(home)  # what is missing is told here, not in a log
    if foreground:
        serve(home, started)
        return
    start_detached(home.folder, [sys.executable, "-m", "phcc_client.service", str(home.folder)])
    console.print(
        f"{home.settings.hospital} runs, and connects to {home.settings.server} for as long as it takes.\n"
        "See how it stands with phcc-client status."
    )


def stop(folder: Path) -> None:
    """Stop the service. An order that was begun is begun again at the next start.

    Raises:
        PhccError: it does not end.
    """
    home = Home.open(folder)
    console.print("Stopped." if stop_detached(home.folder) else "Nothing was running.")


def status(folder: Path) -> None:
    """Show how everything is; exit 1 where a program is down or the node is not connected.

    Raises:
        PhccError: the folder is no hospital's home.
    """
    home = Home.open(folder)
    running = read_status(home.folder)
    if running is None:
        console.print("The service does not run. Start it with phcc-client start.")
        sys.exit(EXIT_ERROR)
    table = Table("program", "state", "since", "restarts", "last exit")
    for program in running.programs:
        since = datetime.fromtimestamp(program.since, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        last = "" if program.last_exit is None else str(program.last_exit)
        state = "down" if program.pid is None else "runs"
        table.add_row(program.name, state, since, str(program.restarts), last)
    console.print(table)
    connection = connection_of(home)
    console.print(f"{home.settings.hospital} and {home.settings.server}: {connection}")
    console.print(_work(home))
    for line in [*_notices(home), *latest(home.folder)]:
        console.print(line)
    if connection != CONNECTED or any(program.pid is None for program in running.programs):
        sys.exit(EXIT_ERROR)


def _work(home: Home) -> str:
    spool = Spool(home.spool)
    if (found := spool.next()) is None:
        return "No order is waiting."
    digest, order = found
    working = spool.working(digest, home.settings.hospital)
    far = f", step {working.step} of {working.steps}" if working.state == keys.TRAINING else ""
    return f"At work: {order.arm} {order.stage} round {order.round + 1}, {working.state}{far}"


def _notices(home: Home) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        lines = (home.folder / NOTICES).read_text(encoding="utf-8").splitlines()[-3:]
        return [f"The coordinator says ({said['at']}): {said['notice']}" for said in map(json.loads, lines)]
    return []
