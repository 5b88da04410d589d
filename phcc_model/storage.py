"""Files that are whole or not there at all, and the operating system's complaints about them as ours."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from phcc_model.errors import StorageError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file in one step, text as UTF-8; only its owner can read it.

    Raises:
        StorageError: the disk is full or not writable; the old file is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file ``<path>.lock``, which is made if need be; one process at a time gets past this.

    Raises:
        StorageError: it cannot be made.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise storage_error(lock, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def storage_error(path: Path, error: OSError) -> StorageError:
    """An error of the operating system about a file, as ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            "no space left on the disk",
            where=str(path),
            remedy="Make room and resume: what was written is still there",
        )
    return StorageError(
        f"cannot be written or read ({error.strerror})",
        where=str(path),
        remedy="Check that the folder exists and belongs to you",
    )
