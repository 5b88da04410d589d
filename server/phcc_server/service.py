"""The coordinator's service: everything that runs on the server, under one supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from phcc_model.supervision import Program, Supervisor
from phcc_server import front_door, superlink
from phcc_server.instance import Instance
from phcc_server.metrics import serve_metrics


def programs(instance: Instance) -> tuple[Program, ...]:
    """SuperLink, SuperExec, keeper and front door, in the order in which they start.

    Raises:
        PhccError: Flower or nginx is not installed, or nginx refuses its configuration.
    """
    front_door.check(instance)
    keeper = [sys.executable, "-m", "phcc_server.keeper", str(instance.folder)]
    return (
        *superlink.programs(instance),
        Program("keeper", keeper, {**os.environ, "PYTHONUNBUFFERED": "1"}, superlink.LONGEST_PAUSE_S),
        front_door.program(instance),
    )


def serve(instance: Instance, started: Sequence[Program]) -> None:
    """Keep the programs running, and tell the metrics, until SIGTERM or SIGINT.

    Raises:
        StorageError: the service runs already, or its folder cannot be written.
    """
    with serve_metrics(instance) as open_port:

        def tick() -> None:
            open_port()
            front_door.shorten_log(instance)

        Supervisor(instance.folder, started, tick).run()


def main() -> None:
    """``python -m phcc_server.service INSTANCE``."""
    instance = Instance.open(Path(sys.argv[1]))
    serve(instance, programs(instance))


if __name__ == "__main__":
    main()
