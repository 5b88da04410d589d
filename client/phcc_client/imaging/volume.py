"""NIfTI files, checked: the header by SimpleITK, the voxels inflated once with their checksum, only a part kept.

Why the voxels do not come through SimpleITK: of a ``.nii.gz`` that is truncated or damaged in the middle, ITK
5.4 returns an image with wrong voxels and no error. ISA-L's inflate checks length and CRC-32 as zlib does, at
about twice its speed. gzip's checksum stands at the very end and vouches for all that is before it, so a
packed file is inflated to its end even where only its first slices are wanted: integrity goes before speed.
It is inflated in pieces, and what is not asked for is dropped at once; of a plain ``.nii`` only the slices
that are asked for are read. Nothing is memory-mapped: a file that shrinks, or a share that goes away,
under a map kills the process without a word.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import unpack_from
from typing import BinaryIO, Literal, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from phcc_client.imaging.case import Box, Index, Spacing
from phcc_client.imaging.itk import read_information
from phcc_model.errors import CaseError

Part = tuple[slice, slice, slice]
"""A part of a volume, as slices without a step along (D, H, W)."""

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_SIZE, _FIRST_VOXEL = 348, 352  # bytes, in a single file of NIfTI-1
_LARGEST_INFLATION = 1040  # deflate cannot do better than 1032 : 1
_PIECE = 1 << 17  # packed bytes at a time: fast, and no piece of a malicious file fills the memory
_SMALLEST_MEMBER = 1 << 10  # packed bytes, on average: millions of empty ones would take hours
_MOST_AFTER = 1 << 24  # bytes that may follow the voxels, or as many as these are
_INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)  # isal's stub declares an instance
_FARTHEST_MM = 1e6  # no scanner is a kilometre long
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
"""NIfTI-1's datatype codes of real scalar voxels, as numpy spells them."""


