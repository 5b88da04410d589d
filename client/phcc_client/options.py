"""Options that several commands of ``phcc-client`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_HOME = Path("phcc-client")

HomeFolder = Annotated[
    Path,
    typer.Option("--home", envvar="PHCC_CLIENT_HOME", metavar="FOLDER", help="This hospital's folder."),
]
"""Each command takes it, with `DEFAULT_HOME` as its default."""
