"""The coordinator's instance: one folder that holds all of a server's settings, secrets and records.

::

    INSTANCE/server.yaml        settings, for people to edit
    INSTANCE/tls/               the authority and the server's certificate, with their keys
    INSTANCE/secrets/           what the SuperExec shows to the SuperLink
    INSTANCE/records.db         hospitals, invitations, keys, and what was done with them
    INSTANCE/kits/              one file per invited hospital
    INSTANCE/runs/              one folder per run
    INSTANCE/flower/            Flower's home; its database
    INSTANCE/front/             what nginx reads and writes
    INSTANCE/logs/              one file per program

Folders are 0700 and what is secret is 0600: an instance whose secrets others can read is not opened.
"""

from __future__ import annotations

import ipaddress
import random
import re
import secrets
import shlex
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, model_validator

from phcc_model.config import Section
from phcc_model.contract.enrolment import SiteName
from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_model.study_file import parse_section, read_text
from phcc_server import certificates

SETTINGS = "server.yaml"
FOLDERS = ("tls", "secrets", "flower", "runs", "logs", "front", "kits")
SECRET_BYTES = 32
PORTS = range(20_000, 32_000)
"""Below the range from which the system takes ports for outgoing connections, so that they stay free."""
LOOPBACK_PORTS = ("superlink_port", "superlink_health_port", "superexec_health_port", "metrics_port")
_HEAD = "# Settings of this server. Stop it before a change, and start it again.\n"
_HOST_NAME = re.compile(
    r"^(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9-]{1,63})*$"
)


def _checked_host(host: str) -> str:
    """A DNS name or an IP address."""
    try:
        if "%" in host:  # the zone of an IPv6 address, which could be any text
            raise ValueError
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is neither a DNS name nor an IP address") from None
    return host


def _checked_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or not re.fullmatch(r"[0-9]+", port) or (":" in host and not bracketed):
        raise ValueError(f"{address!r} is not of the form host:port (an IPv6 host in brackets)")
    _checked_host(host[1:-1] if bracketed else host)
    if not 1 <= int(port) <= 65_535 or len(port) > 5:
        raise ValueError(f"{port} is no port")
    return address


def _checked_listen(address: str) -> str:
    host, _ = split_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host} is no IP address; 0.0.0.0 stands for all of this machine's") from None
    return address


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 host stands in brackets there, and without them here."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


