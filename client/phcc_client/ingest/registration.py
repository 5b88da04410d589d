"""The phases of one examination brought onto the phase that the lesion was drawn on.

Between two breath-holds the liver moves by millimetres to centimetres, and contrast agent changes what is
bright. What is matched is therefore edges, around the lesion only (the body moves differently elsewhere), and
the result is a rigid motion that goes into the phase's geometry: no voxel is interpolated here. Deformable
registration, an option, bends a region about the lesion on top of it and does interpolate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.geometry import bounding_box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.registration_deformable import bend
from phcc_client.ingest.registration_edges import Array
from phcc_client.ingest.registration_residual import residual_shift_mm
from phcc_client.ingest.registration_rigid import Found, Motion, find_motion

Method = Literal["off", "rigid", "deformable"]
Located = tuple[NDArray[np.float32], Grid]

AROUND_MM = 35.0
"""How much around the lesion is matched, on each side."""
MOST_MM = 40.0
MOST_DEGREES = 15.0
"""A larger motion is none of breathing or of turning on the table: it is a registration gone astray."""
LEAST_OVERLAP = 0.5
_WORSE_MM = 1.0
"""By so much the measured shift may grow before a motion is refused: the measurement's own error."""
_NOTHING_MM = 0.3
"""A smaller motion at the corners of the lesion's box is no more than the search can tell: nothing is moved."""


@dataclass(frozen=True)
class Registered:
    """A phase in the space of the reference phase.

    Attributes:
        array_dhw: its voxels; as they came, unless the phase was bent.
        grid: where they lie now. Bent: a part of the reference phase's grid.
        aligned: what was done; ``off`` where it was asked for, or where the rest was refused.
        shift_mm: how far the lesion's place was moved.
        residual_mm: the shift that is measured around the lesion afterwards; None where none can be measured.
        note: why less was done than was asked for; empty where all was.
    """

    array_dhw: NDArray[np.float32]
    grid: Grid
    aligned: Method
    shift_mm: float
    residual_mm: float | None
    note: str = ""


def register(
    fixed: Located,
    moving: Located,
    *,
    method: Method,
    lesion_centre_mm_zyx: NDArray[np.float64],
    lesion_mask_dhw: NDArray[np.generic] | None = None,
    lesion_radius_mm: float = 20.0,
) -> Registered:
    """Bring one phase onto another.

    Args:
        fixed: array (D, H, W) and grid of the phase that the lesion was drawn on.
        moving: of the other phase.
        method: ``off`` measures only; ``rigid`` moves and turns; ``deformable`` bends on top of that.
        lesion_centre_mm_zyx: in mm of the patient.
        lesion_mask_dhw: not zero inside the lesion, on the fixed grid; says how large the lesion is.
        lesion_radius_mm: that, where there is no mask.

    Returns:
        The phase in its new place. What cannot be trusted is refused with a note, never done in silence.
    """
    centre = np.asarray(lesion_centre_mm_zyx, dtype=np.float64)
    half = _half_mm(fixed[1], centre, lesion_mask_dhw, lesion_radius_mm)
    reach = float(half.max()) + AROUND_MM
    before = residual_shift_mm(fixed, moving, centre, reach)
    as_it_is = Registered(moving[0].astype(np.float32, copy=False), moving[1], "off", 0.0, before)
    if method == "off":
        return as_it_is
    found = find_motion(fixed, moving, centre, half + AROUND_MM)
    refused = _refusal(found)
    if found is None or refused:
        return _kept(as_it_is, refused)
    motion = found.motion
    still = motion.furthest_mm(half) < _NOTHING_MM
    grid = moving[1] if still else motion.undone(moving[1])
    after = residual_shift_mm(fixed, (as_it_is.array_dhw, grid), centre, reach)
    if before is not None and after is not None and after > before + _WORSE_MM:
        return _kept(
            as_it_is, f"the shift measured afterwards is larger ({after:.1f} mm, {before:.1f} mm before)"
        )
    rigid = Registered(as_it_is.array_dhw, grid, "rigid", 0.0 if still else motion.millimetres, after)
    if method == "rigid":
        return rigid
    return _bent(fixed, rigid, centre, half, motion)


def _half_mm(grid: Grid, centre_mm: Array, mask_dhw: NDArray[np.generic] | None, radius_mm: float) -> Array:
    """From the lesion's centre to the farthest corner of its box, along each of the patient's axes."""
    box = None if mask_dhw is None else bounding_box(np.asarray(mask_dhw) != 0)
    if box is None:
        return np.full(3, radius_mm)
    low, high = np.array(box.low_dhw) - 0.5, np.array(box.high_dhw) - 0.5
    corners = [
        grid.to_mm(np.where([k & 1, k & 2, k & 4], high, low).astype(np.float64)) - centre_mm
        for k in range(8)
    ]
    return np.asarray(np.abs(corners).max(axis=0), dtype=np.float64)


def _refusal(found: Found | None) -> str:
    """Why a motion is not to be trusted; empty where it is."""
    if found is None:
        return "there is too little of both phases around the lesion to compare"
    if found.overlap < LEAST_OVERLAP:
        return f"the phases share only {found.overlap:.0%} of what lies around the lesion"
    if found.motion.millimetres > MOST_MM or found.motion.degrees > MOST_DEGREES:
        return (
            f"it found a motion of {found.motion.millimetres:.0f} mm and {found.motion.degrees:.0f} degrees, "
            "which no breath makes"
        )
    if found.after < found.before:
        return "the edges of the two phases met worse than before"
    return ""


def _kept(as_it_is: Registered, why: str) -> Registered:
    return Registered(
        as_it_is.array_dhw, as_it_is.grid, "off", 0.0, as_it_is.residual_mm, f"left where it was: {why}"
    )


def _bent(fixed: Located, rigid: Registered, centre: Array, half: Array, motion: Motion) -> Registered:
    """The rigid result bent, where that makes the edges meet better."""
    bent = bend(fixed, (rigid.array_dhw, rigid.grid), centre, half)
    if isinstance(bent, str):
        return Registered(
            rigid.array_dhw, rigid.grid, "rigid", rigid.shift_mm, rigid.residual_mm, f"not bent: {bent}"
        )
    residual = residual_shift_mm(fixed, (bent.array_dhw, bent.grid), centre, float(half.max()) + AROUND_MM)
    shift = float(np.linalg.norm(motion.shift_mm + motion.rotation @ bent.shift_mm))
    return Registered(bent.array_dhw, bent.grid, "deformable", shift, residual)
