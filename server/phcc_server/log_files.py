"""The logs of an instance, as a person reads them: the end of one, and what is added to it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from phcc_model.contract.enrolment import SITE_NAME
from phcc_model.errors import ConfigError
from phcc_model.storage import storage_error
from phcc_server.front_door import ACCESS_LOG
from phcc_server.instance import Instance

ACCESS = "access"
"""The front door's list of requests; all other logs have their program's name."""
LONGEST_TAIL = 4 * 2**20
POLL_S = 0.5
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def names(instance: Instance) -> tuple[str, ...]:
    """The logs that there are."""
    found = sorted(path.stem for path in instance.logs.glob("*.log"))
    return (*found, *([ACCESS] if (instance.folder / ACCESS_LOG).is_file() else []))


def tail(instance: Instance, name: str, lines: int) -> list[str]:
    """The last lines of a log, printable.

    Raises:
        ConfigError: there is no such log; names those that there are.
        StorageError: it cannot be read.
    """
    path = _path(instance, name)
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LONGEST_TAIL))
            text = file.read().decode(errors="replace")
    except OSError as error:
        raise storage_error(path, error) from error
    return [_printable(line) for line in text.splitlines()[-lines:]] if lines else []


def follow(instance: Instance, name: str) -> Iterator[str]:
    """What is added to a log from now on, without end; a log that was emptied is read from its start.

    Raises:
        ConfigError: there is no such log.
        StorageError: it cannot be read.
    """
    path = _path(instance, name)
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            rest = b""
            while True:
                if path.stat().st_size < file.tell():
                    file.seek(0)
                *whole, rest = (rest + file.read()).split(b"\n")
                yield from (_printable(line.decode(errors="replace")) for line in whole)
                time.sleep(POLL_S)
    except OSError as error:
        raise storage_error(path, error) from error


def _path(instance: Instance, name: str) -> Path:
    if name not in (known := names(instance)) or not re.fullmatch(SITE_NAME, name):
        raise ConfigError(
            "there is no such log", where=name, remedy=f"There are: {', '.join(known) or 'none yet'}"
        )
    return instance.folder / ACCESS_LOG if name == ACCESS else instance.logs / f"{name}.log"


def _printable(line: str) -> str:
    """Without what would move a terminal's cursor: some of a log's words come from outside."""
    plain = _COLOUR.sub("", line.rstrip("\r\n"))
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in plain)
