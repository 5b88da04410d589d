"""The region of interest: where a crop's voxels lie in an image, and what is read of the image for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from phcc_client.imaging.case import Box, Index
from phcc_model.config import CropSettings

MARGIN_VOXELS = 2
"""Read around the crop, so that linear interpolation has both its neighbours wherever the image has them."""


@dataclass(frozen=True)
class Placement:
    """A crop's grid laid into one image.

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
        slices = []
        for axis, size in enumerate(self.shape_dhw):
            places = self.at(axis)
            low = min(max(int(np.floor(places[0])) - MARGIN_VOXELS, 0), size - 1)
            high = max(min(int(np.ceil(places[-1])) + MARGIN_VOXELS + 1, size), low + 1)
            slices.append(slice(low, high))
        return slices[0], slices[1], slices[2]

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
        start = np.array([part.start for part in self.region])
        sampled: NDArray[np.float32] = affine_transform(
            region_dhw,
            self.step_dhw,
            offset=self.first_dhw - start,
            output_shape=self.size_dhw,
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
