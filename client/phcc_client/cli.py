"""``phcc-client``: not part of this release yet."""

from __future__ import annotations

import sys

from phcc_model.command_line import EXIT_ERROR, errors


def main() -> None:
    """Say that the command does not do anything yet, and exit non-zero."""
    errors.print("phcc-client is not part of this release yet: use phcc-simulate (see the README).")
    sys.exit(EXIT_ERROR)
