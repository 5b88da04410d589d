"""The region of interest: where a crop's voxels lie in an image, and what is read of the image for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from phcc_client.imaging.case import Box, Index
from phcc_client.imaging.grid import Grid
from phcc_model.config import CropSettings

MARGIN_VOXELS = 2
"""Read around the crop, so that linear interpolation has both its neighbours wherever the image has them."""

PARALLEL = 1e-4
"""Axes whose cosines differ by less are parallel: at 100 mm from the crop's centre they are 0.01 mm apart."""


@dataclass(frozen=True)
class Placement:
    """A crop's grid laid into one image, along the image's own axes.

    Voxel i of the crop lies at ``centre + (i - (n - 1) / 2) * step`` along each axis, in voxel indices of the
    image.

    Attributes:
        shape_dhw: voxels of the image.
        centre_dhw: the crop's centre, a continuous voxel index of the image.
        step_dhw: the crop's spacing, in voxels of the image.
        size_dhw: voxels of the crop.
    """

    shape_dhw: Index
    centre_dhw: NDArray[np.float64]
    step_dhw: NDArray[np.float64]
    size_dhw: Index

    @classmethod
    def around(
        cls,
        centre_dhw: NDArray[np.float64],
        shape_dhw: Index,
        spacing_mm_dhw: NDArray[np.float64],
        crop: CropSettings,
    ) -> Placement:
        """The crop centred on a place in an image of known spacing."""
        return cls(shape_dhw, centre_dhw, np.array(crop.spacing_mm) / spacing_mm_dhw, crop.size)

    @classmethod
    def fitted(cls, shape_dhw: Index, crop: CropSettings) -> Placement:
        """The whole image stretched over the whole crop: for images without any spacing."""
        shape = np.array(shape_dhw, dtype=np.float64)
        return cls(shape_dhw, (shape - 1) / 2, shape / np.array(crop.size), crop.size)

    @property
    def first_dhw(self) -> NDArray[np.float64]:
        """The continuous index of the crop's voxel (0, 0, 0)."""
        return self.centre_dhw - (np.array(self.size_dhw) - 1) / 2 * self.step_dhw

    def at(self, axis: int) -> NDArray[np.float64]:
        """The continuous indices of the crop's voxels along one axis."""
        places: NDArray[np.float64] = (
            self.first_dhw[axis] + np.arange(self.size_dhw[axis]) * self.step_dhw[axis]
        )
        return places

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """The part of the image that is worth reading; never empty."""
        ends = np.array([self.at(axis)[[0, -1]] for axis in range(3)])
        return _region(self.shape_dhw, ends[:, 0], ends[:, 1])

    @property
    def inside_dhw(self) -> NDArray[np.bool_]:
        """True where a crop's voxel lies within the image, False where it is padding."""
        d, h, w = ((self.at(a) >= -0.5) & (self.at(a) <= n - 0.5) for a, n in enumerate(self.shape_dhw))
        return d[:, None, None] & h[None, :, None] & w[None, None, :]

    def sample(self, region_dhw: NDArray[np.float32], *, nearest: bool = False) -> NDArray[np.float32]:
        """The image on the crop's grid, linearly interpolated; outside the image its edge goes on.

        Args:
            region_dhw: the voxels of `region`.
            nearest: take the nearest voxel instead, for masks.

        Returns:
            float32 of the crop's size.
        """
        return _sampled(region_dhw, self.step_dhw, self.first_dhw, self.region, self.size_dhw, nearest)


@dataclass(frozen=True)
class TurnedPlacement:
    """A crop's grid laid into an image whose axes are not parallel to the crop's.

    Voxel i of the crop lies at ``centre + steps @ (i - (n - 1) / 2)``, in voxel indices of the image.

    Attributes:
        shape_dhw: voxels of the image.
        centre_dhw: the crop's centre, a continuous voxel index of the image.
        steps: (3, 3), a column for each of the crop's axes: its step, in voxels of the image.
        size_dhw: voxels of the crop.
    """

    shape_dhw: Index
    centre_dhw: NDArray[np.float64]
    steps: NDArray[np.float64]
    size_dhw: Index

    @property
    def first_dhw(self) -> NDArray[np.float64]:
        """The continuous index of the crop's voxel (0, 0, 0)."""
        first: NDArray[np.float64] = self.centre_dhw - self.steps @ ((np.array(self.size_dhw) - 1) / 2)
        return first

    @cached_property
    def region(self) -> tuple[slice, slice, slice]:
        """The part of the image that is worth reading: the box around all corners of the crop; never empty."""
        ways = (self.steps * (np.array(self.size_dhw) - 1)).T
        low = self.first_dhw + np.minimum(ways, 0.0).sum(axis=0)
        high = self.first_dhw + np.maximum(ways, 0.0).sum(axis=0)
        return _region(self.shape_dhw, low, high)

    @property
    def inside_dhw(self) -> NDArray[np.bool_]:
        """True where a crop's voxel lies within the image, False where it is padding."""
        d, h, w = (np.arange(n, dtype=np.float64) for n in self.size_dhw)
        inside = np.ones(self.size_dhw, dtype=np.bool_)
        for axis, size in enumerate(self.shape_dhw):
            along = self.steps[axis]
            places = (
                self.first_dhw[axis]
                + (d * along[0])[:, None, None]
                + (h * along[1])[None, :, None]
                + (w * along[2])[None, None, :]
            )
            inside &= (places >= -0.5) & (places <= size - 0.5)
        return inside

    def sample(self, region_dhw: NDArray[np.float32], *, nearest: bool = False) -> NDArray[np.float32]:
        """As `Placement.sample`."""
        return _sampled(region_dhw, self.steps, self.first_dhw, self.region, self.size_dhw, nearest)


