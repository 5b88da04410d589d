"""``phcc-server``: the coordinator's side of a study in real hospitals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from phcc_model.command_line import run_program
from phcc_server import export_cli, run_cli
from phcc_server.options import DEFAULT_INSTANCE, InstanceFolder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Coordinate a pHCC-SSL study over real hospitals.\n\n"
    "Example: phcc-server init --address phcc.example.org:443",
    epilog="Every command takes --instance FOLDER (or PHCC_SERVER_INSTANCE). --debug shows tracebacks.",
)

HospitalName = Annotated[str, typer.Argument(metavar="HOSPITAL", help="Its name: letters, digits, - and _.")]


@app.command("init")
def init_command(
    instance: InstanceFolder = DEFAULT_INSTANCE,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Where hospitals connect to.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of this server, for people.")] = "coordinator",
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="IP:PORT", help="Of the front door; default: all, same port."),
    ] = None,
    sans: Annotated[
        list[str] | None,
        typer.Option("--san", metavar="NAME", help="A further name or IP in the certificate; repeatable."),
    ] = None,
    invitation_days: Annotated[int | None, typer.Option("--invitation-days", min=1)] = None,
    certificate_days: Annotated[int | None, typer.Option("--certificate-days", min=1)] = None,
) -> None:
    """Make a server: authority, certificate, secrets, settings. Asks for what is not given.

    Example: phcc-server init --address phcc.example.org:443 --listen 0.0.0.0:8443 --san 10.0.0.1
    """
    from phcc_server.admin_commands import make_instance

    if address is None:
        if not sys.stdin.isatty():
            raise typer.BadParameter("give --address HOST:PORT")
        address = typer.prompt("Where do hospitals connect to (host:port)?")
        sans = sans or typer.prompt("Further names or IPs, with spaces between", default="").split()
    settings = {"invitation_days": invitation_days, "certificate_days": certificate_days}
    make_instance(instance, name, address, listen=listen, sans=sans or None, **settings)


@app.command("invite")
def invite_command(
    hospital: HospitalName,
    instance: InstanceFolder = DEFAULT_INSTANCE,
    study: Annotated[
        list[str] | None, typer.Option("--study", metavar="FILE", help="A study to tell of; repeatable.")
    ] = None,
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for, in a hospital's words.")] = "",
) -> None:
    """Invite a hospital: write the kit that it starts from.

    Example: phcc-server invite st-mary --study study.yaml --purpose "Proliferative HCC from MRI"
    """
    from phcc_server.admin_commands import invite

    invite(instance, hospital, study or [], purpose)


@app.command("admit")
def admit_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The admission file that came back.")],
    instance: InstanceFolder = DEFAULT_INSTANCE,
) -> None:
    """Admit a hospital's key, and print its fingerprint to compare by telephone.

    Example: phcc-server admit st-mary.admission.yaml
    """
    from phcc_server.admin_commands import admit

    admit(instance, file)


@app.command("revoke")
def revoke_command(hospital: HospitalName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Let no key of a hospital in any more, at once.

    Example: phcc-server revoke st-mary
    """
    from phcc_server.admin_commands import revoke

    revoke(instance, hospital)


@app.command("retire")
def retire_command(hospital: HospitalName, instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """End a change of keys: let only the hospital's newest key in.

    Example: phcc-server retire st-mary
    """
    from phcc_server.admin_commands import retire

    retire(instance, hospital)


@app.command("hospitals")
def hospitals_command(
    instance: InstanceFolder = DEFAULT_INSTANCE,
    events: Annotated[bool, typer.Option("--events", help="All that was done and refused.")] = False,
) -> None:
    """Show who is invited, admitted and revoked, with their keys.

    Example: phcc-server hospitals --events
    """
    from phcc_server.admin_commands import show_hospitals

    show_hospitals(instance, events=events)


@app.command("renew-certificate")
def renew_command(instance: InstanceFolder = DEFAULT_INSTANCE) -> None:
    """Make a new certificate for the server, by the same authority; hospitals notice nothing.

    Example: phcc-server renew-certificate
    """
    from phcc_server.admin_commands import renew_certificate

    renew_certificate(instance)


@app.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .tar.gz to write.")],
    instance: InstanceFolder = DEFAULT_INSTANCE,
) -> None:
    """Write all that is needed to go on elsewhere into one file; the server may be running.

    Example: phcc-server backup /backup/phcc-2026-11-24.tar.gz
    """
    from phcc_server.admin_commands import make_backup

    make_backup(instance, file)


@app.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    instance: InstanceFolder = DEFAULT_INSTANCE,
) -> None:
    """Make the server's folder from a backup; it must be new or empty.

    Example: phcc-server restore /backup/phcc-2026-11-24.tar.gz --instance phcc-server
    """
    from phcc_server.admin_commands import restore_backup

    restore_backup(instance, file)


@app.command("logs")
def logs_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of a program, or access.")] = None,
    instance: InstanceFolder = DEFAULT_INSTANCE,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last ones.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added.")] = False,
) -> None:
    """Show the end of a log; without a name, the last line of each.

    Example: phcc-server logs superlink --follow
    """
    from phcc_server.admin_commands import show_log

    show_log(instance, name, lines, follow=follow)


run_cli.register(app)
export_cli.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``phcc-server``."""
    sys.exit(run_program(app, arguments))
