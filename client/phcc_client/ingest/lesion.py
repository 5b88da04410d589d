"""Where the lesion lies: a drawing, whatever its kind, as a mask on the grid of the phase it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from phcc_client.imaging.case import Box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.examination import Drawing, Image
from phcc_model.config import Phase
from phcc_model.errors import CaseError

_PREFERRED: tuple[Phase, ...] = (
    *("portal-venous", "arterial", "delayed", "pre-contrast", "hepatobiliary", "image"),
)
"""Where nothing says on which phase a lesion was drawn: the phase with the least motion comes first."""


@dataclass(frozen=True)
class Lesion:
    """One lesion on one phase's grid.

    Attributes:
        number: within the patient.
        phase: whose grid it is on; it moves with that phase.
        mask_dhw: uint8, 1 inside.
        boxes: its box in other phases, where the source drew one in each.
    """

    number: int
    phase: Phase
    mask_dhw: NDArray[np.uint8]
    boxes: Mapping[Phase, Box]


def locate(drawing: Drawing, images: Mapping[Phase, Image], series_phase: Mapping[str, Phase]) -> Lesion:
    """A drawing as a mask on the phase that it was drawn on.

    Args:
        drawing: mask or box.
        images: the patient's phases.
        series_phase: which phase a SeriesInstanceUID became.

    Raises:
        CaseError: nothing is drawn, it lies outside the image, or its phase is not there.
    """
    phase = _phase_of(drawing, images, series_phase)
    grid = images[phase].grid
    if drawing.mask is not None:
        mask = _on_grid(drawing.mask, grid)
    else:
        box = drawing.boxes.get(phase, drawing.box)
        assert box is not None
        mask = _filled(grid.turn_box(box), grid)
    return Lesion(drawing.number, phase, mask, drawing.boxes)


def _phase_of(drawing: Drawing, images: Mapping[Phase, Image], series_phase: Mapping[str, Phase]) -> Phase:
    told = drawing.phase or series_phase.get(drawing.series)
    if told is not None and told not in images:
        raise CaseError(
            f"the lesion was drawn on phase {told}, which is not there",
            remedy="Name another phase in the column lesion_phase, or add the phase",
        )
    if told is not None:
        return told
    order = [p for p in _PREFERRED if p in images]
    if drawing.boxes:
        return next((p for p in order if p in drawing.boxes), order[0])
    if drawing.mask is not None:
        own = drawing.mask.grid
        return next((p for p in order if images[p].grid.same_as(own)), order[0])
    raise CaseError("nothing says on which phase the lesion was drawn", remedy="Fill the column lesion_phase")


def _on_grid(mask: Image, grid: Grid) -> NDArray[np.uint8]:
    drawn = np.asarray(mask.read() != 0, dtype=np.uint8)
    if not drawn.any():
        raise CaseError("the lesion's mask is empty", remedy="Draw the lesion")
    own = mask.grid
    if own.same_as(grid):
        return drawn
    moved = on_grid(drawn, own, grid)
    if not moved.any():
        raise CaseError(
            "the lesion's mask lies outside the image",
            remedy="Check that mask and image are of one examination and one space",
        )
    return moved


def on_grid(mask_dhw: NDArray[np.uint8], own: Grid, grid: Grid) -> NDArray[np.uint8]:
    """A mask on another grid, nearest voxel."""
    sampled = affine_transform(
        mask_dhw,
        np.linalg.solve(own.matrix, grid.matrix),
        offset=own.to_index(grid.origin_mm),
        output_shape=grid.shape_dhw,
        order=0,
        mode="constant",
        cval=0,
    )
    return np.asarray(sampled, dtype=np.uint8)


def region(mask_dhw: NDArray[np.uint8], margin_dhw: NDArray[np.int_]) -> tuple[slice, slice, slice]:
    """The part of an array around a mask that is not empty, so many voxels wider on every side."""
    sides = []
    for axis, size in enumerate(mask_dhw.shape):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask_dhw.any(axis=others))
        low, high = int(hit[0]) - int(margin_dhw[axis]), int(hit[-1]) + 1 + int(margin_dhw[axis])
        sides.append(slice(max(low, 0), min(high, size)))
    return sides[0], sides[1], sides[2]


def _filled(box: Box, grid: Grid) -> NDArray[np.uint8]:
    mask = np.zeros(grid.shape_dhw, dtype=np.uint8)
    mask[tuple(slice(low, high) for low, high in zip(box.low_dhw, box.high_dhw, strict=True))] = 1
    return mask


def centre_mm(mask_dhw: NDArray[np.uint8], grid: Grid) -> NDArray[np.float64]:
    """The centre of a mask's bounding box, (z, y, x) in mm."""
    middle = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask_dhw.any(axis=others))
        middle.append((hit[0] + hit[-1]) / 2)
    return grid.to_mm(np.array(middle, dtype=np.float64))


def volume_ml(mask_dhw: NDArray[np.uint8], grid: Grid) -> float:
    """Volume of a mask in millilitres."""
    return float(np.count_nonzero(mask_dhw) * abs(np.linalg.det(grid.matrix)) / 1000.0)


def with_boxes_together(
    lesions: Iterable[Lesion], reference: Phase, images: Mapping[Phase, Image]
) -> dict[Phase, NDArray[np.float64]]:
    """How far each phase must be moved, (z, y, x) in mm, so that boxes drawn phase by phase meet.

    Breathing moves the liver by centimetres between phases; where the lesion was boxed in every phase, the
    boxes say by how much. With several lesions it is their mean.

    Args:
        lesions: with their boxes.
        reference: the phase that stays.
        images: the patient's phases.

    Raises:
        CaseError: a box lies outside its volume.
    """
    moves: dict[Phase, list[NDArray[np.float64]]] = {}
    for lesion in lesions:
        if reference not in lesion.boxes:
            continue
        target = _centre_of(lesion.boxes[reference], images[reference].grid)
        for phase, box in lesion.boxes.items():
            if phase != reference and phase in images:
                moves.setdefault(phase, []).append(target - _centre_of(box, images[phase].grid))
    return {phase: np.mean(shifts, axis=0) for phase, shifts in moves.items()}


def _centre_of(box: Box, grid: Grid) -> NDArray[np.float64]:
    return grid.to_mm(grid.turn_box(box).centre_dhw)


def moved(grid: Grid, shift_mm: NDArray[np.float64]) -> Grid:
    """A grid, moved by (z, y, x) mm."""
    return Grid(grid.shape_dhw, grid.matrix, grid.origin_mm + shift_mm, grid.axes, grid.flipped)
