"""The commands that run the hospital's side: start, stop, status."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to ``phcc-client``."""
