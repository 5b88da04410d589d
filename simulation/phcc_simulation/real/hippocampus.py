"""Real MR volumes of the hippocampus as a data set that a study can read: a table, centres, a test part, a label.

From the Medical Segmentation Decathlon (Task04, CC BY-SA 4.0): T1-weighted crops of 1 mm about one hippocampus
each, with an expert's mask. The label is whether the mask's volume lies above the median of the *training* side;
of the masks nothing else is written, and no image is changed: scales that differ by four orders of magnitude
stay in.

- A centre is a scale: three clusters of the images' medians lie a factor of five and more apart.
- A part of each centre's volumes is the test; it is chosen before any volume is looked at.
- Experts cut the images about the hippocampus, so that an image's size tells its volume. Every case therefore
  gets a box of one size in the image's middle, so small that it fits into every image: no border is ever seen.
- Which two volumes are of one person the data do not say: each counts as a patient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phcc_client.imaging.case import Box
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_model.errors import CaseError, DatasetError
from phcc_model.seeds import derive_seed

LABEL = "large"
BOX_ZYX = (24, 40, 28)
"""Voxels of 1 mm: what every image has about its middle; most of a hippocampus, not all of every one."""

SCALES = (("eight-bit", 200.0), ("hundreds", 1e4), ("hundred-thousands", math.inf))
"""Centres, and below which median of the image; the medians' clusters end at 76, 771 and above 176,000."""

_IMAGES, _LABELS = "images", "labels"


@dataclass(frozen=True)
class Hippocampus:
    """One image.

    Attributes:
        case: name of its file without ``.nii.gz``.
        image: the file.
        centre: by its scale.
        box: of `BOX_ZYX` in the image's middle, in voxels as stored.
        voxels: of the whole image: what the expert's crop alone tells.
        volume_mm3: of the expert's mask; None without one.
        test: whether it is held out.
    """

    case: str
    image: Path
    centre: str
    box: Box
    voxels: int
    volume_mm3: float | None
    test: bool = False


def read_hippocampi(folder: Path) -> tuple[list[Hippocampus], list[tuple[str, str]]]:
    """Every image below a folder with its mask's volume, and what was set aside: name and reason.

    Raises:
        DatasetError: there are no images.
    """
    roots = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []
    root = next((path for path in roots if (path / _IMAGES).is_dir()), None)
    if root is None:
        raise DatasetError(
            f"holds no folder {_IMAGES}", where=str(folder), remedy="Give the folder of the hippocampi"
        )
    images = {path.name: path for path in sorted((root / _IMAGES).glob("*.nii.gz"))}
    masks = {path.name: path for path in sorted((root / _LABELS).glob("*.nii.gz"))}
    aside = [(name, "a mask without an image") for name in masks if name not in images]
    found = []
    for name, path in images.items():
        try:
            found.append(_read(path, masks.get(name)))
        except CaseError as error:
            aside.append((name, error.what))
    if not found:
        raise DatasetError(
            "holds no image that can be used", where=str(root / _IMAGES), remedy="Check the files"
        )
    return found, aside


def hold_out(cases: Iterable[Hippocampus], share: float, seed: int) -> list[Hippocampus]:
    """Make a share of each centre's labelled cases the test, whatever their volumes.

    Args:
        cases: with or without a mask; without one a case cannot be tested.
        share: of each centre's cases with a mask, to the nearest whole number.
        seed: of the draw.
    """
    found = list(cases)
    test: set[str] = set()
    for centre in {one.centre for one in found}:
        members = [one.case for one in found if one.centre == centre and one.volume_mm3 is not None]
        members.sort(key=lambda case: (derive_seed(seed, "hippocampus", "test", case), case))
        test.update(members[: math.floor(share * len(members) + 0.5)])
    return [
        Hippocampus(one.case, one.image, one.centre, one.box, one.voxels, one.volume_mm3, one.case in test)
        for one in found
    ]


def training_median_mm3(cases: Iterable[Hippocampus]) -> float:
    """Median volume of the masks of the training side.

    Raises:
        DatasetError: there is none.
    """
    volumes = [one.volume_mm3 for one in cases if not one.test and one.volume_mm3 is not None]
    if not volumes:
        raise DatasetError("no image of the training side has a mask", remedy="Hold out fewer")
    return float(np.median(volumes))


def table_of(cases: Iterable[Hippocampus], median_mm3: float) -> str:
    """``cases.csv`` for the reader ``nifti-csv``; of the volumes only the label is in it.

    Args:
        cases: all.
        median_mm3: a larger volume has the label 1.
    """
    columns = ["case", "patient", "centre", LABEL, "given_split", "image"]
    lines = [",".join([*columns, *_corners(None)])]
    for one in cases:
        label = "" if one.volume_mm3 is None else str(int(one.volume_mm3 > median_mm3))
        split = "test" if one.test else "train"
        facts = [one.case, one.case, one.centre, label, split, f"{_IMAGES}/{one.image.name}"]
        lines.append(",".join([*facts, *_corners(one.box)]))
    return "\n".join(lines) + "\n"


def counts_of(cases: Iterable[Hippocampus], median_mm3: float) -> Mapping[tuple[str, str], dict[str, int]]:
    """How many cases are large, small and without a mask, by centre and side."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for one in cases:
        side = counts.setdefault(
            (one.centre, "test" if one.test else "training"), {"large": 0, "small": 0, "no mask": 0}
        )
        kind = "no mask" if one.volume_mm3 is None else "large" if one.volume_mm3 > median_mm3 else "small"
        side[kind] += 1
    return dict(sorted(counts.items()))


def _read(path: Path, mask: Path | None) -> Hippocampus:
    header = read_header(path)
    shape = header.stored_shape
    if any(n < m for n, m in zip(shape, BOX_ZYX, strict=True)):
        raise CaseError(f"its {shape} voxels (z, y, x) do not hold a box of {BOX_ZYX}")
    image = header.scaled(read_voxels(header))
    median = float(np.median(image))
    centre = next((name for name, below in SCALES if median < below), None)
    if centre is None:
        raise CaseError(f"its median is {median:g}")
    low = tuple((n - m) // 2 for n, m in zip(shape, BOX_ZYX, strict=True))
    high = tuple(a + m for a, m in zip(low, BOX_ZYX, strict=True))
    box = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    volume = None if mask is None else _volume_mm3(mask)
    return Hippocampus(path.name.removesuffix(".nii.gz"), path, centre, box, math.prod(shape), volume)


def _volume_mm3(mask: Path) -> float:
    header = read_header(mask)
    volume = float(np.count_nonzero(read_voxels(header)) * np.prod(header.grid.spacing_mm_dhw))
    if not volume:
        raise CaseError("its mask is empty")
    return volume


def _corners(box: Box | None) -> list[str]:
    """Names of the columns, or the box's numbers in them."""
    found = []
    for at, axis in enumerate("zyx"):
        if box is None:
            found += [f"{axis}_min", f"{axis}_max"]
        else:
            found += [str(box.low_dhw[at]), str(box.high_dhw[at])]
    return found
