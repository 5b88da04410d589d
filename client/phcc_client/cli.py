"""``phcc-client``: a hospital's side of a study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phcc_client import ingest_cli, mistakes_cli, predict_cli, service_cli
from phcc_client.options import DEFAULT_HOME, HomeFolder
from phcc_model.command_line import EXIT_ERROR, run_program

if TYPE_CHECKING:
    from phcc_client.home import Home
    from phcc_client.policy import Choice

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A hospital's side of a federated pHCC-SSL study. Nothing runs here that was not approved here.\n\n"
    "Example: phcc-client init H1.kit.yaml --home /srv/phcc",
    epilog="--debug shows tracebacks.",
)

Studies = Annotated[
    list[str], typer.Argument(metavar="STUDY...", help="Name, beginning of a digest, or a study file.")
]
Study = Annotated[str, typer.Argument(help="Name, beginning of a digest, or a study file.")]
Note = Annotated[str, typer.Option("--note", help="Kept with the decision, e.g. the ethics vote.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="A name stands for all variants of the study.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the admission file.")]


@app.command()
def init(
    kit: Annotated[Path, typer.Argument(help="The file that the coordinator gave you.")],
    home: HomeFolder = DEFAULT_HOME,
    out: Out = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take another kit than the one you joined by.")
    ] = False,
) -> None:
    """Join by a coordinator's kit: make this hospital's key, and the admission file that goes back.

    Example: phcc-client init H1.kit.yaml --home /srv/phcc
    """
    from phcc_client import admin_commands

    admin_commands.init(kit, home, out, replace=replace)


@app.command()
def doctor(home: HomeFolder = DEFAULT_HOME) -> None:
    """Check network, clock, machine, data and keys, each with its remedy; exit code 1 if one failed.

    Example: phcc-client doctor --home /srv/phcc
    """
    from phcc_client.doctor import report

    if not report(_open(home)):
        raise typer.Exit(EXIT_ERROR)


@app.command()
def studies(home: HomeFolder = DEFAULT_HOME) -> None:
    """List the studies that came in, and what was decided about each.

    Example: phcc-client studies
    """
    from phcc_client import study_commands

    study_commands.list_studies(_open(home))


@app.command()
def show(study: Study, home: HomeFolder = DEFAULT_HOME) -> None:
    """Show a study: its purpose, what it asks for, what would leave, what protects patients.

    Example: phcc-client show hospital
    """
    from phcc_client import study_commands

    study_commands.show(_open(home), study)


@app.command()
def approve(
    study: Studies, home: HomeFolder = DEFAULT_HOME, note: Note = "", every: All = False, yes: Yes = False
) -> None:
    """Let a study run here. It covers this digest: a study that is changed asks again.

    Example: phcc-client approve 3fa94c0d21b7 --note "ethics vote 12/2026"
    """
    _decide(home, study, "approved", note, every=every, yes=yes)


@app.command()
def refuse(
    study: Studies, home: HomeFolder = DEFAULT_HOME, note: Note = "", every: All = False, yes: Yes = False
) -> None:
    """Refuse a study: every order of it is answered with a refusal.

    Example: phcc-client refuse 3fa94c0d21b7
    """
    _decide(home, study, "refused", note, every=every, yes=yes)


@app.command()
def withdraw(
    study: Studies, home: HomeFolder = DEFAULT_HOME, note: Note = "", every: All = False, yes: Yes = False
) -> None:
    """Take an approval back: the next order of the study is refused, what left before has left.

    Example: phcc-client withdraw 3fa94c0d21b7
    """
    _decide(home, study, "withdrawn", note, every=every, yes=yes)


@app.command()
def prepare(
    study: Study,
    home: HomeFolder = DEFAULT_HOME,
    again: Annotated[
        bool, typer.Option("--again", help="Even if patients move: only before any study began.")
    ] = False,
) -> None:
    """Make this hospital's images ready for a study; a second start goes on where it stopped.

    Example: phcc-client prepare hospital
    """
    from phcc_client import study_commands

    study_commands.prepare(_open(home), study, again=again)


@app.command()
def outbox(
    home: HomeFolder = DEFAULT_HOME,
    study: Annotated[str | None, typer.Option("--study", help="Only of this study (name or digest).")] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="So many messages; 0: all.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Every value of each message, one a line.")] = False,
) -> None:
    """Show what left this hospital, and check that the record was not altered.

    Example: phcc-client outbox --last 20
    """
    from phcc_client import admin_commands

    if not admin_commands.outbox(_open(home), study, last, as_json=as_json):
        raise typer.Exit(EXIT_ERROR)


@app.command("rotate-key")
def rotate_key(home: HomeFolder = DEFAULT_HOME, out: Out = None) -> None:
    """Make this hospital's next key, vouched for by the present one.

    Example: phcc-client rotate-key --out .
    """
    from phcc_client import admin_commands

    admin_commands.rotate(_open(home), out)


@app.command("activate-key")
def activate_key(home: HomeFolder = DEFAULT_HOME, yes: Yes = False) -> None:
    """Use the next key, once the coordinator has admitted it.

    Example: phcc-client activate-key
    """
    from phcc_client import admin_commands

    admin_commands.activate(_open(home), yes=yes)


@app.command("set")
def set_command(
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="Keys of client.yaml.")],
    home: HomeFolder = DEFAULT_HOME,
) -> None:
    """Change settings of this machine: data, device, threads, proxy, minimum_count and the ports.

    Example: phcc-client set data=/srv/liver device=cuda:0
    """
    from phcc_client import admin_commands

    admin_commands.change(_open(home), changes)


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="One log; default: all.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="So many lines of each.")] = 30,
) -> None:
    """Show the end of this machine's logs. They never leave.

    Example: phcc-client logs errors --lines 100
    """
    from phcc_client import admin_commands

    admin_commands.logs(_open(home), name, lines)


def _decide(home: Path, words: Sequence[str], choice: Choice, note: str, *, every: bool, yes: bool) -> None:
    from phcc_client import study_commands

    study_commands.decide(_open(home), words, choice, note, every=every, yes=yes)


def _open(home: Path) -> Home:
    from phcc_client.home import Home

    return Home.open(home)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``phcc-client``."""
    sys.exit(run_program(app, arguments))


ingest_cli.register(app)
mistakes_cli.register(app)
predict_cli.register(app)
service_cli.register(app)
