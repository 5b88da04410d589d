"""What the three commands have in common: one readable line for an error, the traceback under ``--debug``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import typer
import typer.core
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from phcc_model.errors import PhccError

# Our help is plain text: for the sake of pages that rich would draw, typer writes "\[required]" into it.
typer.core.HAS_RICH = False

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

errors = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


class DefaultCommandGroup(TyperGroup):
    """A group that takes ``program FILE`` for ``program run FILE``."""

    default = "run"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Insert the default command where the first word is not a command."""
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().resolve_command(ctx, args)


def run_program(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command-line program and return its exit code.

    ``--debug`` may stand anywhere on the line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    return _guarded(lambda: app(args=words, standalone_mode=False), debug)


def _guarded(call: Callable[[], Any], debug: bool) -> int:
    try:
        result = call()
    except PhccError as error:
        if debug:
            raise
        errors.print(f"[bold red]error:[/] {plain(str(error))}")
        return EXIT_ERROR
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        result = EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        errors.print(
            f"[bold red]error:[/] {plain(f'{type(error).__name__}: {error}')}. "
            "This is a fault of the program; run again with --debug for the traceback."
        )
        return EXIT_ERROR
    if result == EXIT_INTERRUPTED:  # so typer answers an interrupt, without a word
        errors.print("stopped. What was finished is kept; the same command goes on from there.")
    return result if isinstance(result, int) else 0


def plain(text: str) -> str:
    """One printable line, and no markup taken from what a file or a site said."""
    return escape(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
