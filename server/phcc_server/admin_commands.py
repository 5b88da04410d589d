"""What the commands of ``phcc-server`` about the server and its hospitals do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from phcc_model.contract.enrolment import StudyCard, write_file
from phcc_model.errors import ConfigError, PhccError, StorageError
from phcc_model.shipped import find_study
from phcc_model.storage import write_atomically
from phcc_model.study_file import dump_study, load_study, read_text
from phcc_model.supervised import read_status
from phcc_server import backup as backups
from phcc_server import certificates, front_door, log_files
from phcc_server.hospitals import Register
from phcc_server.instance import Instance
from phcc_server.nodes import reconcile
from phcc_server.options import console


def make_instance(folder: Path, name: str, address: str, **settings: object) -> None:
    """Make an instance and say what to do next.

    Raises:
        PhccError: a setting is wrong, or the folder is not empty or cannot be written.
    """
    instance = Instance.create(folder, name, address, **settings)  # type: ignore[arg-type]
    Register(instance.records)
    console.print(f"made {instance.folder}")
    console.print(f"  hospitals connect to   {instance.settings.address}")
    console.print(f"  the front door listens {instance.settings.listen}")
    console.print(f"  certificate is for     {', '.join(instance.settings.hosts)}")
    for expiry in certificates.expiry(instance.tls):
        console.print(f"  {expiry.name + ' until':<30} {expiry.ends:%Y-%m-%d}")
    console.print(
        f"  authority's fingerprint (SHA-256) {certificates.certificate_fingerprint(instance.ca_pem)}"
    )
    try:
        front_door.check(instance)
    except PhccError as error:
        console.print(f"  before you start it: {error}")
    console.print("next: phcc-server start, and phcc-server invite HOSPITAL")


def invite(folder: Path, hospital: str, studies: Sequence[str], purpose: str) -> None:
    """Write a hospital's kit and say how it gets there.

    Raises:
        PhccError: the hospital cannot be invited, a study cannot be read, or the kit cannot be written.
    """
    instance = Instance.open(folder)
    cards = [_card(study, purpose) for study in studies]
    ca_pem = read_text(instance.ca_pem)
    settings = instance.settings
    kit = Register(instance.records).invite(
        hospital, server=settings.address, ca_pem=ca_pem, days=settings.invitation_days, studies=cards
    )
    path = instance.kits / f"{kit.hospital}.kit.yaml"
    write_atomically(path, write_file(kit))
    console.print(f"kit for {kit.hospital}: {path}")
    console.print(f"  good until {kit.expires:%Y-%m-%d %H:%M} UTC, once, for one key")
    for card in cards:
        console.print(f"  study {card.name} {card.digest[:16]}")
    console.print(
        f"  authority's fingerprint (SHA-256) {certificates.certificate_fingerprint(instance.ca_pem)}"
    )
    console.print(
        f"next: send the kit to {kit.hospital} by a way that you trust; there: phcc-client init KIT. "
        "It gives an admission file back: phcc-server admit FILE"
    )
    _warn(instance)


def admit(folder: Path, file: Path) -> None:
    """Admit the key of an admission file, at once where the server runs.

    Raises:
        PhccError: the file cannot be read, or the admission is refused.
    """
    instance = Instance.open(folder)
    register = Register(instance.records)
    admitted = register.admit(read_text(file), file.name)
    words = {"first": "is admitted", "rotated": "has a second key", "again": "is admitted already; no change"}
    console.print(f"{admitted.hospital} {words[admitted.kind]}")
    console.print(f"  key {admitted.fingerprint}")
    _apply(instance, register)
    if admitted.kind == "again":
        return
    console.print(
        f"next: telephone {admitted.hospital} and compare the key; if it differs: "
        f"phcc-server revoke {admitted.hospital}"
    )
    if admitted.kind == "rotated":
        console.print(f"when it uses the new key: phcc-server retire {admitted.hospital}")


def revoke(folder: Path, hospital: str) -> None:
    """Let no key of a hospital in any more, at once where the server runs.

    Raises:
        PhccError: there is no such hospital, or a server that runs does not answer.
    """
    instance = Instance.open(folder)
    register = Register(instance.records)
    found = register.revoke(hospital)
    _say_changed(hospital, found, "revoked")
    _apply(instance, register)


def retire(folder: Path, hospital: str) -> None:
    """Let only the newest key of a hospital in, at once where the server runs.

    Raises:
        PhccError: there is no such hospital, or a server that runs does not answer.
    """
    instance = Instance.open(folder)
    register = Register(instance.records)
    found = register.retire(hospital)
    _say_changed(hospital, found, "retired")
    _apply(instance, register)


def show_hospitals(folder: Path, *, events: bool) -> None:
    """Show how the hospitals stand, or all that was done and refused.

    Raises:
        PhccError: the register cannot be read.
    """
    register = Register(Instance.open(folder).records)
    if events:
        for event in register.events():
            line = f"{event.at:%Y-%m-%d %H:%M:%S}  {event.who}  {event.what}  {event.hospital or '-'}"
            console.print(f"{line}  {event.detail}")
        return
    found = register.hospitals()
    if not found:
        console.print("no hospital was invited yet: phcc-server invite HOSPITAL")
        return
    table = Table("hospital", "state", "key", "since", box=None, pad_edge=False)
    for hospital in found:
        if not hospital.keys:
            table.add_row(hospital.name, hospital.state, f"(invited until {hospital.expires:%Y-%m-%d})", "")
        for number, key in enumerate(hospital.keys):
            name, state = (hospital.name, hospital.state) if number == 0 else ("", "")
            table.add_row(name, state, f"{key.fingerprint} {key.state}", f"{key.since:%Y-%m-%d}")
    console.print(table)


def renew_certificate(folder: Path) -> None:
    """Make a new server certificate for the names in the settings, and let what runs take it up.

    Raises:
        PhccError: the authority has ended or cannot be read, nginx refuses, or the SuperLink does not come back.
    """
    instance = Instance.open(folder)
    renewed = certificates.renew(instance.tls, instance.settings.hosts, instance.settings.certificate_days)
    console.print(f"new certificate until {renewed.ends:%Y-%m-%d} for {', '.join(instance.settings.hosts)}")
    if read_status(instance.folder) is not None:
        _take_up_certificate(instance)
    _warn(instance)


def _take_up_certificate(instance: Instance) -> None:
    from phcc_server import superlink

    if front_door.reload(instance):
        console.print("the front door shows it from now on")
    if superlink.restart(instance):
        console.print("so does the SuperLink behind it, which was started anew for that; runs go on")


def make_backup(folder: Path, file: Path) -> None:
    """Write a backup.

    Raises:
        PhccError: something cannot be read or written.
    """
    manifest = backups.backup(Instance.open(folder), file)
    size = sum(described.size for described in manifest.files.values())
    console.print(f"{len(manifest.files)} files, {size / 2**20:.1f} MB, in {file}")
    console.print("it holds the authority's key: keep it where only you can read it")


def restore_backup(folder: Path, file: Path) -> None:
    """Make an instance from a backup.

    Raises:
        PhccError: the folder is not empty, or the backup is damaged.
    """
    instance = backups.restore(file, folder)
    console.print(f"restored to {instance.folder}; hospitals connect to {instance.settings.address}")
    console.print("next: see that the old server does not run any more, then phcc-server start")


def show_log(folder: Path, name: str | None, lines: int, *, follow: bool) -> None:
    """Show the end of a log and, if wished, what is added to it; the last line of each where none is named.

    Raises:
        PhccError: there is no such log, or it cannot be read.
    """
    instance = Instance.open(folder)
    if name is None:
        for each in log_files.names(instance):
            console.print(f"{each}: {''.join(log_files.tail(instance, each, 1)) or '(empty)'}")
        return
    for line in log_files.tail(instance, name, lines):
        console.print(line)
    if follow:
        for line in log_files.follow(instance, name):
            console.print(line)


def _apply(instance: Instance, register: Register) -> None:
    """Make the SuperLink's nodes equal to the register's keys, if one runs."""
    from phcc_server.superlink import Control

    try:
        with Control(instance) as control:
            for line in reconcile(register, control):
                console.print(f"  {line}")
    except PhccError as error:
        if read_status(instance.folder) is None:
            console.print("the server does not run: this will take effect at the next start")
            return
        raise StorageError(
            f"this is in the register, but the SuperLink did not take it ({error})".replace(".)", ")"),
            where=str(instance.folder),
            remedy="Give the same command again; if that does not help, stop and start the server",
        ) from error


def _say_changed(hospital: str, found: Sequence[str], state: str) -> None:
    if not found:
        console.print(f"{hospital}: no key had to be {state}")
    for key in found:
        console.print(f"{hospital}: key {key} is {state}")


def _card(study_name: str, purpose: str) -> StudyCard:
    study = load_study(find_study(study_name))
    try:
        return StudyCard(name=study.name, digest=study.digest, purpose=purpose, text=dump_study(study))
    except ValidationError as error:
        raise ConfigError("is too long for a kit", where="--purpose", remedy="Use 4000 characters") from error


def _warn(instance: Instance) -> None:
    for line in certificates.warnings(instance.tls, instance.settings.hosts):
        console.print(f"warning: {line}")
