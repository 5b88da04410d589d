"""Whether a folder has a supervisor, and how it and its programs are, by its lock and ``supervisor.json``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from phcc_model.errors import StorageError

STATUS = "supervisor.json"
LOCK = "supervisor.lock"
TICK_S = 0.25
LOCK_ATTEMPTS = 4


@dataclass(frozen=True)
class ProgramStatus:
    """How one program is.

    Attributes:
        name: of the program.
        pid: of its process; None while it is down.
        since: seconds since the epoch of its last start (or end, while it is down).
        restarts: starts after the first one.
        last_exit: exit code of the process before this one; negative: the signal that ended it.
    """

    name: str
    pid: int | None
    since: float
    restarts: int = 0
    last_exit: int | None = None


@dataclass(frozen=True)
class Status:
    """How a supervisor and its programs are: what ``supervisor.json`` holds."""

    pid: int
    started: float
    programs: tuple[ProgramStatus, ...] = ()

    def to_json(self) -> str:
        """For the file."""
        return json.dumps(asdict(self), indent=1)


def read_status(folder: Path) -> Status | None:
    """How the supervisor of a folder is; None where none is running."""
    try:
        plain = json.loads((folder / STATUS).read_text(encoding="utf-8"))
        programs = tuple(ProgramStatus(**program) for program in plain["programs"])
        status = Status(int(plain["pid"]), float(plain["started"]), programs)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return status if is_locked(folder) else None


def is_locked(folder: Path) -> bool:
    """Whether a supervisor serves this folder now."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, as its one supervisor.

    Raises:
        StorageError: it has one, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab")
    except OSError as error:
        raise StorageError(f"cannot be written ({error.strerror})", where=str(folder)) from error
    with file:
        for attempt in range(LOCK_ATTEMPTS):  # who only asks whether it is locked holds it for a moment
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt == LOCK_ATTEMPTS - 1:
                    raise StorageError(
                        "is running already", where=str(folder), remedy="Stop it first"
                    ) from error
                time.sleep(TICK_S)
        yield
