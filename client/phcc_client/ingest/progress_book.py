"""What an interrupted ingest had finished: so that it goes on, and a second one with nothing to do says so.

It lies beside the site's folder, not in it. A patient counts as finished when a fingerprint of all that went
in (settings, version, row of the table, every file's size and time of change) is the one of before, and every
file that came out is still as it was left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from phcc_model.errors import StorageError
from phcc_model.storage import storage_error, write_atomically

_DONE, _WHOLE = "finished-patients", "finished.json"

Stamp = tuple[int, int]
"""Size in bytes, time of change in nanoseconds."""


def stamp(path: Path) -> Stamp | None:
    """Size and time of change of a file; None where it is not there."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # a table may name what can be no path at all
        return None
    return state.st_size, state.st_mtime_ns


def listing(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """Every file below a folder with its stamp, in order; links are not followed.

    Raises:
        StorageError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from listing(Path(entry.path))
            elif entry.is_file():
                state = entry.stat()
                yield entry.path, (state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise storage_error(folder, error) from error


def digest_of(plain: object) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


class ProgressBook:
    """Who is finished.

    Args:
        private: the folder beside the site's.
        site: the site's folder.
    """

    def __init__(self, private: Path, site: Path) -> None:
        self._folder = private / _DONE
        self._whole = private / _WHOLE
        self._site = site

    def is_finished(self, patient: str, fingerprint: str) -> bool:
        """Whether a patient was made from just this, and all of it is still there."""
        try:
            known = json.loads((self._folder / f"{patient}.json").read_text(encoding="utf-8"))
            outputs = known["outputs"].items()
            return known["fingerprint"] == fingerprint and all(
                list(stamp(self._site / name) or ()) == state for name, state in outputs
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return False

    def finish(self, patient: str, fingerprint: str, outputs: Iterable[str]) -> None:
        """Write down that a patient is finished.

        Raises:
            StorageError: it cannot be written.
        """
        states = {name: stamp(self._site / name) for name in outputs}
        content = json.dumps({"fingerprint": fingerprint, "outputs": states})
        write_atomically(self._folder / f"{patient}.json", content)

    def forget(self, patients: Iterable[str]) -> None:
        """Forget patients."""
        for patient in patients:
            with contextlib.suppress(OSError):
                (self._folder / f"{patient}.json").unlink(missing_ok=True)

    def whole(self) -> str | None:
        """The fingerprint of the last ingest that ended well, site and source together."""
        try:
            return str(json.loads(self._whole.read_text(encoding="utf-8"))["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finish_whole(self, fingerprint: str) -> None:
        """Write down that an ingest ended well.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomically(self._whole, json.dumps({"fingerprint": fingerprint}))

    def unfinish(self) -> None:
        """An ingest begins: until it ends, nothing is known to be whole.

        Raises:
            StorageError: the mark cannot be removed.
        """
        try:
            self._whole.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot be removed ({error.strerror})", where=str(self._whole)) from error