def lay(
    centre_mm_zyx: NDArray[np.float64], grid: Grid, frame: NDArray[np.float64], crop: CropSettings
) -> Placement | TurnedPlacement:
    """The crop centred on a place of the patient, its axes along a frame, in an image of any orientation.

    Args:
        centre_mm_zyx: where the crop's centre lies, in mm of the patient.
        grid: the image's.
        frame: (3, 3), the unit vectors (z, y, x) of the crop's axes d, h, w as columns (`frame_of`).
        crop: the crop's size and spacing.
    """
    centre_dhw = grid.to_index(centre_mm_zyx)
    if float(np.abs(frame_of(grid) - frame).max()) <= PARALLEL:
        return Placement.around(centre_dhw, grid.shape_dhw, grid.spacing_mm_dhw, crop)
    steps = np.linalg.solve(grid.matrix, frame * np.array(crop.spacing_mm))
    return TurnedPlacement(grid.shape_dhw, centre_dhw, steps, crop.size)


def frame_of(grid: Grid) -> NDArray[np.float64]:
    """The directions (z, y, x) of an image's axes d, h, w, as unit columns."""
    return np.asarray(grid.matrix / grid.spacing_mm_dhw, dtype=np.float64)


def _region(
    shape_dhw: Index, lowest_dhw: NDArray[np.float64], highest_dhw: NDArray[np.float64]
) -> tuple[slice, slice, slice]:
    """From the lowest and the highest continuous index to what is read: a margin more, never empty."""
    slices = []
    for size, lowest, highest in zip(shape_dhw, lowest_dhw, highest_dhw, strict=True):
        low = min(max(int(np.floor(lowest)) - MARGIN_VOXELS, 0), size - 1)
        high = max(min(int(np.ceil(highest)) + MARGIN_VOXELS + 1, size), low + 1)
        slices.append(slice(low, high))
    return slices[0], slices[1], slices[2]


def _sampled(
    region_dhw: NDArray[np.float32],
    matrix: NDArray[np.float64],
    first_dhw: NDArray[np.float64],
    region: tuple[slice, slice, slice],
    size_dhw: Index,
    nearest: bool,
) -> NDArray[np.float32]:
    """One call of scipy for both placements: of a vector of steps it makes one pass along each axis."""
    sampled: NDArray[np.float32] = affine_transform(
        region_dhw,
        matrix,
        offset=first_dhw - np.array([part.start for part in region]),
        output_shape=size_dhw,
        output=np.float32,
        order=0 if nearest else 1,
        mode="nearest",
    )
    return sampled


def centred_box(sizes_mm_dhw: NDArray[np.float64], crop: CropSettings) -> NDArray[np.uint8]:
    """A box about the crop's centre: the crop's voxels whose centre lies within, at least one per axis.

    Args:
        sizes_mm_dhw: edges of the box in mm.
        crop: the grid.
    """
    lines = []
    for size, n, spacing in zip(sizes_mm_dhw, crop.size, crop.spacing_mm, strict=True):
        away = np.abs(np.arange(n) - (n - 1) / 2) * spacing
        # A voxel centred on the box's border, to rounding, counts as inside.
        lines.append((away <= size / 2 + 1e-6) | (away == away.min()))
    d, h, w = lines
    box: NDArray[np.bool_] = d[:, None, None] & h[None, :, None] & w[None, None, :]
    return box.astype(np.uint8)


def bounding_box(mask_dhw: NDArray[np.bool_]) -> Box | None:
    """The smallest box around a mask, or None where it is empty."""
    sides = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask_dhw.any(axis=others))
        if not len(hit):
            return None
        sides.append((int(hit[0]), int(hit[-1]) + 1))
    (d0, d1), (h0, h1), (w0, w1) = sides
    return Box((d0, h0, w0), (d1, h1, w1))