Host = Annotated[str, AfterValidator(_checked_host)]
HostAndPort = Annotated[str, AfterValidator(_checked_address)]
Listen = Annotated[HostAndPort, AfterValidator(_checked_listen)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Days = Annotated[int, Field(ge=1, le=36_500)]


class ServerSettings(Section):
    """What is configured of a server; stored as ``server.yaml``."""

    name: SiteName = Field(description="of the server, for people")
    address: HostAndPort = Field(description="host:port to which hospitals connect")
    listen: Listen = Field(description="ip:port where the front door listens on this machine")
    sans: tuple[Host, ...] = Field((), description="further names and addresses in the certificate")
    superlink_port: Port = Field(description="on loopback, like the three below")
    superlink_health_port: Port
    superexec_health_port: Port
    metrics_port: Port
    largest_body_mb: Annotated[int, Field(ge=8, le=2048)] = Field(
        64, description="of one request; Flower cuts what it sends into pieces of 5 MB"
    )
    connections_per_address: Annotated[int, Field(ge=4)] = 128
    invitation_days: Days = 14
    certificate_days: Days = 397
    ca_days: Days = 3650

    @model_validator(mode="after")
    def _no_port_twice(self) -> ServerSettings:
        ports = [split_address(self.listen)[1], *(getattr(self, key) for key in LOOPBACK_PORTS)]
        if twice := {port for port in ports if ports.count(port) > 1}:
            raise ValueError(f"port {twice.pop()} is given to two programs")
        return self

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the server's certificate is for, the public name first."""
        return (split_address(self.address)[0], *self.sans)


@dataclass(frozen=True)
class Instance:
    """An instance that exists.

    Attributes:
        folder: absolute.
        settings: as its file had them when it was opened.
    """

    folder: Path
    settings: ServerSettings

    @classmethod
    def create(
        cls, folder: Path, name: str, address: str, listen: str | None = None, **others: object
    ) -> Instance:
        """Make an instance: settings, authority, certificate, secret and empty folders.

        Args:
            folder: new or empty.
            name: of the server.
            address: public host:port.
            listen: of the front door; all addresses of this machine, at the port of ``address``, if not given.
            **others: keys of `ServerSettings`; ports that are not given are chosen among the free ones.

        Raises:
            ConfigError: a setting is wrong.
            StorageError: the folder is not empty, or cannot be written.
        """
        folder = folder.absolute()
        text = yaml.safe_dump(_completed(name, address, listen, others), sort_keys=False)
        settings = _parse(text, "settings of the server")
        _refuse_if_used(folder)
        instance = cls(folder, settings)
        instance.make_folders()
        certificates.make_authority(instance.tls, name, settings.ca_days)
        certificates.renew(instance.tls, settings.hosts, settings.certificate_days)
        write_atomically(instance.superexec_secret, secrets.token_hex(SECRET_BYTES))
        # Last of all: a folder with settings is an instance, and is whole.
        write_atomically(
            folder / SETTINGS, _HEAD + yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
        )
        return instance

    @classmethod
    def open(cls, folder: Path) -> Instance:
        """The instance in a folder.

        Raises:
            ConfigError: there is none, or its settings are wrong.
            StorageError: others than its owner can read one of its secrets.
        """
        folder = folder.absolute()
        path = folder / SETTINGS
        if not path.is_file():
            raise ConfigError(
                "there is no server here",
                where=str(folder),
                remedy="Make one with phcc-server init, or name its folder with --instance",
            )
        instance = cls(folder, _parse(read_text(path), str(path)))
        instance.make_folders()
        for secret in instance.private_files():
            _refuse_if_readable(secret)
        return instance

    def make_folders(self) -> None:
        """Make what is missing of the folders; each is its owner's alone.

        Raises:
            StorageError: one cannot be made.
        """
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)
            except OSError as error:
                raise storage_error(folder, error) from error

    def private_files(self) -> tuple[Path, ...]:
        """What nobody but the instance's owner may read; each must be there."""
        return self.ca_key, self.server_key, self.superexec_secret

    @property
    def tls(self) -> Path:
        """Folder of the authority and the server's certificate."""
        return self.folder / "tls"

    @property
    def ca_pem(self) -> Path:
        """The authority's certificate, which every kit contains."""
        return self.tls / certificates.CA_CERTIFICATE

    @property
    def ca_key(self) -> Path:
        """Who has it can pass for this server."""
        return self.tls / certificates.CA_KEY

    @property
    def server_pem(self) -> Path:
        """The certificate of the front door and of the SuperLink behind it."""
        return self.tls / certificates.SERVER_CERTIFICATE

    @property
    def server_key(self) -> Path:
        """Its private key."""
        return self.tls / certificates.SERVER_KEY

    @property
    def superexec_secret(self) -> Path:
        """What the SuperExec shows to the SuperLink before it is given a task."""
        return self.folder / "secrets" / "superexec.secret"

    @property
    def flower(self) -> Path:
        """Flower's home (``FLWR_HOME``)."""
        return self.folder / "flower"

    @property
    def flower_database(self) -> Path:
        """The SuperLink's database."""
        return self.flower / "state.db"

    @property
    def records(self) -> Path:
        """The register of hospitals."""
        return self.folder / "records.db"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """One file per program."""
        return self.folder / "logs"

    @property
    def front(self) -> Path:
        """What nginx reads and writes."""
        return self.folder / "front"

    @property
    def kits(self) -> Path:
        """One file per invited hospital."""
        return self.folder / "kits"


def _parse(text: str, where: str) -> ServerSettings:
    return parse_section(
        text, ServerSettings, where=where, what="the settings of a server", remedy="Restore it from a backup"
    )


def _completed(
    name: str, address: str, listen: str | None, others: Mapping[str, object]
) -> dict[str, object]:
    """The settings of a new server as plain values, with free ports where none are given."""
    given = {key: value for key, value in others.items() if value is not None}
    port = re.search(r":(\d{1,5})$", address)  # an address without one is refused, and that is said once
    plain = {"name": name, "address": address, "listen": listen or f"0.0.0.0:{port[1] if port else 443}"}
    taken = {int(port) for port in re.findall(r":(\d{1,5})$", plain["listen"])}
    ports = _free_ports(taken | {value for value in given.values() if isinstance(value, int)})
    return {**plain, **{key: next(ports) for key in LOOPBACK_PORTS if key not in given}, **given}


def _free_ports(taken: set[int]) -> Iterator[int]:
    """Ports of loopback that nobody listens on now."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                yield port


def _refuse_if_used(folder: Path) -> None:
    try:
        found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise storage_error(folder, error) from error
    if SETTINGS in found:
        raise StorageError(
            "there is a server here already",
            where=str(folder),
            remedy="Start it with phcc-server start, or choose another folder",
        )
    if found and not set(found) <= set(FOLDERS):
        raise StorageError(
            f"is not empty (it holds {found[0]})", where=str(folder), remedy="Choose a new folder"
        )
    if found:
        raise StorageError(
            "a server was begun here and not finished",
            where=str(folder),
            remedy="Remove this folder and try again",
        )


def _refuse_if_readable(path: Path) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise StorageError("is missing", where=str(path), remedy="Restore it from a backup") from None
    except OSError as error:
        raise storage_error(path, error) from error
    if mode & 0o077:
        raise StorageError(
            f"others than its owner can read or write it (mode {mode:04o})",
            where=str(path),
            remedy=f"If nobody has, run chmod 600 {shlex.quote(str(path))}; else make a new instance",
        )
