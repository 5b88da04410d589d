"""SHA-256 of source files, remembered: a second run reads none of them again.

A file counts as unchanged while its size, the time of its last change (mtime) and that of its entry in the file
system (ctime) are those of when it was read. mtime alone can be set back (``cp -p`` or ``rsync -t`` of another
file of the same size); ctime cannot, short of setting the machine's clock.

What a time cannot tell: two changes within one tick of the file system's clock (milliseconds on ext4, two
seconds on FAT) leave the same time behind. So what had changed less than two seconds before the book was
saved is not believed, and is read once more next time; git treats its index alike ("racy git"). What remains: a
file whose time lies in the future is read in every run, and a share that invents its times can deceive.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import threading
from pathlib import Path

from phcc_client.imaging.aside import write_atomically
from phcc_model.errors import CaseError
from phcc_model.storage import locked

_SETTLED_NS = 2_000_000_000
"""A file's time must lie this far before the book's to be believed: FAT's clock ticks every two seconds."""

_Entry = list[object]
"""Size in bytes, mtime and ctime in nanoseconds, SHA-256 in hexadecimal digits."""


class DigestBook:
    """SHA-256 of source files by path, as long as they have not changed; threads may share one.

    Args:
        path: the book's own file; a missing or damaged one is an empty book, which costs time and no more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = self._load()
        self._added: dict[str, _Entry] = {}

    def _load(self) -> dict[str, _Entry]:
        try:
            with self._path.open("rb") as file:
                saved_ns = os.fstat(file.fileno()).st_mtime_ns
                found = json.load(file)
        except (OSError, ValueError, RecursionError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {name: entry for name, entry in entries if _settled(entry, saved_ns)}

    def digest(self, source: Path) -> str:
        """SHA-256 of a file's bytes.

        Raises:
            CaseError: the file is not there, is no file, cannot be read, or changes while it is read.
        """
        try:
            state = source.stat()
            if not stat.S_ISREG(state.st_mode):
                raise CaseError("is no file", where=str(source), remedy="Give the path of an image")
            stamp, name = _stamp(state), str(source.absolute())
            entry = self._added.get(name) or self._known.get(name)
            if entry is not None and entry[:3] == stamp:
                return str(entry[3])
            with source.open("rb") as file:
                value = hashlib.file_digest(file, "sha256").hexdigest()
                after = _stamp(os.fstat(file.fileno()))
        except OSError as error:
            raise CaseError(
                f"cannot be read ({error.strerror})",
                where=str(source),
                remedy="Check the file and its permissions",
            ) from error
        if after != stamp:
            raise changed_meanwhile(str(source))
        with self._lock:
            self._added[name] = [*stamp, value]
        return value

    def save(self) -> None:
        """Write down what is new, beside what other processes wrote meanwhile.

        Raises:
            StorageError: the book cannot be written.
        """
        if not self._added:
            return
        with contextlib.ExitStack() as stack:
            # A share that knows no locks: what another process adds in this moment is read again, no more.
            with contextlib.suppress(OSError):
                stack.enter_context(locked(self._path))
            merged = self._load() | self._added
            write_atomically(self._path, json.dumps(merged, separators=(",", ":")).encode())
        self._known, self._added = merged, {}


def changed_meanwhile(where: str) -> CaseError:
    """The error of a source that changes under the eyes of its reader."""
    return CaseError(
        "changes while it is read", where=where, remedy="Prepare again when nothing writes to it any more"
    )


def _stamp(state: os.stat_result) -> list[object]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _settled(entry: object, saved_ns: int) -> bool:
    """Whether an entry is one, and its file had come to rest when the book was saved."""
    if not (isinstance(entry, list) and len(entry) == 4 and isinstance(entry[3], str)):
        return False
    size, mtime_ns, ctime_ns = entry[:3]
    if not (isinstance(size, int) and isinstance(mtime_ns, int) and isinstance(ctime_ns, int)):
        return False
    return max(mtime_ns, ctime_ns) + _SETTLED_NS < saved_ns
