"""Append-only records: one JSON line each, every line bound to the one before it.

A line is ``{"previous": ..., "record": {...}, "seal": ...}``; its seal is the SHA-256 of the previous line's
seal and of the record's canonical JSON. Altering, removing or moving a line breaks the chain behind it; the
file ``<chain>.head`` beside it holds the number of lines and the last seal, and so shows when lines are
missing at the end. This finds mistakes and quiet edits; against someone who rewrites both files, keep the
last seal elsewhere (it is one line).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from phcc_model.errors import StorageError
from phcc_model.storage import storage_error, write_atomically

BEGIN = "0" * 64
"""What the first line names as the seal before it."""
_BLOCK = 65536


class Chain:
    """A chain of records, opened to be added to; one process writes it at a time.

    Args:
        path: the file; its folder is made if need be.
        what: the records, for an error: "the record of rounds".
        remedy: what to do when the chain does not hold.
        end_only: check the last line only, which takes no longer for a long file than for a short one; the
            whole is checked where that line does not fit.

    Attributes:
        notes: what was set right when the file was opened (a last line that a crash cut short).

    Raises:
        StorageError: the file cannot be read, or its chain does not hold.
    """

    def __init__(self, path: Path, what: str, remedy: str, *, end_only: bool = False) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        ended = _head_that_fits(path) if end_only else None
        if ended is not None:
            self._count, self._seal = ended
            return
        lines, whole = _complete_lines(path)
        _must_hold(path, lines, what, remedy)
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

    def append(self, record: dict[str, Any]) -> None:
        """Add one record, which is on the disk when this returns.

        Args:
            record: values that JSON has.

        Raises:
            StorageError: the disk is full or not writable; the lines before are untouched.
        """
        seal = _seal(self._seal, record)
        line = _written({"previous": self._seal, "record": record, "seal": seal}) + b"\n"
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

    def _write_head(self, count: int, seal: str) -> None:
        write_atomically(_head_path(self.path), json.dumps({"lines": count, "seal": seal}))

    def _truncate(self, size: int) -> None:
        if self.path.exists():
            try:
                os.truncate(self.path, size)
            except OSError as error:
                raise storage_error(self.path, error) from error


def read_records(path: Path) -> tuple[Any, ...]:
    """The records of a chain, in order, as they stand: whether the chain holds is for `verify_chain` to say.

    A line that is none of a chain's gives None.

    Raises:
        StorageError: the file cannot be read.
    """
    return tuple(line.get("record") for line in _complete_lines(path)[0])


def last_seal(path: Path) -> str:
    """The seal of the last whole line; nothing is written, so another process may be adding to the file.

    Raises:
        StorageError: the file cannot be read.
    """
    lines, _ = _complete_lines(path)
    return str(lines[-1].get("seal", BEGIN)) if lines else BEGIN


def read_held_records(path: Path, what: str, remedy: str) -> tuple[dict[str, Any], ...]:
    """The records of a chain that holds, in order; nothing is written.

    Args:
        path: the file; where there is none, there are no records.
        what: the records, for an error.
        remedy: what to do when the chain does not hold.

    Raises:
        StorageError: the file cannot be read, or its chain does not hold.
    """
    lines, _ = _complete_lines(path)
    _must_hold(path, lines, what, remedy)
    return tuple(line["record"] for line in lines)


def verify_chain(path: Path) -> tuple[str, ...]:
    """What is wrong with a chain: one line per fault, none if it holds.

    A last line without its end is what a crash leaves, and no fault.

    Raises:
        StorageError: the file cannot be read.
    """
    lines, _ = _complete_lines(path)
    return _faults(lines, _read_head(path))


def _must_hold(path: Path, lines: list[dict[str, Any]], what: str, remedy: str) -> None:
    faults = _faults(lines, _read_head(path))
    if faults:
        raise StorageError(f"{what} does not hold: {faults[0]}", where=str(path), remedy=remedy)


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


def _head_that_fits(path: Path) -> tuple[int, str] | None:
    """Lines and last seal, if the file's last line is whole and the one that the head names."""
    head = _read_head(path)
    try:
        with path.open("rb") as file:
            last = _last_line(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, error) from error
    line = _parsed(last)
    sealed = isinstance(line.get("record"), dict) and line.get("seal") == _seal(
        str(line.get("previous")), line["record"]
    )
    return head if head is not None and sealed and head[1] == line["seal"] else None


def _last_line(file: BinaryIO) -> bytes:
    """The last line without its end; nothing where the file does not close with one."""
    begin = file.seek(0, os.SEEK_END)
    tail = b""
    while begin and b"\n" not in tail[:-1]:
        step = min(begin, _BLOCK)
        begin = file.seek(begin - step)
        tail = file.read(step) + tail
    return tail[:-1].rpartition(b"\n")[2] if tail.endswith(b"\n") else b""


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
        return -1, ""  # a head that says nothing fits no chain


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
            faults.append(f"line {number} is no line of this record")
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
