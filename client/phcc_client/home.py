"""A hospital's folder: its settings, its keys, what it agreed to and what left it.

::

    HOME/client.yaml        settings of this machine, a person may edit them
    HOME/kit.yaml           the coordinator's invitation, kept to rotate the key
    HOME/ca.pem             whom to believe that it is the coordinator
    HOME/keys/              this hospital's key pair; the private half never leaves
    HOME/policy/            decisions about studies
    HOME/studies/           the studies that came in, by digest
    HOME/outbox.jsonl       every message that left
    HOME/machine_notes.jsonl    what this machine could not do as asked
    HOME/site/              prepared crops, memory, errors.log
    HOME/scores/            every test case's score, by study and arm; never leaves
    HOME/spool/ logs/ bin/ flower/      what runs and what it says

Only the owner of the folder may look into it.
"""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, field_validator, model_validator

from phcc_model.config import Positive, Section
from phcc_model.contract.enrolment import Address, SiteName
from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_model.study_file import parse_section, read_text

SETTINGS_FILE = "client.yaml"
KIT_FILE = "kit.yaml"
_FOLDERS = ("keys", "policy", "studies", "spool", "site", "scores", "logs", "bin", "flower")

Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,2})?)$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class ClientSettings(Section):
    """What one hospital's machine needs to know; nothing of it is sent to the coordinator but the name."""

    hospital: SiteName = Field(description="this hospital's name in every study")
    server: Address = Field(description="the coordinator's host:port")
    data: str | None = Field(None, description="folder (or file) of this hospital's images")
    centre: str | None = Field(
        None, min_length=1, description="use only the rows of the data whose column centre says this"
    )
    device: Device | tuple[Device, ...] = Field(
        "cpu", description="cpu, cuda, cuda:1, or a list of several GPUs"
    )
    threads: int | None = Field(None, ge=1, description="threads for training; null: all cores")
    proxy: str | None = Field(
        None,
        pattern=r"^http://([^\s/@]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?$",
        description="HTTP proxy on the way to the coordinator, http://host:port",
    )
    minimum_count: int = Field(
        5, ge=1, description="no count of patients below this leaves the hospital; 1: every count may"
    )
    heartbeat_s: Positive = Field(20.0, description="seconds between two signs of life")
    runtime_port: Port = Field(9501, description="loopback port between the programs of this machine")
    health_port: Port = Field(9502, description="loopback port that says whether the node is well")
    metrics_port: Port = Field(9503, description="loopback port of the Prometheus metrics")

    @field_validator("server", "proxy")
    @classmethod
    def _port_is_one(cls, address: str | None) -> str | None:
        number = (address or "").rstrip("/").rpartition(":")[2]
        if number.isdecimal() and not 0 < int(number) < 65536:
            raise ValueError(f"there is no port {number}")
        return address

    @field_validator("device")
    @classmethod
    def _devices_are_a_set(cls, device: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(device, tuple):
            if not device or len(set(device)) != len(device):
                raise ValueError("name each GPU once, and at least one")
            if len(device) > 1 and not all(name.startswith("cuda:") for name in device):
                raise ValueError("several devices must be GPUs with their numbers: [cuda:0, cuda:1]")
        return device

    @model_validator(mode="after")
    def _ports_differ(self) -> ClientSettings:
        if len({self.runtime_port, self.health_port, self.metrics_port}) < 3:
            raise ValueError("runtime_port, health_port and metrics_port must differ")
        return self

    def changed(self, change: str) -> ClientSettings:
        """These settings with one value replaced.

        Args:
            change: ``KEY=VALUE``, the value written as in YAML.

        Raises:
            ConfigError: the key is unknown or the value is not valid; names it.
        """
        key, equals, value = change.partition("=")
        where = " ".join(change.split())[:80]
        if not equals or not key.strip() or not change.isprintable():
            raise ConfigError("is not of the form KEY=VALUE", where=where)
        kept = self.model_dump(mode="json", exclude={key.strip()})
        return parse_section(f"{_as_yaml(kept)}{key.strip()}: {value}\n", ClientSettings, where=where)


@dataclass(frozen=True)
class Home:
    """A hospital's folder, opened.

    Attributes:
        folder: absolute.
        settings: of ``client.yaml``.
    """

    folder: Path
    settings: ClientSettings

    @classmethod
    def open(cls, folder: Path) -> Home:
        """Read a folder that `phcc-client init` made.

        Raises:
            ConfigError: there is no such folder, or its settings are not valid.
            StorageError: the folder cannot be used, or its private key can be read by others.
        """
        folder = folder.expanduser().resolve()
        path = folder / SETTINGS_FILE
        if not path.exists():
            raise ConfigError(
                f"there is no {SETTINGS_FILE} here",
                where=str(folder),
                remedy="Make the folder with phcc-client init KIT, or name another one with --home",
            )
        home = cls(folder, parse_section(read_text(path), ClientSettings, where=str(path)))
        home._make_folders()
        for key in (home.private_key, home.next_private_key):
            must_be_private(key)
        return home

    @classmethod
    def make(cls, folder: Path, settings: ClientSettings) -> Home:
        """Make a hospital's folder, or give the one that is there these settings.

        Raises:
            StorageError: it cannot be written.
        """
        home = cls(folder.expanduser().resolve(), settings)
        home._make_folders()
        home.save()
        return home

    def save(self) -> None:
        """Write ``client.yaml``, each key with what it means.

        Raises:
            StorageError: it cannot be written.
        """
        lines = ["# Settings of this hospital's machine; `phcc-client set KEY=VALUE` changes one."]
        plain = self.settings.model_dump(mode="json")
        for key, field in ClientSettings.model_fields.items():
            lines += [f"# {field.description}", _as_yaml({key: plain[key]}).rstrip()]
        write_atomically(self.folder / SETTINGS_FILE, "\n".join(lines) + "\n")

    @property
    def kit(self) -> Path:
        """The coordinator's invitation; its secret is needed to rotate the key."""
        return self.folder / KIT_FILE

    @property
    def ca(self) -> Path:
        """The certificate that the coordinator's is signed with."""
        return self.folder / "ca.pem"

    @property
    def private_key(self) -> Path:
        """The private key of this node."""
        return self.folder / "keys" / "node"

    @property
    def public_key(self) -> Path:
        """The public key of this node."""
        return self.folder / "keys" / "node.pub"

    @property
    def next_private_key(self) -> Path:
        """The private key that takes its place, while it is being rotated."""
        return self.folder / "keys" / "node.next"

    @property
    def policy(self) -> Path:
        """Decisions about studies."""
        return self.folder / "policy"

    @property
    def studies(self) -> Path:
        """The studies that came in, by digest."""
        return self.folder / "studies"

    @property
    def spool(self) -> Path:
        """Orders and replies between the programs of this machine."""
        return self.folder / "spool"

    @property
    def outbox(self) -> Path:
        """The record of every message that left."""
        return self.folder / "outbox.jsonl"

    @property
    def site(self) -> Path:
        """The site's folder: prepared cases, memory, errors."""
        return self.folder / "site"

    @property
    def scores(self) -> Path:
        """Every test case's score, by study and arm."""
        return self.folder / "scores"

    @property
    def logs(self) -> Path:
        """What the programs say."""
        return self.folder / "logs"

    @property
    def bin(self) -> Path:
        """Programs that are started by name."""
        return self.folder / "bin"

    @property
    def flower(self) -> Path:
        """Flower's own home."""
        return self.folder / "flower"

    def _make_folders(self) -> None:
        try:
            for folder in (self.folder, *(self.folder / name for name in _FOLDERS)):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True)
                    folder.chmod(0o700)  # whatever the umask
        except OSError as error:
            raise storage_error(self.folder, error) from error


def must_be_private(key: Path) -> None:
    """Check that only its owner can read a file, if it is there.

    Raises:
        StorageError: others can.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_IMODE(key.stat().st_mode) & 0o077:
            raise StorageError(
                "the private key can be read by others than its owner",
                where=str(key),
                remedy=f"Run chmod 600 {key}; if others use this machine, make a new key with "
                "phcc-client rotate-key",
            )


def _as_yaml(plain: dict[str, object]) -> str:
    return yaml.safe_dump(plain, sort_keys=False, default_flow_style=False, width=100) if plain else ""
