"""The rigid motion between two phases, around the lesion: from coarse edges to fine ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.registration_edges import Array, EdgeMatch, match

_ARM_MM = 25.0
"""A rotation's unit in the search: what moves places so far from the centre by a millimetre."""
_LEVELS = ((4.0, 8.0), (1.5, 2.0))
"""(scale of the edges, distance between places) in mm, coarse to fine."""
_BREATHS_MM = tuple((z, y, x) for z in range(-24, 25, 6) for y in (-8, 0, 8) for x in (-6, 0, 6))
"""Where the search may begin: breathing moves the liver along the body's axis most (z), then to the front."""
_STARTS = 3
_FAR_MM, _NEAR_MM = 45.0, 8.0
"""How far the motion may lead at the coarsest level, and how much farther at the finer ones."""


@dataclass(frozen=True)
class Motion:
    """Where the moving image shows what the fixed image shows at p: ``R (p - c) + c + shift``; mm, (z, y, x)."""

    rotation: Array
    shift_mm: Array
    centre_mm: Array

    @classmethod
    def none(cls, centre_mm: Array) -> Motion:
        """No motion at all."""
        return cls(np.eye(3), np.zeros(3), centre_mm)

    def undone(self, grid: Grid) -> Grid:
        """The moving image's grid with the motion taken back: its voxels stay, their places change."""
        back = self.rotation.T
        origin = back @ (grid.origin_mm - self.centre_mm - self.shift_mm) + self.centre_mm
        return replace(grid, matrix=back @ grid.matrix, origin_mm=origin)

    @property
    def degrees(self) -> float:
        """The angle of the rotation."""
        return float(np.rad2deg(Rotation.from_matrix(self.rotation).magnitude()))

    @property
    def millimetres(self) -> float:
        """How far the centre moves."""
        return float(np.linalg.norm(self.shift_mm))

    def furthest_mm(self, half_mm: Array) -> float:
        """How far the corners of a box about the centre move, at most."""
        corners = np.array(np.meshgrid(*[(-h, h) for h in half_mm])).reshape(3, -1)
        moved = (self.rotation - np.eye(3)) @ corners + self.shift_mm[:, None]
        return float(np.linalg.norm(moved, axis=0).max())


@dataclass(frozen=True)
class Found:
    """What the search found: the motion, and how well edges meet before, after, and over which share."""

    motion: Motion
    before: float
    after: float
    overlap: float


def find_motion(
    fixed: tuple[NDArray[np.float32], Grid],
    moving: tuple[NDArray[np.float32], Grid],
    centre_mm: Array,
    half_mm: Array,
) -> Found | None:
    """The rigid motion that makes the edges of two images meet best in a region.

    Args:
        fixed: image and grid of the reference.
        moving: of the other phase.
        centre_mm: the region's centre, (z, y, x).
        half_mm: (3,), from there to the region's faces.

    Returns:
        None where there is nothing to compare (no edges, no overlap).
    """
    centre = np.asarray(centre_mm, dtype=np.float64)
    motions = [Motion.none(centre)]
    level: EdgeMatch | None = None
    for number, (scale, step) in enumerate(_LEVELS):
        far = _FAR_MM if number == 0 else motions[0].furthest_mm(half_mm) + _NEAR_MM
        level = match(fixed, moving, centre, half_mm, scale_mm=scale, step_mm=step, far_mm=far)
        if level is None:
            return None
        if number == 0:
            motions = _starts(level)
        motions = [_climb(level, motion) for motion in motions]
        if number == 0:
            motions = [max(motions, key=lambda m, at=level: at.score(m.rotation, m.shift_mm))]  # type: ignore[misc]
    assert level is not None
    found = motions[0]
    return Found(
        found,
        level.score(np.eye(3), np.zeros(3)),
        level.score(found.rotation, found.shift_mm),
        level.overlap(found.rotation, found.shift_mm),
    )


def _starts(level: EdgeMatch) -> list[Motion]:
    """No motion, and the shifts of a breath that look best."""
    still = np.eye(3)
    scores = [(level.score(still, np.array(shift, dtype=float)), shift) for shift in _BREATHS_MM]
    best = sorted(scores, key=lambda pair: (-pair[0], pair[1]))[:_STARTS]
    shifts = [np.zeros(3), *(np.array(shift, dtype=float) for _, shift in best)]
    return [Motion(still, shift, level.centre_mm) for shift in shifts]


def _climb(level: EdgeMatch, start: Motion) -> Motion:
    """The nearest best motion at one scale (L-BFGS)."""

    def cost(p: Array) -> tuple[float, Array]:
        turn = Rotation.from_rotvec(p[:3] / _ARM_MM).as_matrix()
        score, slope = level.score_and_slope(turn, p[3:])
        by_turn = _left_jacobian(p[:3] / _ARM_MM).T @ slope[:3] / _ARM_MM
        return -score * 1000, np.concatenate([by_turn, slope[3:]]) * -1000

    first = np.concatenate([Rotation.from_matrix(start.rotation).as_rotvec() * _ARM_MM, start.shift_mm])
    result = minimize(cost, first, jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 1e-8})
    found = np.asarray(result.x, dtype=np.float64)
    turn = Rotation.from_rotvec(found[:3] / _ARM_MM).as_matrix()
    return Motion(np.asarray(turn, dtype=np.float64), found[3:], start.centre_mm)


def _left_jacobian(vector: Array) -> Array:
    """How a rotation vector's change turns further: exp(v + d) = exp(J d) exp(v) (Barfoot 2017, eq. 7.77)."""
    angle = float(np.linalg.norm(vector))
    x, y, z = vector
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-6:
        return np.eye(3) + cross / 2
    return np.asarray(
        np.eye(3)
        + (1 - np.cos(angle)) / angle**2 * cross
        + (angle - np.sin(angle)) / angle**3 * (cross @ cross)
    )
