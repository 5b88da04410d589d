"""The hospital's service: Flower's node and the worker, under one supervisor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from phcc_client.home import Home
from phcc_client.metrics import serve_metrics
from phcc_client.supernode import programs
from phcc_model.supervision import Program, Supervisor


def serve(home: Home, started: Sequence[Program]) -> None:
    """Keep the programs running, and tell the metrics, until SIGTERM or SIGINT.

    Raises:
        StorageError: the service runs already, or its folder cannot be written.
    """
    with serve_metrics(home) as tick:
        Supervisor(home.folder, started, tick).run()


def main() -> None:
    """``python -m phcc_client.service HOME``."""
    home = Home.open(Path(sys.argv[1]))
    serve(home, programs(home))


if __name__ == "__main__":
    main()
