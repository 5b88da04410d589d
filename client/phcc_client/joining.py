"""How this hospital joins: its key pair is made here, and only the public half goes to the coordinator.

`join` takes the coordinator's kit and writes the admission file that goes back. Later the key can be rotated
without stopping a study: `rotate_key` makes the next key, vouched for by the present one; once the coordinator
has admitted it, `activate_key` puts it in place.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from phcc_client.home import KIT_FILE, SETTINGS_FILE, ClientSettings, Home, must_be_private
from phcc_client.policy import Policy
from phcc_model.contract import keys
from phcc_model.contract.enrolment import (
    Admission,
    Kit,
    fingerprint,
    make_admission,
    public_text,
    read_file,
    write_file,
)
from phcc_model.contract.wire import check_package
from phcc_model.errors import ContractError, StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_model.study_file import read_text


@dataclass(frozen=True)
class Joined:
    """What came of it.

    Attributes:
        home: the hospital's folder.
        admission: the file that goes to the coordinator.
        fingerprint: of the key in it, to be compared by telephone.
    """

    home: Home
    admission: Path
    fingerprint: str

    @property
    def authority(self) -> str:
        """SHA-256 of the certificate that the kit brought, as ``phcc-server invite`` shows it."""
        certificate = x509.load_pem_x509_certificate(self.home.ca.read_bytes())
        return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def join(kit_file: Path, folder: Path, out: Path | None = None, *, replace: bool = False) -> Joined:
    """Make a hospital's folder from a kit, its key pair included, and the admission file.

    Done again with the same kit, it keeps the key and every setting.

    Args:
        kit_file: from the coordinator.
        folder: the hospital's.
        out: folder for the admission file; default: beside the kit.
        replace: take another kit than the one that this folder joined by. A new invitation needs a new key,
            for the coordinator takes none back that was revoked.

    Raises:
        ConfigError: the kit cannot be read.
        ContractError: it is no kit, expired, for another package, or its certificate cannot be used.
        StorageError: the folder cannot be written, belongs to another hospital or joined by another kit.
    """
    kit = read_kit(kit_file)
    before = _joined_by(folder)
    if before is not None and before != kit and not replace:
        raise StorageError(
            "this hospital joined by another kit already",
            where=str(folder),
            remedy="Ask the coordinator whether this kit is really theirs; if so, add --replace",
        )
    home = Home.make(folder, _settings(kit, folder))
    if before is not None and before.invitation != kit.invitation:
        _forget_keys(home)
    key = load_key(home.private_key) if home.private_key.exists() else make_key(home.private_key)
    write_atomically(home.public_key, public_text(key.public_key()) + "\n")
    write_atomically(home.ca, kit.ca_pem)
    Policy(home.folder).see_cards(kit.studies)
    write_atomically(home.kit, write_file(kit))
    admission = make_admission(kit.hospital, kit.invitation, kit.secret, key, datetime.now(UTC))
    return _handed_out(home, admission, out or kit_file.parent, f"admission-{kit.hospital}.yaml")


def read_kit(kit_file: Path, now: datetime | None = None) -> Kit:
    """A kit that can be used now, by this package.

    Raises:
        ConfigError: the file cannot be read.
        ContractError: it is no kit, expired, for another package, or its certificate cannot be used.
    """
    where = str(kit_file)
    kit = read_file(read_text(kit_file), Kit, where)
    now = now or datetime.now(UTC)
    if kit.expires <= now:
        raise ContractError(
            f"the kit expired on {kit.expires:%d %B %Y, %H:%M} UTC",
            where=where,
            remedy="Ask the coordinator for a new one, or set this machine's clock if it is wrong",
        )
    check_package(kit.package, keys.package_version(), where)
    try:
        certificates = x509.load_pem_x509_certificates(kit.ca_pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ContractError(
            "the coordinator's certificate in it cannot be read",
            where=where,
            remedy="Ask for the file again, and send it unchanged",
        ) from error
    if any(certificate.not_valid_after_utc <= now for certificate in certificates):
        raise ContractError(
            "the coordinator's certificate in it has expired", where=where, remedy="Ask for a new kit"
        )
    return kit


def rotate_key(home: Home, out: Path | None = None) -> Joined:
    """Make the key that is to take the present one's place, and the admission that the present one vouches for.

    Done again before it is activated, it keeps that key. The present key goes on being used.

    Args:
        home: the hospital's folder.
        out: folder for the admission file; default: the hospital's folder.

    Raises:
        ConfigError: the kit is gone.
        StorageError: a key cannot be read or written.
    """
    kit = read_file(read_text(home.kit), Kit, str(home.kit))
    old = load_key(home.private_key)
    path = home.next_private_key
    key = load_key(path) if path.exists() else make_key(path)
    now = datetime.now(UTC)
    admission = make_admission(kit.hospital, kit.invitation, kit.secret, key, now, old=old)
    return _handed_out(home, admission, out or home.folder, f"admission-{kit.hospital}-next.yaml")


def activate_key(home: Home) -> str:
    """Put the next key in the present one's place, in one step.

    Returns:
        The fingerprint of the key that is used from now on.

    Raises:
        StorageError: there is no next key, or it cannot be put in place.
    """
    if not home.next_private_key.exists():
        raise StorageError(
            "there is no next key",
            where=str(home.next_private_key),
            remedy="Run phcc-client rotate-key first",
        )
    key = load_key(home.next_private_key)
    public = public_text(key.public_key())
    try:
        home.next_private_key.replace(home.private_key)
    except OSError as error:
        raise storage_error(home.private_key, error) from error
    write_atomically(home.public_key, public + "\n")
    return fingerprint(public)


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new private key on P-384 in OpenSSH's own format, as ``ssh-keygen -t ecdsa -b 384 -N ""`` makes it.

    Raises:
        StorageError: it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_atomically(path, text.decode("ascii"))
    return key


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key that `make_key` wrote.

    Raises:
        StorageError: it cannot be read, is of another kind, or can be read by others.
    """
    must_be_private(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise storage_error(path, error) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StorageError(
            "is no private key in OpenSSH's format",
            where=str(path),
            remedy="Restore it from a copy, or ask the coordinator for a new kit",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StorageError("is a key of another kind than ECDSA (P-384)", where=str(path))
    return key


def _joined_by(folder: Path) -> Kit | None:
    """The kit by which a folder joined."""
    kept = folder.expanduser() / KIT_FILE
    return read_file(read_text(kept), Kit, str(kept)) if kept.exists() else None


def _forget_keys(home: Home) -> None:
    try:
        for path in (home.private_key, home.next_private_key):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(home.private_key, error) from error


def _settings(kit: Kit, folder: Path) -> ClientSettings:
    """The kit's settings; what a person set in a folder that is there already is kept.

    Raises:
        StorageError: the folder is another hospital's.
    """
    folder = folder.expanduser()
    if not (folder / SETTINGS_FILE).exists():
        return ClientSettings(hospital=kit.hospital, server=kit.server)
    settings = Home.open(folder).settings
    before = _joined_by(folder)
    if settings.hospital != kit.hospital:
        raise StorageError(
            f"this folder is the hospital {settings.hospital}'s, the kit is for {kit.hospital}",
            where=str(folder),
            remedy="Name another folder with --home",
        )
    return settings if before == kit else settings.model_copy(update={"server": kit.server})


def _handed_out(home: Home, admission: Admission, folder: Path, name: str) -> Joined:
    path = folder / name
    try:
        write_atomically(path, write_file(admission))
        with contextlib.suppress(OSError):
            path.chmod(0o644)  # it holds no secret, and has to be sent
    except StorageError as error:
        raise StorageError(
            error.what, where=str(path), remedy="Name a folder that can be written with --out"
        ) from error
    return Joined(home, path, fingerprint(admission.public_key))
