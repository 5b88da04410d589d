"""NIfTI files, checked: the header by SimpleITK, the voxels inflated once with their checksum, only a part kept.

Why the voxels do not come through SimpleITK: of a ``.nii.gz`` that is truncated or damaged in the middle, ITK
5.4 returns an image with wrong voxels and no error (`inflate` checks). Of a plain ``.nii`` only the slices that
are asked for are read. Nothing is memory-mapped: a file that shrinks, or a share that goes away,
under a map kills the process without a word.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Index, Spacing
from phcc_client.imaging.grid import Grid, Part
from phcc_client.imaging.inflate import GZIP_MAGIC, INFLATE_ERROR, inflate, members, truncated
from phcc_client.imaging.itk import read_information
from phcc_model.errors import CaseError

_HEADER_SIZE, _FIRST_VOXEL = 348, 352  # bytes, in a single file of NIfTI-1
_FARTHEST_MM = 1e6  # no scanner is a kilometre long
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""NIfTI-1's datatype codes of real scalar voxels, as numpy spells them."""


@dataclass(frozen=True)
class Header:
    """What a NIfTI file says of itself."""

    path: Path
    grid: Grid
    stored_shape: Index
    dtype: str
    offset: int
    slope: float
    intercept: float

    def scaled(self, region: NDArray[np.generic]) -> NDArray[np.float32]:
        """A copy of a region of the stored voxels in the units that the file means."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for float32 is refused later
            values = region.astype(np.float32)
            if (self.slope, self.intercept) == (1.0, 0.0):
                return values
            return np.asarray(values * self.slope + self.intercept, dtype=np.float32)


def read_header(path: Path, spacing_mm_dhw: Spacing | None = None) -> Header:
    """Size, type and geometry of a NIfTI file, without its voxels.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        spacing_mm_dhw: replaces the file's geometry; None trusts it and turns the axes to the patient's.

    Raises:
        CaseError: there is no such file, it is no NIfTI, or not one real volume.
    """
    if not path.is_file():
        raise CaseError(
            "there is no such file", where=str(path), remedy="Copy it again or leave the phase out"
        )
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise CaseError(
            "is not named as a NIfTI file", where=str(path), remedy="Convert it to .nii or .nii.gz"
        )
    try:
        _must_be_sound(_first_bytes(path))
        information = read_information(path)
    except (ValueError, INFLATE_ERROR) as error:
        raise CaseError(
            f"cannot be read as NIfTI ({error})", where=str(path), remedy="Copy or convert the file again"
        ) from error
    except OSError as error:
        raise CaseError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="Check the file and its permissions"
        ) from error
    size, kind = information.size, information.datatype
    if len(size) < 3 or any(extent != 1 for extent in size[3:]) or kind not in _DTYPES:
        raise CaseError(
            f"holds {' x '.join(map(str, size))} voxels of NIfTI type {kind}, not one volume of numbers",
            where=str(path),
            remedy="Give one three-dimensional volume per phase",
        )
    shape = (size[2], size[1], size[0])
    if spacing_mm_dhw is not None:
        grid = Grid.plain(shape, spacing_mm_dhw)
    else:
        matrix = (information.direction * information.spacing_mm)[::-1, ::-1]
        grid = Grid.turned(shape, matrix, information.origin_mm[::-1])
    scaled = math.isfinite(information.slope) and information.slope != 0.0
    return Header(
        path=path,
        grid=grid,
        stored_shape=shape,
        dtype=_DTYPES[kind],
        offset=max(information.offset, _FIRST_VOXEL),
        slope=information.slope if scaled else 1.0,
        intercept=information.intercept if scaled else 0.0,
    )


def _first_bytes(path: Path) -> bytes:
    """The header, inflated where it is packed; shorter where the file is."""
    with path.open("rb") as file:
        start = file.read(_HEADER_SIZE)
        if start[:2] != GZIP_MAGIC:
            return start
        file.seek(0)
        start = b""
        for plain, _ in members(file, piece=1 << 12):
            start += plain[: _HEADER_SIZE - len(start)]
            if len(start) == _HEADER_SIZE:
                break
        return start


def _must_be_sound(start: bytes) -> None:
    """Refuse what ITK must not see.

    On an affine that holds a NaN or an infinity, ITK 5.4 computes for ever. A file without NIfTI's mark it takes
    for Analyze, and its orientation for known.

    Raises:
        ValueError: with the reason.
    """
    if len(start) < _HEADER_SIZE:
        raise ValueError(f"it holds {len(start)} of its header's {_HEADER_SIZE} bytes")
    if start[344:] != b"n+1\0":
        raise ValueError("it lacks the mark of NIfTI-1 in one file")
    order = "<" if int.from_bytes(start[:4], "little") == _HEADER_SIZE else ">"
    numbers = list(unpack_from(f"{order}4f", start, 76))  # the turning's sign, three spacings
    by_quaternion, by_rows = unpack_from(f"{order}2h", start, 252)
    numbers += unpack_from(f"{order}6f", start, 256) if by_quaternion else ()
    numbers += unpack_from(f"{order}12f", start, 280) if by_rows else ()
    if not all(abs(number) < _FARTHEST_MM for number in numbers):  # false for NaN too
        raise ValueError("its geometry holds what is no number, or no length")


def read_voxels(header: Header, part: Part | None = None) -> NDArray[np.generic]:
    """The file's voxels, or a part of them, axes turned to the header's grid, unscaled.

    Args:
        header: from `read_header`.
        part: slices (D, H, W) in the header's grid; None reads everything.

    Returns:
        The part in the file's own number type and byte order; it may be a view of the slices it lies in.

    Raises:
        CaseError: the file is truncated, damaged, cannot be read, or is too large for this machine's memory.
    """
    path, (d, h, w) = header.path, header.stored_shape
    slices, rows, columns = (
        (slice(0, d), slice(0, h), slice(0, w)) if part is None else header.grid.stored_part(part)
    )
    # A slice of the slowest axis lies in one piece; only these are kept.
    one = h * w * int(header.dtype[1])
    first, end, needed = (header.offset + n * one for n in (slices.start, slices.stop, d))
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == GZIP_MAGIC:
                start, kept = inflate(file, first, end, needed, path)
            else:
                kept = _pick(file, first, end, needed, path)
    except OSError as error:
        raise CaseError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="Check the file and its permissions"
        ) from error
    except MemoryError as error:
        raise CaseError(
            f"needs {(end - first) >> 20} MiB of memory, more than this machine has left",
            where=str(path),
            remedy="Check the image's size, or work on fewer cases at a time",
        ) from error
    # The header begins with its own size, 348, in the byte order of the file.
    order: Literal["<", ">"] = "<" if int.from_bytes(start, "little") == _HEADER_SIZE else ">"
    flat = kept.view(np.dtype(header.dtype).newbyteorder(order))
    return header.grid.turn(flat.reshape(slices.stop - slices.start, h, w)[:, rows, columns])


def _pick(file: BinaryIO, first: int, end: int, needed: int, path: Path) -> NDArray[np.uint8]:
    """The bytes from `first` to `end` of a file that is not packed."""
    held = os.fstat(file.fileno()).st_size
    if held < needed:
        raise truncated(path, f"holds {held} of {needed} bytes")
    file.seek(first)
    kept = np.fromfile(file, np.uint8, end - first)
    if len(kept) < end - first:
        raise truncated(path, f"holds {first + len(kept)} of {needed} bytes")
    return kept
