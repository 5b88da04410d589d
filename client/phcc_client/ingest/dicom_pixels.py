"""The pixels of a stack of DICOM images, read slice by slice into one array when they are asked for.

What a header promises is checked against what the file holds before anything is allocated. Stored values become
what they mean: the unused bits are taken off, MONOCHROME1 is turned round, slope and intercept of each slice are
applied (PS3.3 C.11.1); vendors' private scaling is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.dicom_decoder import decoded
from phcc_client.ingest.dicom_geometry import Defect
from phcc_client.ingest.dicom_header import Header, HeaderError, open_dataset
from phcc_client.ingest.dicom_parting import Frame
from phcc_client.ingest.dicom_values import number, numbers, shown_uid, text, whole
from phcc_model.errors import CaseError

LARGEST = 1 << 29
"""Voxels of one volume (2 GiB as float32); no MR series comes near."""
_NATIVE = {"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_COMPRESSED = {
    "1.2.840.10008.1.2.5", *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)),
}  # fmt: skip
"""RLE, JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000."""
_AGAIN = "Export the series again"


@dataclass(frozen=True)
class Samples:
    """How the samples of an image are stored.

    Attributes:
        rows, columns: of a frame.
        allocated, stored, high: bits of a sample, how many are used, which is the highest.
        signed: two's complement.
        inverted: MONOCHROME1, where a high value is dark.
        syntax: the transfer syntax's UID.
        tiles: along each edge of a mosaic, of which a frame is one tile; 1 for what is none.
        padding: the range of values that mean that there is no image; None where there is no such.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    high: int
    signed: bool
    inverted: bool
    syntax: str
    tiles: int = 1
    padding: tuple[float, float] | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame, or a whole mosaic, that is not compressed."""
        return self.rows * self.columns * self.tiles**2 * self.allocated // 8


def samples_of(header: Header) -> Samples | Defect:
    """How an image's samples are stored, or why they are none that can be read."""
    said, frame = header.file, header.frames[0]
    rows, columns = whole(frame, "Rows") or 0, whole(frame, "Columns") or 0
    if header.pixels != "PixelData":
        return Defect(f"it has {header.pixels or 'no pixel data'}, not PixelData", _AGAIN)
    if (whole(said, "SamplesPerPixel") or 1) != 1 or text(said, "PhotometricInterpretation") in (
        "RGB",
        "PALETTE COLOR",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "YBR_RCT",
    ):
        return Defect("images are in colour, which no measured MR image is", "Export the original images")
    if header.syntax not in _NATIVE | _COMPRESSED:
        return Defect(
            f"images are stored in a way that is not read (transfer syntax {shown_uid(header.syntax)})",
            "Export the series without compression",
        )
    allocated = whole(said, "BitsAllocated") or 0
    stored = whole(said, "BitsStored") or allocated
    high = whole(said, "HighBit")
    high = stored - 1 if high is None else high
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        return Defect(f"samples of {stored} bits in {allocated} (highest {high}) cannot be", _AGAIN)
    tiles = int((frame.get("MosaicTile") or ("0", "1"))[1])
    pads = numbers(said, "PixelPaddingValue", 1)
    ends = numbers(said, "PixelPaddingRangeLimit", 1) or pads
    signed = whole(said, "PixelRepresentation") == 1
    inverted = text(said, "PhotometricInterpretation") == "MONOCHROME1"
    padding = None
    if pads and ends:
        # Written as unsigned by some, though the samples are signed.
        wrap = float(1 << stored) if signed else 0.0
        values = [value - wrap if wrap and value >= wrap / 2 else value for value in (*pads, *ends)]
        padding = (min(values), max(values))
    return Samples(rows, columns, allocated, stored, high, signed, inverted, header.syntax, tiles, padding)


