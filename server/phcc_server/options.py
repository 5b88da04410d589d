"""What the commands of ``phcc-server`` have in common: whose folder it is, and where the words go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

DEFAULT_INSTANCE = Path("phcc-server")

InstanceFolder = Annotated[
    Path,
    typer.Option("--instance", metavar="FOLDER", envvar="PHCC_SERVER_INSTANCE", help="The server's folder."),
]
"""For every command; its default is `DEFAULT_INSTANCE`."""

console = Console(soft_wrap=True, highlight=False, emoji=False, markup=False)
"""Without markup: what hospitals and files say is printed as it is."""
