"""What shift is left between two phases around the lesion: measured, not taken from the registration.

Phase correlation of edge strength. The strength of the gradient (not its direction, which the registration
goes by) is taken from both images on one small grid about the lesion, levelled where it is strong, faded out
towards the border, and correlated over all shifts at once in the Fourier domain, each frequency's weight
evened out (Kuglin and Hines, "The phase correlation image alignment method", 1975); the peak is refined with
a parabola through its neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfftn, rfftn
from scipy.ndimage import gaussian_gradient_magnitude, map_coordinates

from phcc_client.imaging.geometry import frame_of
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.registration_edges import Array, box_of_voxels

STEP_MM = 2.0
FARTHEST_MM = 24.0
"""A larger shift is not looked for."""
_SCALE_MM = 1.5
_EVENED = 0.6
"""How far the frequencies are evened out: 0 is plain correlation, 1 is pure phase, which drowns in noise."""
_DISTINCT = 5.0
"""The peak must stand out of all shifts by so many standard deviations."""
_COVERED = 0.2


def residual_shift_mm(
    fixed: tuple[NDArray[np.float32], Grid],
    moving: tuple[NDArray[np.float32], Grid],
    centre_mm_zyx: Array,
    reach_mm: float = 50.0,
) -> float | None:
    """The shift between what two images show around a place, in mm.

    On phantom pairs of different phases, noise and grids, moved by up to 8 mm and 3 degrees, it erred by 0.1 mm
    (median), 0.2 mm (nine in ten) and 0.4 mm at most, with 35 mm around the lesion compared; with the lesion
    alone by millimetres. A turn about the place itself is not seen.

    Args:
        fixed: array (D, H, W) and grid of the reference phase.
        moving: of the other phase, after it was moved (if it was).
        centre_mm_zyx: the lesion's centre in mm of the patient.
        reach_mm: from there to the faces of the cube that is compared.

    Returns:
        None where it cannot be measured: little overlap, no edges, or no shift that stands out.
    """
    frame = frame_of(fixed[1])
    one = _edges(fixed, frame, centre_mm_zyx, reach_mm)
    other = _edges(moving, frame, centre_mm_zyx, reach_mm)
    if one is None or other is None:
        return None
    spectrum = np.conj(rfftn(one)) * rfftn(other)
    strength = np.abs(spectrum)
    if not float(strength.max()) > 0:
        return None
    spectrum /= np.maximum(strength, 1e-6 * float(strength.max())) ** _EVENED
    surface = np.fft.fftshift(irfftn(spectrum, s=one.shape))
    middle = np.array(surface.shape) // 2
    reach = int(min(FARTHEST_MM / STEP_MM, middle.min() - 1))
    near = tuple(slice(m - reach, m + reach + 1) for m in middle)
    at = np.array(np.unravel_index(int(np.argmax(surface[near])), surface[near].shape)) + middle - reach
    peak = float(surface[tuple(at)])
    if np.any(np.abs(at - middle) >= reach) or peak < _DISTINCT * float(surface.std()):
        return None
    return float(np.linalg.norm((at + _refined(surface, at) - middle) * STEP_MM))


def _edges(
    image: tuple[NDArray[np.float32], Grid], frame: Array, centre_mm: Array, reach_mm: float
) -> NDArray[np.float64] | None:
    """Edge strength on a cube about the centre, its axes along the frame, faded out to its border."""
    array_dhw, grid = image
    part = box_of_voxels(grid, centre_mm, np.full(3, np.sqrt(3) * reach_mm + 4 * _SCALE_MM))
    region = array_dhw[part].astype(np.float32, copy=False)
    strength = gaussian_gradient_magnitude(region, _SCALE_MM / grid.spacing_mm_dhw, mode="nearest")
    n = 2 * int(reach_mm / STEP_MM) + 1
    line = (np.arange(n) - n // 2) * STEP_MM
    away = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1) @ frame.T
    index = (away + centre_mm - grid.origin_mm) @ np.linalg.inv(grid.matrix).T
    index -= np.array([s.start for s in part])
    within = ((index >= -0.5) & (index <= np.array(region.shape) - 0.5)).all(axis=-1)
    if float(within.mean()) < _COVERED or not float(strength.max()) > 0:
        return None
    sampled = map_coordinates(strength, np.moveaxis(index, -1, 0), order=1, mode="nearest").astype(np.float64)
    level = float(np.median(sampled[within]))
    if not level > 0:
        return None
    evened = sampled / np.sqrt(sampled**2 + (2 * level) ** 2)
    fade = np.hanning(n + 2)[1:-1]
    window = fade[:, None, None] * fade[None, :, None] * fade[None, None, :] * within
    mean = float((evened * window).sum() / window.sum())
    return np.asarray((evened - mean) * window, dtype=np.float64)


def _refined(surface: NDArray[np.float64], at: NDArray[np.int_]) -> Array:
    """The peak's place between the steps, from a parabola along each axis; within half a step."""
    offset = np.zeros(3)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        before, here, after = (float(surface[tuple(at + k * step)]) for k in (-1, 0, 1))
        bend = before - 2 * here + after
        offset[axis] = 0.0 if bend >= 0 else float(np.clip((before - after) / (2 * bend), -0.5, 0.5))
    return offset