def promise_defect(header: Header, samples: Samples) -> Defect | None:
    """Whether a file's header promises more than the file can hold."""
    described = len(header.frames) if samples.tiles == 1 else 1
    frames = max(whole(header.file, "NumberOfFrames") or 1, described)
    promised = frames * samples.frame_bytes
    if promised * 8 // samples.allocated > LARGEST:
        return Defect(
            f"headers promise {frames} frames of {samples.rows} x {samples.columns}, which is not believed",
            _AGAIN,
        )
    if samples.syntax in _NATIVE and samples.syntax != _DEFLATED:
        held = header.held if header.length is None else min(header.held, header.length)
        if held < promised:
            return Defect(f"files are truncated: one holds {held} of {promised} bytes of its pixels", _AGAIN)
    elif samples.syntax != _DEFLATED and header.held < 16 * frames:
        return Defect(f"files are truncated: {header.held} bytes for {frames} compressed frames", _AGAIN)
    return None


@dataclass(frozen=True)
class _Slice:
    path: Path
    size: int
    begins: int
    number: int
    slope: float
    intercept: float


@dataclass(frozen=True)
class DicomImage:
    """A stack of DICOM images; its voxels are read when asked for.

    Attributes:
        slices: in the order of the stored array.
        samples: how they are stored.
        grid: where they lie.
        where: how an error names it.
    """

    slices: tuple[_Slice, ...]
    samples: Samples
    grid: Grid
    where: str

    @classmethod
    def of(
        cls, source: Path, frames: Sequence[Frame], samples: Samples, grid: Grid, where: str
    ) -> DicomImage | Defect:
        """An image of frames that stand in the order of the stored array."""
        slices = []
        for frame in frames:
            header = frame.file.header
            slope, intercept = _scaling(frame)
            if header is None or slope is None or intercept is None:
                return Defect("RescaleSlope or RescaleIntercept is no number that can scale", _AGAIN)
            path = source / frame.file.path
            slices.append(_Slice(path, frame.file.size, header.begins, frame.number, slope, intercept))
        return cls(tuple(slices), samples, grid, where)

    def read(self) -> NDArray[np.float32]:
        """Its voxels on `grid`, in the units that the files mean.

        Raises:
            CaseError: a file is damaged, truncated, has changed, or cannot be decoded.
        """
        count, rows, columns = len(self.slices), self.samples.rows, self.samples.columns
        if count * rows * columns > LARGEST:
            raise CaseError(
                f"{count} x {rows} x {columns} voxels are not believed", where=self.where, remedy=_AGAIN
            )
        try:
            values = np.empty((count, rows, columns), np.float32)
        except MemoryError as error:
            raise CaseError("does not fit into memory", where=self.where, remedy=_AGAIN) from error
        for index, (one, stored) in enumerate(zip(self.slices, self._stored(), strict=True)):
            values[index] = stored.reshape(rows, columns)
            if (one.slope, one.intercept) != (1.0, 0.0):
                values[index] *= np.float32(one.slope)
                values[index] += np.float32(one.intercept)
        turned = self.grid.turn(values)
        return np.asarray(turned, dtype=np.float32)

    def _stored(self) -> Iterator[NDArray[np.generic]]:
        """Each slice's stored values, slice by slice."""
        for path, group in groupby(self.slices, key=lambda one: one.path):
            mine = list(group)
            try:
                if path.stat().st_size != mine[0].size:
                    raise CaseError(
                        "has changed since it was scanned", where=str(path), remedy="Ingest again"
                    )
                yield from (_meant(values, self.samples) for values in _frames(path, mine, self.samples))
            except OSError as error:
                raise CaseError(
                    f"cannot be read ({error.strerror})",
                    where=str(path),
                    remedy="Check the file and its permissions",
                ) from error


