"""Where an image's voxels lie in the patient."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Box, Index, Spacing

Part = tuple[slice, slice, slice]
"""A part of a volume, as slices without a step along (D, H, W)."""


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
