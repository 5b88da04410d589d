"""The commands of ``phcc-server`` about runs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Commands about runs."""
