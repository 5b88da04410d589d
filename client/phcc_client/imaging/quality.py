"""What can be wrong with an image although its file is whole: each check says so and sets the case aside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Box, PhaseImage
from phcc_client.imaging.grid import Grid
from phcc_model.errors import CaseError

_FAR_MM = 40.0
"""Further than this no breath moves a lesion along the body's axis."""
_NEAR_MM = 15.0
"""Nearer than this counts as the same place, breathing included."""


def check_voxels(region_dhw: NDArray[np.float32], where: str) -> None:
    """Refuse voxels that are not numbers, and a region without any contrast.

    Raises:
        CaseError: NaN or infinite voxels, or one value everywhere.
    """
    low, high = float(region_dhw.min()), float(region_dhw.max())
    if not np.isfinite(low) or not np.isfinite(high):
        bad = int(np.count_nonzero(~np.isfinite(region_dhw)))
        raise CaseError(
            f"{bad} voxels around the lesion are not numbers (NaN or infinite)",
            where=where,
            remedy="Export the image again",
        )
    if low == high:
        raise CaseError(
            f"every voxel around the lesion has the value {low:g}",
            where=where,
            remedy="Check the image and the box",
        )


def check_slices_differ(region_dhw: NDArray[np.float32], where: str) -> None:
    """Refuse an image that holds a slice twice: in some of LLD-MMRI part of a stack is repeated.

    It is not mended: with a slice repeated, nobody knows which distances between slices are true. Slices
    without any contrast (padding) may repeat.

    Raises:
        CaseError: two slices of the region are the same, voxel by voxel.
    """
    seen: dict[bytes, int] = {}
    for d, slice_hw in enumerate(region_dhw):
        if slice_hw.min() == slice_hw.max():
            continue
        content = slice_hw.tobytes()
        if content in seen:
            raise CaseError(
                f"a slice is repeated around the lesion (numbers {seen[content] + 1} and {d + 1} read)",
                where=where,
                remedy="Export the series again, or take the phase out of the annotation",
            )
        seen[content] = d


def check_same_way_up(phases: Sequence[tuple[PhaseImage, Grid, Box | None]]) -> None:
    """Refuse a phase that is stored upside down with regard to the others, as its box betrays.

    Only for images whose orientation the file does not tell (spacing from an annotation). A phase is taken to
    be upside down when its box lies far from where the first phase has it, counted from the first slice, and
    near it, counted from the last. Not found: a lesion near the middle of the stack, and a case with *all*
    phases upside down; augmentation by flips is what helps there.

    Raises:
        CaseError: one phase is upside down.
    """
    heights = [
        (
            image,
            float(box.centre_dhw[0] * grid.spacing_mm_dhw[0]),
            float((grid.shape_dhw[0] - 1 - box.centre_dhw[0]) * grid.spacing_mm_dhw[0]),
        )
        for image, grid, box in phases
        if box is not None and image.spacing_mm_dhw is not None
    ]
    for image, from_first, from_last in heights[1:]:
        reference, expected, _ = heights[0]
        if abs(from_first - expected) > _FAR_MM and abs(from_last - expected) < _NEAR_MM:
            raise CaseError(
                f"seems to be stored upside down: the lesion lies {from_first:.0f} mm from its first slice, "
                f"{from_last:.0f} mm from its last, but {expected:.0f} mm from {reference.phase}'s first",
                where=image.where,
                remedy="Turn the series over (image and box), or take the phase out of the annotation",
            )
