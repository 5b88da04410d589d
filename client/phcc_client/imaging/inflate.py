"""Packed bytes, inflated once with their checksum, only a part of them kept.

ISA-L's inflate checks length and CRC-32 as zlib does, at about twice its speed. gzip's checksum stands at the
very end and vouches for all that is before it, so a packed file is inflated to its end even where only its first
bytes are wanted: integrity goes before speed. It is inflated in pieces, and what is not asked for is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from phcc_model.errors import CaseError

GZIP_MAGIC = b"\x1f\x8b"
INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)  # isal's stub declares an instance
_LARGEST_INFLATION = 1040  # deflate cannot do better than 1032 : 1
_PIECE = 1 << 17  # packed bytes at a time: fast, and no piece of a malicious file fills the memory
_SMALLEST_MEMBER = 1 << 10  # packed bytes, on average: millions of empty ones would take hours
_MOST_AFTER = 1 << 24  # bytes that may follow what is needed, or as many as these are


def inflate(file: BinaryIO, first: int, end: int, needed: int, path: Path) -> tuple[bytes, NDArray[np.uint8]]:
    """Inflate a gzip file up to the end of the member in which the voxels end, with every checksum before it.

    Args:
        file: at its beginning.
        first: of the plain bytes, the first that is kept.
        end: of those, the first that is not any more.
        needed: how many plain bytes the file must hold.
        path: of the file, for errors.

    Returns:
        The first four bytes, and those from `first` to `end`.

    Raises:
        CaseError: it is truncated or damaged, or inflates to far more than is needed.
    """
    size = os.fstat(file.fileno()).st_size
    if needed > size * _LARGEST_INFLATION:
        raise truncated(path, f"has {size} packed bytes, too few for the {needed} that its header promises")
    kept = np.empty(end - first, np.uint8)
    start, at = b"", 0
    try:
        for plain, checked in members(file):
            start += plain[: 4 - len(start)]
            low, high = max(at, first), min(at + len(plain), end)
            if low < high:
                kept[low - first : high - first] = np.frombuffer(plain, np.uint8)[low - at : high - at]
            at += len(plain)
            if checked and at >= needed:
                return start, kept
            if at > needed + max(needed, _MOST_AFTER):
                raise CaseError(
                    f"inflates to far more than the {needed} bytes that its header promises",
                    where=str(path),
                    remedy="Convert the image again from its source",
                )
    except INFLATE_ERROR as error:
        raise CaseError(
            f"is damaged: its compressed data do not inflate ({error})",
            where=str(path),
            remedy="Copy the file again from its source",
        ) from error
    lacking = "ends before its checksum" if at >= needed else f"holds {at} of {needed} bytes"
    raise truncated(path, lacking)


def members(file: BinaryIO, piece: int = _PIECE) -> Iterator[tuple[bytes, bool]]:
    """The plain bytes of a gzip file, piece by piece, each with whether a member ended there, its checksum sound.

    Most files are one member; parallel compressors write many, and zeros may stand between two.
    """
    read = members = 0
    inflater = None
    while packed := file.read(piece):
        read += len(packed)
        while packed := packed if inflater else packed.lstrip(b"\0"):
            inflater = inflater or isal_zlib.decompressobj(wbits=31)
            plain, ended = inflater.decompress(packed), inflater.eof
            yield plain, ended
            packed, inflater = (inflater.unused_data, None) if ended else (b"", inflater)
            members += ended
            if members * _SMALLEST_MEMBER > read + _PIECE:
                raise INFLATE_ERROR("it is cut into far too many members")


def truncated(path: Path, what: str) -> CaseError:
    """The error of a file that lacks its end."""
    return CaseError(
        f"the file is truncated: it {what}", where=str(path), remedy="Copy the file again from its source"
    )
