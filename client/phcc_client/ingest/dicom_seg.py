"""Lesions that were drawn in a viewer: DICOM segmentations, read by highdicom, as masks in space.

A segmentation stores the slices that have something drawn on them; its mask reaches as far as they do. What is
named as an organ is no lesion, contours (RTSTRUCT) are not read: both are said, neither is taken in silence.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.dicom_files import Scanned
from phcc_client.ingest.dicom_values import shown_uid, text, whole
from phcc_client.ingest.examination import Drawing
from phcc_model.errors import CaseError

_READ = {
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",
}  # fmt: skip
"""Not compressed, deflated, or RLE: what segmentations are stored in, and what needs no C++ codec."""
_LARGEST = 1 << 29  # voxels
_AGAIN, _PLAIN = "Export the segmentation again", "Export it without compression"
_ORGANS = re.compile(
    r"\b(liver|leber|foie|h[ií]gado|fegato|lever|w[aą]troba|spleen|milz|rate|kidneys?|nieren?|stomach|pancreas|aorta"
    r"|veins?|vessels?|gallbladder|lungs?|body|background|abdomen)\b",
    re.IGNORECASE,
)
_LESIONS = re.compile(
    r"lesion|l[aä]sion|tumou?r|mass|nodul|hcc|carcinoma|karzinom|cancer|metast|herd|roi|target", re.IGNORECASE
)
_ANATOMY = ("123037004", "T-D0050", "T-D000A")
"""Codes of the category "anatomical structure" (SNOMED CT, SRT)."""


@dataclass(frozen=True)
class SegmentImage:
    """One segment as a mask in space.

    Attributes:
        path: the file.
        number: the segment's.
        grid: where the mask lies.
        where: how an error names it.
    """

    path: Path
    number: int
    grid: Grid
    where: str

    def read(self) -> NDArray[np.float32]:
        """One inside the segment and zero outside, on `grid`; a fractional segment has its fractions.

        Raises:
            CaseError: the file is damaged.
        """
        stored, _ = _segment(self.path, self.number)
        return np.ascontiguousarray(self.grid.turn(stored), dtype=np.float32)


def drawings_of(
    source: Path, files: Sequence[Scanned], frames_of_reference: Collection[str] = ()
) -> tuple[tuple[Drawing, ...], tuple[tuple[str, str], ...]]:
    """The lesions in one patient's segmentations, and (file, why) of what is none or cannot be read.

    Args:
        source: the folder that the files lie below.
        files: segmentations and other drawings.
        frames_of_reference: those of the patient's images; a drawing of another lies nobody knows where.
    """
    drawings: list[Drawing] = []
    refused: list[tuple[str, str]] = []
    for file in sorted(files, key=_in_order):
        header = file.header
        why = file.why and f"{file.why}. Export the contours as a DICOM segmentation (SEG) or as a NIfTI mask"
        if header is None or why:
            refused.append((file.path, why or "it has no header"))
            continue
        frame = text(header.file, "FrameOfReferenceUID")
        if frame and frames_of_reference and frame not in frames_of_reference:
            refused.append(
                (file.path, f"it is drawn in another frame of reference than every image. {_DRAW}")
            )
            continue
        for segment in header.segments:
            found = _lesion(source, file, segment)
            if isinstance(found, SegmentImage):
                series = header.series[0] if len(header.series) == 1 else ""
                drawings.append(Drawing(len(drawings) + 1, found, series=series))
            else:
                refused.append((file.path, found))
        if not header.segments:
            refused.append((file.path, f"it describes no segment. {_AGAIN}"))
    return tuple(drawings), tuple(refused)


def _in_order(file: Scanned) -> tuple[str, str]:
    return text(file.header.frames[0], "SOPInstanceUID") if file.header else "", file.path


_DRAW = "Draw the lesion on the series that is ingested"


def _lesion(source: Path, file: Scanned, segment: tuple[str, str, str]) -> SegmentImage | str:
    """A segment as an image; or why it is not taken."""
    number, label, category = segment
    if not number.isdigit():
        return f"a segment has no number. {_AGAIN}"
    if not _LESIONS.search(label) and (_ORGANS.search(label) or category in _ANATOMY):
        return f"segment {number} is named as an organ, not as a lesion. If it is one, name it Lesion"
    header = file.header
    rows, columns = (whole(header.frames[0], n) or 0 for n in ("Rows", "Columns")) if header else (0, 0)
    if header is None or rows * columns * max(len(header.frames), 1) > _LARGEST or rows * columns == 0:
        return f"its size is not believed. {_AGAIN}"
    if header.syntax not in _READ:
        return f"it is compressed in a way that is not read ({shown_uid(header.syntax)}). {_PLAIN}"
    if header.length is not None and header.held < header.length:
        return f"it is truncated: it holds {header.held} of {header.length} bytes. {_AGAIN}"
    path = source / file.path
    try:
        stored, affine = _segment(path, int(number))
    except CaseError as error:
        return f"{error.what}. {_AGAIN}"
    grid = Grid.turned(_shape(stored), affine[:3, :3][::-1], affine[:3, 3][::-1].copy())
    return SegmentImage(path, int(number), grid, f"{file.path} (segment {number})")


def _shape(stored: NDArray[np.generic]) -> tuple[int, int, int]:
    return stored.shape[0], stored.shape[1], stored.shape[2]


@lru_cache(maxsize=4)
def _segment(path: Path, number: int) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """A segment's voxels as stored and its affine, index (d, h, w) to (x, y, z), LPS.

    Raises:
        CaseError: highdicom cannot make a volume of it.
    """
    import highdicom  # it takes a second to import, and most sources have no segmentation

    try:
        with warnings.catch_warnings():
            # What it says of a file's form helps nobody at a hospital.
            warnings.simplefilter("ignore")
            held = dcmread(path)
            _believed(held, path)
            image = highdicom.seg.Segmentation.from_dataset(held, copy=False)
            space = image.get_volume_geometry(allow_missing_positions=True)
            if space is not None and math.prod(space.spatial_shape) > _LARGEST:
                raise CaseError("its slices lie too far apart", where=str(path), remedy=_AGAIN)
            volume = image.get_volume(segment_numbers=[number], dtype=np.float32)
        affine = np.asarray(volume.affine, dtype=np.float64)
        voxels = np.asarray(volume.array, dtype=np.float32)[..., 0]
    except CaseError:
        raise
    except Exception as error:
        # What highdicom says of it may quote the header, and so a name.
        raise CaseError(
            f"no mask can be made of it ({type(error).__name__})", where=str(path), remedy=_AGAIN
        ) from error
    if not np.isfinite(affine).all() or voxels.ndim != 3 or abs(np.linalg.det(affine)) < 1e-9:
        raise CaseError("it does not say where it lies", where=str(path), remedy=_AGAIN)
    return voxels, affine


def _believed(held: Dataset, path: Path) -> None:
    """Refuse a bomb: highdicom keeps a row a frame, for as many frames as the header promises.

    Raises:
        CaseError: the file promises other frames than it describes.
    """
    described = len(held.get("PerFrameFunctionalGroupsSequence", ()))
    if held.get("DimensionOrganizationType") == "TILED_FULL" or int(held.NumberOfFrames) != described:
        raise CaseError(
            "it promises other frames than it describes one by one", where=str(path), remedy=_AGAIN
        )