@dataclass(frozen=True)
class Grid:
    """Where an image's voxels lie, its axes turned to (D, H, W) = (to the head, to the back, to the left).

    Attributes:
        shape_dhw: voxels along each axis, after turning.
        matrix: (3, 3), from an index (d, h, w) to millimetres (z, y, x) of the patient (LPS).
        origin_mm: (z, y, x) of voxel (0, 0, 0).
        axes: the stored axis that stands at each position.
        flipped: whether it runs backwards there.
    """

    shape_dhw: Index
    matrix: NDArray[np.float64]
    origin_mm: NDArray[np.float64]
    axes: Index = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def plain(cls, shape_dhw: Index, spacing_mm_dhw: Spacing) -> Grid:
        """Axes as stored, spacing as given: for images whose own geometry cannot be trusted."""
        return cls(shape_dhw, np.diag(spacing_mm_dhw), np.zeros(3))

    @classmethod
    def turned(cls, shape_dhw: Index, matrix: NDArray[np.float64], origin_mm: NDArray[np.float64]) -> Grid:
        """The nearest turning of stored axes to the patient's: permuted and flipped, never interpolated."""
        cosines = matrix / np.linalg.norm(matrix, axis=0)
        axes = max(
            itertools.permutations(range(3)),
            key=lambda order: sum(abs(cosines[i, a]) for i, a in enumerate(order)),
        )
        flipped = tuple(bool(cosines[i, a] < 0) for i, a in enumerate(axes))
        last = np.array([shape_dhw[a] - 1 if back else 0 for a, back in zip(axes, flipped, strict=True)])
        signs = np.where(flipped, -1.0, 1.0)
        columns = matrix[:, list(axes)]
        shape = (shape_dhw[axes[0]], shape_dhw[axes[1]], shape_dhw[axes[2]])
        return cls(
            shape, columns * signs, origin_mm + columns @ last, (axes[0], axes[1], axes[2]),
            (flipped[0], flipped[1], flipped[2]),
        )  # fmt: skip

    @property
    def spacing_mm_dhw(self) -> NDArray[np.float64]:
        """Millimetres between voxels along each axis."""
        lengths: NDArray[np.float64] = np.sqrt((self.matrix**2).sum(axis=0))
        return lengths

    def turn(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """A view of a stored array, its axes turned; nothing is copied."""
        view = stored.transpose(self.axes)
        return view[tuple(slice(None, None, -1 if back else None) for back in self.flipped)]

    def stored_part(self, part: Part) -> Part:
        """A part given in this grid's voxels, in the axes as stored: `turn` of it is the part."""
        stored = [slice(0, 0)] * 3
        for axis, back, size, along in zip(self.axes, self.flipped, self.shape_dhw, part, strict=True):
            first, end, _ = along.indices(size)
            stored[axis] = slice(size - end, size - first) if back else slice(first, end)
        return stored[0], stored[1], stored[2]

    def turn_box(self, box: Box) -> Box:
        """A box given in stored voxels, in this grid's.

        Raises:
            CaseError: a part of it lies outside the volume.
        """
        stored_shape = [0, 0, 0]
        for position, axis in enumerate(self.axes):
            stored_shape[axis] = self.shape_dhw[position]
        box.must_lie_in((stored_shape[0], stored_shape[1], stored_shape[2]))
        low, high = [], []
        for axis, back, size in zip(self.axes, self.flipped, self.shape_dhw, strict=True):
            first, end = box.low_dhw[axis], box.high_dhw[axis]
            low.append(size - end if back else first)
            high.append(size - first if back else end)
        return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def to_mm(self, index_dhw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Patient coordinates (z, y, x) in mm of a continuous index."""
        return self.origin_mm + self.matrix @ index_dhw

    def to_index(self, mm_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """The continuous index of a place given in mm."""
        return np.asarray(np.linalg.solve(self.matrix, mm_zyx - self.origin_mm), dtype=np.float64)

    def same_as(self, other: Grid) -> bool:
        """Whether two images share one grid, to a tenth of a voxel."""
        if self.shape_dhw != other.shape_dhw:
            return False
        tolerance = 0.1 * float(self.spacing_mm_dhw.min())
        corner = np.array(self.shape_dhw, dtype=np.float64)
        zero = np.zeros(3)
        return all(
            np.allclose(self.to_mm(at), other.to_mm(at), rtol=0, atol=tolerance) for at in (zero, corner)
        )


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
    except (ValueError, _INFLATE_ERROR) as error:
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
        if start[:2] != _GZIP_MAGIC:
            return start
        file.seek(0)
        start = b""
        for plain, _ in _members(file, piece=1 << 12):
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
            if start[:2] == _GZIP_MAGIC:
                start, kept = _inflate(file, first, end, needed, path)
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


def _inflate(
    file: BinaryIO, first: int, end: int, needed: int, path: Path
) -> tuple[bytes, NDArray[np.uint8]]:
    """Inflate a gzip file up to the end of the member in which the voxels end, with every checksum before it.

    Returns:
        The first four bytes, and those from `first` to `end`.
    """
    size = os.fstat(file.fileno()).st_size
    if needed > size * _LARGEST_INFLATION:
        raise _truncated(path, f"has {size} packed bytes, too few for the {needed} that its header promises")
    kept = np.empty(end - first, np.uint8)
    start, at = b"", 0
    try:
        for plain, checked in _members(file):
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
    except _INFLATE_ERROR as error:
        raise CaseError(
            f"is damaged: its compressed data do not inflate ({error})",
            where=str(path),
            remedy="Copy the file again from its source",
        ) from error
    lacking = "ends before its checksum" if at >= needed else f"holds {at} of {needed} bytes"
    raise _truncated(path, lacking)


def _members(file: BinaryIO, piece: int = _PIECE) -> Iterator[tuple[bytes, bool]]:
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
                raise _INFLATE_ERROR("it is cut into far too many members")


def _pick(file: BinaryIO, first: int, end: int, needed: int, path: Path) -> NDArray[np.uint8]:
    """The bytes from `first` to `end` of a file that is not packed."""
    held = os.fstat(file.fileno()).st_size
    if held < needed:
        raise _truncated(path, f"holds {held} of {needed} bytes")
    file.seek(first)
    kept = np.fromfile(file, np.uint8, end - first)
    if len(kept) < end - first:
        raise _truncated(path, f"holds {first + len(kept)} of {needed} bytes")
    return kept


def _truncated(path: Path, what: str) -> CaseError:
    return CaseError(
        f"the file is truncated: it {what}", where=str(path), remedy="Copy the file again from its source"
    )
