"""A region about the lesion bent onto the reference phase: cubic B-splines, by the edges that rigid goes by.

Free-form deformation after Rueckert et al., "Nonrigid registration using free-form deformations", IEEE
Transactions on Medical Imaging 18, 1999: shifts stand on a lattice of knots, cubic B-splines pass between, and a
penalty on how much neighbouring knots differ keeps the tissue together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.sparse import csr_array

from phcc_client.imaging.geometry import frame_of
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.registration_edges import Array, EdgeMatch, box_of_voxels, match

REGION_MM = 80.0
"""How much around the lesion is bent and written, on each side."""
_MATCHED_MM = 35.0
"""How much around the lesion is compared."""
_KNOT_MM = 24.0
_STIFFNESS = 0.001
"""Cost of two neighbouring knots that differ by a millimetre, where the edges' score counts a thousandfold."""
_LEVELS = ((2.0, 3.5), (1.0, 2.5))
"""(scale of the edges, distance between places) in mm, coarse to fine."""
_FAR_MM = 12.0
_LEAST_JACOBIAN = 0.3
"""Tissue that is squeezed to less than this share of its volume is none."""


@dataclass(frozen=True)
class Bent:
    """A bent region.

    Attributes:
        array_dhw: its voxels, on a part of the reference phase's grid; zero where the phase ends.
        grid: that part.
        shift_mm: (z, y, x), from the lesion's centre to where the phase shows it.
    """

    array_dhw: NDArray[np.float32]
    grid: Grid
    shift_mm: Array


@dataclass(frozen=True)
class Lattice:
    """Knots about a centre, a shift at each.

    Attributes:
        centre_mm: (z, y, x).
        frame: (3, 3), the lattice's axes as unit columns.
        half: knots on each side of the middle one, per axis.
    """

    centre_mm: Array
    frame: Array
    half: NDArray[np.int_]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Knots along each axis."""
        d, h, w = (2 * int(n) + 1 for n in self.half)
        return d, h, w

    def weights(self, away_mm: Array) -> csr_array:
        """(n, knots): what every knot counts at places given from the centre, (n, 3) in mm of the patient."""
        at = away_mm @ self.frame / _KNOT_MM + self.half
        base = np.floor(at).astype(np.intp)
        parts = [_cubic(at[:, axis] - base[:, axis]) for axis in range(3)]
        shape = np.array(self.shape)
        columns, values = [], []
        for i, j, k in np.ndindex(4, 4, 4):
            knot = base + np.array([i, j, k]) - 1
            there = ((knot >= 0) & (knot < shape)).all(axis=1)
            d, h, w = np.clip(knot, 0, shape - 1).T
            columns.append((d * shape[1] + h) * shape[2] + w)
            values.append(parts[0][:, i] * parts[1][:, j] * parts[2][:, k] * there)
        rows = np.tile(np.arange(len(away_mm)), 64)
        pairs = (np.concatenate(values), (rows, np.concatenate(columns)))
        return csr_array(pairs, shape=(len(away_mm), int(shape.prod())))

    def on(self, grid: Grid, shifts_mm: Array) -> Array:
        """The shifts (z, y, x; mm) at every voxel of a grid that lies along the lattice's axes: (3, d, h, w)."""
        field = shifts_mm.reshape(*self.shape, 3)
        first = self.frame.T @ (grid.origin_mm - self.centre_mm)
        for axis, n in enumerate(grid.shape_dhw):
            along = np.zeros((n, 3))
            along[:, axis] = first[axis] + np.arange(n) * grid.spacing_mm_dhw[axis]
            at = along[:, axis] / _KNOT_MM + self.half[axis]
            base = np.floor(at).astype(np.intp)
            weight = np.zeros((n, self.shape[axis] + 6))
            part = _cubic(at - base)
            for i in range(4):
                # Three more columns on either side take what lies beyond the outermost knots.
                weight[np.arange(n), np.clip(base + i + 2, 0, weight.shape[1] - 1)] += part[:, i]
            field = np.moveaxis(np.tensordot(weight[:, 3:-3], field, axes=(1, axis)), 0, axis)
        return np.moveaxis(field, -1, 0)


