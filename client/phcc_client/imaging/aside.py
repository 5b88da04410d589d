"""Files that are written aside and then renamed, and what is left of them when a process is killed.

A file aside (``.<random>.part``) is locked for as long as its writer lives, and the operating system lets go of
the lock when the writer dies, however it dies. So whoever gets the lock may remove the file.

Nothing is synced to the disk: a cache that loses power loses entries, their digests tell, and they are made
again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from phcc_model.storage import storage_error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written; what was there is still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _aside(path.parent) as (file, aside):
            file.write(content)
            file.flush()
            aside.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new locked file in a folder; it is gone afterwards unless it was renamed."""
    while True:
        handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
        aside = Path(name)
        with os.fdopen(handle, "wb") as file:
            with contextlib.suppress(OSError):  # some network shares know no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            # Between making and locking it somebody who clears up may have been quicker.
            if not aside.exists():
                continue
            try:
                yield file, aside
            finally:
                with contextlib.suppress(OSError):
                    aside.unlink(missing_ok=True)
            return


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Remove the files aside of writers that are no more; those of living writers stay.

    Args:
        folders: to look into; those below them are left alone.

    Returns:
        How many there were.
    """
    removed = 0
    for folder in folders:
        for aside in sorted(folder.glob(".*.part")):
            with contextlib.suppress(OSError), aside.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                aside.unlink()
                removed += 1
    return removed
