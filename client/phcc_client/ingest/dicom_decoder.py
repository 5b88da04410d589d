"""Compressed frames, decoded in a process of their own: a codec that falls over takes nobody along.

The C++ codecs end the whole process on some damaged data (of 800 JPEG frames with a few bytes exchanged, GDCM
3.2 aborted 4 and segfaulted 3), or loop. Here that ends the decoder only, the file gets its reason, and the next
file gets another decoder.

Run as a program it reads one request a line, ``[path, [frame, ...]]``, and answers each frame with a line
``["<i2", bytes]`` and the samples, or ``["error", why]``, after which the request is over.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from phcc_model.errors import CaseError

SECONDS = 10.0
"""A frame that takes longer is given up."""
_START_SECONDS = 120.0
_MEMORY = 4 << 30  # bytes that the decoder may use
_REMEDY = "Export the series again, without compression if the PACS can do so"


class Decoder:
    """One process that decodes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "phcc_client.ingest.dicom_decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owner = os.getpid()
        self._ready = self._owes = False

    @property
    def usable(self) -> bool:
        """Whether it still runs, for this process (not the one that this was forked from), and owes no answer."""
        return self._owner == os.getpid() and not self._owes and self._process.poll() is None

    def frames(self, path: Path, numbers: Sequence[int], size: int) -> Iterator[NDArray[np.generic]]:
        """The samples of some frames of a file, flat, in the order asked for.

        Args:
            path: the file.
            numbers: of the frames, from zero.
            size: samples that a frame must have.

        Raises:
            CaseError: a frame cannot be decoded, or takes too long.
        """
        try:
            if not self._ready:
                self._line(path, _START_SECONDS)
                self._ready = True
            stdin = cast(BinaryIO, self._process.stdin)
            self._owes = True
            stdin.write(json.dumps([os.fsencode(path).hex(), list(numbers)]).encode() + b"\n")
            stdin.flush()
            for left in range(len(numbers) - 1, -1, -1):
                kind, what = json.loads(self._line(path, SECONDS))
                if kind == "error":
                    self._owes = False
                    raise CaseError(f"its pixels cannot be decoded ({what})", where=str(path), remedy=_REMEDY)
                dtype = np.dtype(kind)
                if what != size * dtype.itemsize:
                    raise CaseError(
                        f"a frame decodes to {what // dtype.itemsize} samples where its header promises {size}",
                        where=str(path),
                        remedy=_REMEDY,
                    )
                samples = np.frombuffer(self._bytes(path, what), dtype)
                self._owes = left > 0
                yield samples
        except (BrokenPipeError, ValueError) as error:
            raise self._gone(path) from error

    def close(self) -> None:
        """End the process."""
        if self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _line(self, path: Path, seconds: float) -> bytes:
        line = bytearray()
        deadline = time.monotonic() + seconds
        while not line.endswith(b"\n"):
            line += self._some(path, 1, deadline)
        return bytes(line)

    def _bytes(self, path: Path, count: int) -> bytes:
        found = bytearray()
        deadline = time.monotonic() + SECONDS
        while len(found) < count:
            found += self._some(path, count - len(found), deadline)
        return bytes(found)

    def _some(self, path: Path, most: int, deadline: float) -> bytes:
        file = cast(BinaryIO, self._process.stdout).fileno()
        if not select.select([file], [], [], max(deadline - time.monotonic(), 0.0))[0]:
            self.close()
            raise CaseError("its pixels take too long to decode", where=str(path), remedy=_REMEDY)
        some = os.read(file, most)
        if not some:
            raise self._gone(path)
        return some

    def _gone(self, path: Path) -> CaseError:
        self.close()
        return CaseError("its pixels are damaged: decoding ended early", where=str(path), remedy=_REMEDY)


_idle: list[Decoder] = []
_lock = threading.Lock()


@contextlib.contextmanager
def _a_decoder() -> Iterator[Decoder]:
    """A decoder of one's own; as many run as threads decode at once."""
    with _lock:
        mine = next((_idle.pop(i) for i in range(len(_idle) - 1, -1, -1) if _idle[i].usable), None)
    mine = mine or Decoder()
    try:
        yield mine
    finally:
        if mine.usable:
            with _lock:
                _idle.append(mine)
        else:
            mine.close()


def decoded(path: Path, numbers: Sequence[int], size: int) -> Iterator[NDArray[np.generic]]:
    """As `Decoder.frames`, by a process that is kept for the next file.

    Raises:
        CaseError: a frame cannot be decoded, or takes too long.
    """
    with _a_decoder() as decoder:
        yield from decoder.frames(path, numbers, size)


@atexit.register
def close_all() -> None:
    """End every decoder."""
    with _lock:
        while _idle:
            _idle.pop().close()


def _answer(path: Path, numbers: Sequence[int], out: BinaryIO) -> None:
    """Write the frames that were asked for."""
    # pydicom first: it loads zlib, and GDCM's own zlib loaded before Python's makes that one free foreign memory.
    from pydicom.pixels.decoders.base import get_decoder

    from phcc_client.ingest.dicom_header import open_dataset

    with path.open("rb") as file:
        dataset = open_dataset(path, file, pixels=True)
    decoder = get_decoder(dataset.file_meta.TransferSyntaxUID)
    for number in numbers:
        array, _ = decoder.as_array(dataset, index=number, raw=True)
        flat = np.ascontiguousarray(array).reshape(-1)
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        out.write(json.dumps([flat.dtype.str, flat.nbytes]).encode() + b"\n")
        out.write(flat.tobytes())
        out.flush()


def main() -> None:
    """Answer requests until there are no more."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints must not stand among the answers
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        path, numbers = json.loads(line)
        try:
            _answer(Path(os.fsdecode(bytes.fromhex(path))), numbers, out)
        except Exception as error:  # noqa: BLE001 - whatever a codec makes of damaged data, it is the answer
            why = " ".join(str(error).split())[:200] or type(error).__name__
            out.write(json.dumps(["error", why]).encode() + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
