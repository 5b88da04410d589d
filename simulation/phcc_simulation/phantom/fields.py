"""Smooth random fields that are defined everywhere, so that one anatomy can be sampled on any grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Axes = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Coordinates in mm along z, y and x; a grid is their outer product."""

_KERNEL_SD = 0.6  # of the Gaussian kernel, in lattice steps: smooth, without a trace of the lattice
_MARGIN = 2  # lattice nodes beyond the extent, so that the kernel is whole at the edge


@dataclass(frozen=True)
class RandomField:
    """A Gaussian random field with unit variance at every point.

    Independent normal values on a lattice, interpolated by a separable Gaussian kernel whose weights have
    unit sum of squares.

    Attributes:
        nodes_zyx: values on the lattice.
        step_mm: lattice step along z, y, x, about the correlation length.
    """

    nodes_zyx: NDArray[np.float64]
    step_mm: tuple[float, float, float]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        half_extent_mm: tuple[float, float, float],
        step_mm: tuple[float, float, float],
    ) -> RandomField:
        """Draw a field good for coordinates within +- ``half_extent_mm`` along each axis."""
        counts = [
            2 * (int(np.ceil(half / step)) + _MARGIN) + 1
            for half, step in zip(half_extent_mm, step_mm, strict=True)
        ]
        return cls(rng.standard_normal(counts), step_mm)

    def at(self, axes: Axes) -> NDArray[np.float32]:
        """The field on the grid of these axes; axes d, h, w."""
        z_da, y_hb, x_wc = (
            _weights(axis, count, step)
            for axis, count, step in zip(axes, self.nodes_zyx.shape, self.step_mm, strict=True)
        )
        nodes_abc = self.nodes_zyx.astype(np.float32)
        slabs_dbc = (z_da @ nodes_abc.reshape(len(nodes_abc), -1)).reshape(-1, *nodes_abc.shape[1:])
        return (y_hb @ slabs_dbc) @ x_wc.T


def _weights(axis_mm: NDArray[np.float64], count: int, step_mm: float) -> NDArray[np.float32]:
    nodes = np.arange(count) - (count - 1) / 2
    kernel = np.exp(-0.5 * ((axis_mm[:, None] / step_mm - nodes) / _KERNEL_SD) ** 2)
    return np.asarray(kernel / np.linalg.norm(kernel, axis=1, keepdims=True), dtype=np.float32)