def bend(
    fixed: tuple[NDArray[np.float32], Grid],
    moving: tuple[NDArray[np.float32], Grid],
    centre_mm: Array,
    half_mm: Array,
) -> Bent | str:
    """Bend a phase onto the reference phase around the lesion.

    Args:
        fixed: array (D, H, W) and grid of the reference.
        moving: of the phase, rigidly registered.
        centre_mm: of the lesion, (z, y, x).
        half_mm: (3,), from there to the faces of the lesion's box.

    Returns:
        The bent region; or in words why it is not bent.
    """
    frame = frame_of(fixed[1])
    reach = np.abs(frame.T) @ (half_mm + REGION_MM)
    lattice = Lattice(centre_mm, frame, np.ceil(reach / _KNOT_MM).astype(int))
    shifts = np.zeros((int(np.prod(lattice.shape)), 3))
    scores = (0.0, 0.0)
    for scale, step in _LEVELS:
        level = match(
            fixed, moving, centre_mm, half_mm + _MATCHED_MM, scale_mm=scale, step_mm=step, far_mm=_FAR_MM
        )
        if level is None:
            return "there is too little of both phases around the lesion to compare"
        shifts, scores = _settle(level, lattice, shifts)
    if scores[1] <= scores[0]:
        return "the edges of the two phases do not meet better than after the rigid motion"
    grid = part_of(fixed[1], box_of_voxels(fixed[1], centre_mm, half_mm + REGION_MM))
    field = lattice.on(grid, shifts)
    left = _least_volume(field, grid)
    if left < _LEAST_JACOBIAN:
        return f"the deformation would squeeze tissue to {max(left, 0.0):.0%} of its volume"
    shift = np.asarray(lattice.weights(np.zeros((1, 3))) @ shifts)[0]
    return Bent(_resampled(moving, grid, field), grid, shift)


def part_of(grid: Grid, region: tuple[slice, slice, slice]) -> Grid:
    """The grid of a part of an image, axes as they are."""
    d, h, w = (s.stop - s.start for s in region)
    start = np.array([s.start for s in region], dtype=np.float64)
    return Grid((d, h, w), grid.matrix, grid.to_mm(start))


def _settle(level: EdgeMatch, lattice: Lattice, start: Array) -> tuple[Array, tuple[float, float]]:
    """The shifts that make edges meet best at one scale, and the score without and with them (L-BFGS)."""
    weights = lattice.weights(level.away_mm)
    back = csr_array(weights.T)

    def cost(flat: Array) -> tuple[float, Array]:
        shifts = flat.reshape(-1, 3)
        score, pull = level.score_and_pull(weights @ shifts)
        strain, slope = _strain(shifts.reshape(*lattice.shape, 3))
        gradient = -1000 * (back @ pull) + _STIFFNESS * slope.reshape(-1, 3)
        return -1000 * score + _STIFFNESS * strain, gradient.ravel()

    result = minimize(cost, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-7})
    shifts = np.asarray(result.x, dtype=np.float64).reshape(-1, 3)
    before, _ = level.score_and_pull(np.zeros_like(level.away_mm))
    after, _ = level.score_and_pull(weights @ shifts)
    return shifts, (before, after)


def _strain(knots: Array) -> tuple[float, Array]:
    """Sum of squared differences between neighbouring knots (mm^2), and its derivative."""
    total, slope = 0.0, np.zeros_like(knots)
    for axis in range(3):
        step = np.diff(knots, axis=axis)
        total += float((step**2).sum())
        low = [slice(None)] * 4
        high = [slice(None)] * 4
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        slope[tuple(low)] -= 2 * step
        slope[tuple(high)] += 2 * step
    return total, slope


def _cubic(t: Array) -> Array:
    """The four cubic B-splines over a span, (n, 4), at 0 <= t <= 1."""
    return np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    ) / np.float64(6)


def _least_volume(field_mm: Array, grid: Grid) -> float:
    """The smallest share of its volume that any voxel keeps (the Jacobian's determinant)."""
    spacing = [float(s) for s in grid.spacing_mm_dhw]
    if min(grid.shape_dhw) < 2:
        return 1.0
    # Derivatives along the grid's axes; a turn of both sides leaves the determinant as it is.
    along = frame_of(grid).T
    shifts = np.tensordot(along, field_mm, axes=(1, 0))
    jacobian = np.stack([np.stack(np.gradient(part, *spacing), axis=-1) for part in shifts], axis=-2)
    return float(np.linalg.det(jacobian + np.eye(3)).min())


def _resampled(moving: tuple[NDArray[np.float32], Grid], grid: Grid, field_mm: Array) -> NDArray[np.float32]:
    """The moving phase, looked up at every voxel's place plus its shift; zero where it ends."""
    index = np.moveaxis(np.indices(grid.shape_dhw), 0, -1) @ grid.matrix.T + grid.origin_mm
    index += np.moveaxis(field_mm, 0, -1)
    index = (index - moving[1].origin_mm) @ np.linalg.inv(moving[1].matrix).T
    shape = np.array(moving[1].shape_dhw)
    inside = ((index >= -0.5) & (index <= shape - 0.5)).all(axis=-1)
    values = map_coordinates(moving[0], np.moveaxis(index, -1, 0), output=np.float32, order=1, mode="nearest")
    return np.asarray(values * inside, dtype=np.float32)
