"""The hospital's service: Flower's node and the worker, under one supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

from phcc_client.home import Home
from phcc_client.supernode import programs
from phcc_model.supervision import Supervisor


def main() -> None:
    """``python -m phcc_client.service HOME``."""
    home = Home.open(Path(sys.argv[1]))
    Supervisor(home.folder, programs(home)).run()


if __name__ == "__main__":
    main()