def one_frame(source: Path, frame: Frame) -> NDArray[np.generic]:
    """The values of one frame as stored, flat, before they are scaled.

    Raises:
        CaseError: they cannot be had.
        OSError: the file cannot be read.
    """
    path = source / frame.file.path
    samples = Defect("", "") if frame.file.header is None else samples_of(frame.file.header)
    if frame.file.header is None or isinstance(samples, Defect):
        raise CaseError("has no pixels that can be read", where=str(path), remedy=_AGAIN)
    one = _Slice(path, frame.file.size, frame.file.header.begins, frame.number, 1.0, 0.0)
    return next(iter(_frames(path, [one], samples)))


def _scaling(frame: Frame) -> tuple[float | None, float | None]:
    slope = number(frame.said, "RescaleSlope") if frame.said.get("RescaleSlope") else 1.0
    intercept = number(frame.said, "RescaleIntercept") if frame.said.get("RescaleIntercept") else 0.0
    return (slope if slope != 0.0 else None), intercept


def _frames(path: Path, slices: Sequence[_Slice], samples: Samples) -> Iterator[NDArray[np.generic]]:
    """The samples of some frames of one file as stored, flat; of a mosaic, its tiles."""
    if samples.tiles > 1:
        whole_mosaic = next(_whole_frames(path, [replace(slices[0], number=0)], samples))
        edge = samples.tiles
        cut = whole_mosaic.reshape(edge, samples.rows, edge, samples.columns)
        yield from (cut[one.number // edge, :, one.number % edge].reshape(-1) for one in slices)
    else:
        yield from _whole_frames(path, slices, samples)


def _whole_frames(path: Path, slices: Sequence[_Slice], samples: Samples) -> Iterator[NDArray[np.generic]]:
    if samples.syntax not in _NATIVE:
        yield from decoded(path, [one.number for one in slices], samples.frame_bytes * 8 // samples.allocated)
        return
    order = ">" if samples.syntax == _BIG_ENDIAN else "<"
    dtype = np.dtype(f"{order}u{samples.allocated // 8}")
    with path.open("rb") as file:
        if samples.syntax == _DEFLATED:
            try:
                plain = open_dataset(path, file, pixels=True).get("PixelData", b"")
            except HeaderError as error:
                raise CaseError(str(error), where=str(path), remedy=_AGAIN) from error
        for one in slices:
            first = one.number * samples.frame_bytes
            if samples.syntax == _DEFLATED:
                raw = plain[first : first + samples.frame_bytes]
            else:
                file.seek(one.begins + first)
                raw = file.read(samples.frame_bytes)
            if len(raw) < samples.frame_bytes:
                raise CaseError(
                    f"is truncated: a frame has {len(raw)} of {samples.frame_bytes} bytes",
                    where=str(path),
                    remedy=_AGAIN,
                )
            yield np.frombuffer(raw, dtype)


def _meant(values: NDArray[np.generic], samples: Samples) -> NDArray[np.generic]:
    """Stored samples as numbers: unused bits off, sign out, dark values low, padding as dark as the darkest."""
    if samples.syntax in _NATIVE or values.dtype.kind == "u":
        values = _without_unused_bits(values, samples)
    if samples.inverted:
        top = -1 if samples.signed else (1 << samples.stored) - 1
        values = top - values.astype(np.int64)
    if samples.padding is not None and not samples.inverted and samples.padding != (0.0, 0.0):
        low, high = samples.padding
        padded = (values.astype(np.float64) >= low) & (values.astype(np.float64) <= high)
        if padded.any() and not padded.all():
            values = np.where(padded, values[~padded].min(), values)
    return values


def _without_unused_bits(values: NDArray[np.generic], samples: Samples) -> NDArray[np.generic]:
    size = samples.allocated
    plain = values.astype(np.dtype(f"u{size // 8}"))
    native = samples.syntax in _NATIVE
    up = size - 1 - samples.high if native else size - samples.stored
    shifted: NDArray[np.generic] = np.left_shift(plain, up)
    if samples.signed:
        shifted = shifted.view(np.dtype(f"i{size // 8}"))
    meant: NDArray[np.generic] = np.right_shift(shifted, size - samples.stored)
    return meant
