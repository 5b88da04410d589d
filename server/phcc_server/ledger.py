"""The record of every round: append-only, one JSON line each, every line bound to the one before it.

A line is ``{"previous": ..., "record": {...}, "seal": ...}``; its seal is the SHA-256 of the previous line's
seal and of the record's canonical JSON. Altering, removing or moving a line breaks the chain behind it; the
file ``<ledger>.head`` beside it holds the number of lines and the last seal, and so shows when lines are
missing at the end. This finds mistakes and quiet edits; against someone who rewrites both files, keep the
last seal elsewhere (it is one line).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.contract import keys
from phcc_model.errors import StorageError
from phcc_server.rounds import RoundStatus
from phcc_server.store import storage_error, write_atomically

BEGIN = "0" * 64
"""What the first line names as the seal before it."""

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteRecord(_Part):
    """What one site gave to a round; counts and lengths are None where nothing usable came."""

    status: Literal["accepted", "refused", "missing", "failed"]
    reason: str | None = Field(None, description="one line, where the status is not accepted")
    patients: Count | None = None
    cases: Count | None = None
    steps: Count | None = None
    seconds: Number | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    metrics: dict[str, float] = {}
    delta_norm: Number | None = Field(None, description="Euclidean length of the change")
    weight: Number | None = Field(None, description="what the change counted in the mean")


class ValidationRecord(_Part):
    """The aggregated weights on all sites' validation patients."""

    loss: float | None
    auc: float | None
    threshold: float | None = Field(None, description="Youden, on the probability")
    cases: Count = 0


class RoundRecord(_Part):
    """One round of one arm."""

    arm: str
    stage: keys.Stage
    round: Count
    status: RoundStatus
    started: AwareDatetime
    finished: AwareDatetime
    seconds: Number
    sites: dict[str, SiteRecord]
    digest_before: str = Field(description="of the model's state before the round")
    digest_after: str = Field(description="and after it; the same where the round failed")
    validation: ValidationRecord | None = None
    best: bool = Field(False, description="the best round of its stage so far, on validation")
    versions: dict[str, str] = {}


class Ledger:
    """The ledger of one run; one process writes it at a time.

    Args:
        path: the file; its folder is made if need be.

    Attributes:
        notes: what was set right when the file was opened (a last line that a crash cut short).

    Raises:
        StorageError: the file cannot be read, or its chain does not hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        lines, whole = _complete_lines(path)
        faults = _faults(lines, _read_head(path))
        if faults:
            raise StorageError(
                f"the record of rounds does not hold: {faults[0]}",
                where=str(path),
                remedy="Restore it from a copy, or choose another folder for the run",
            )
        if path.exists() and path.stat().st_size > whole:
            self.notes = (f"{path.name}: line {len(lines) + 1} was cut short by a crash and is dropped",)
            self._truncate(whole)
        self._count = len(lines)
        self._seal = lines[-1]["seal"] if lines else BEGIN
        if lines:
            self._write_head(self._count, self._seal)

    @property
    def head(self) -> str:
        """The seal of the last line: who keeps it can later prove that nothing before it was changed."""
        return self._seal

    def append(self, record: RoundRecord) -> None:
        """Add one round; it is on the disk when this returns.

        Raises:
            StorageError: the disk is full or not writable; the lines before are untouched.
        """
        plain = record.model_dump(mode="json")
        seal = _seal(self._seal, plain)
        line = _written({"previous": self._seal, "record": plain, "seal": seal}) + b"\n"
        if not self._count:
            self._write_head(0, BEGIN)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            self._write_head(self._count + 1, seal)
        except (OSError, StorageError) as error:
            self._truncate(before)
            if isinstance(error, StorageError):
                raise
            raise storage_error(self.path, error) from error
        self._count, self._seal = self._count + 1, seal

    def read(self) -> tuple[RoundRecord, ...]:
        """All rounds, in the order in which they were appended.

        Raises:
            StorageError: the file cannot be read, or a line is no record of a round.
        """
        lines, _ = _complete_lines(self.path)
        try:
            return tuple(RoundRecord.model_validate(line["record"]) for line in lines)
        except (ValidationError, KeyError, TypeError) as error:
            raise StorageError("a line is no record of a round", where=str(self.path)) from error

    def _write_head(self, count: int, seal: str) -> None:
        write_atomically(_head_path(self.path), json.dumps({"lines": count, "seal": seal}))

    def _truncate(self, size: int) -> None:
        if self.path.exists():
            try:
                os.truncate(self.path, size)
            except OSError as error:
                raise storage_error(self.path, error) from error


def verify(path: Path) -> tuple[str, ...]:
    """What is wrong with a ledger: one line per fault, none if it holds.

    A last line without its end is what a crash leaves, and no fault.

    Raises:
        StorageError: the file cannot be read.
    """
    lines, _ = _complete_lines(path)
    return _faults(lines, _read_head(path))


def _seal(previous: str, record: dict[str, Any]) -> str:
    text = previous + json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _head_path(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _complete_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Every line that has its end, parsed ({} where that fails), and the bytes they take."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise storage_error(path, error) from error
    whole = content.rfind(b"\n") + 1
    return [_parsed(line) for line in content[:whole].split(b"\n")[:-1]], whole


def _written(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True).encode()


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as it was written; one that says the same in other bytes was not written here."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and _written(parsed) == line else {}


def _read_head(path: Path) -> tuple[int, str] | None:
    head = _head_path(path)
    try:
        plain = json.loads(head.read_text(encoding="utf-8"))
        return int(plain["lines"]), str(plain["seal"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(head, error) from error
    except (ValueError, KeyError, TypeError):
        return -1, ""  # a head that says nothing fits no ledger


def _faults(lines: list[dict[str, Any]], head: tuple[int, str] | None) -> tuple[str, ...]:
    faults = []
    previous = BEGIN
    for number, line in enumerate(lines, 1):
        record, seal = line.get("record"), line.get("seal")
        if (
            not isinstance(record, dict)
            or not isinstance(seal, str)
            or set(line) != {"previous", "record", "seal"}
        ):
            faults.append(f"line {number} is no line of a ledger")
        elif line["previous"] != previous:
            faults.append(
                f"line {number} does not follow the line before it: one was removed, moved or added"
            )
        elif seal != _seal(previous, record):
            faults.append(f"line {number} has been altered")
        previous = str(seal)
    if head is None:
        return (*faults, f"the head is missing beside {len(lines)} lines") if lines else tuple(faults)
    count, seal = head
    # A crash between the line and its head leaves the head one behind: that is the only gap allowed.
    if not count <= len(lines) <= count + 1:
        faults.append(f"the head counts {count} lines, there are {len(lines)}")
    elif count and lines[count - 1].get("seal") != seal:
        faults.append(f"line {count} is not the one that the head names")
    return tuple(faults)
