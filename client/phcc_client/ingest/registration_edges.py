"""How well the edges of two images meet: normalised gradient fields, with their derivative.

Contrast agent changes what is bright from phase to phase; where edges run, it changes little. The criterion is
the mean over the region of ``(n_fixed . n_moving)^2``, n being the gradient divided by its length (with a
term for noise), so that neither its strength nor its sign matters (Haber and Modersitzki, "Intensity gradient
based registration and fusion of multi-modal images", Methods of Information in Medicine 46, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from phcc_client.imaging.grid import Grid

Array = NDArray[np.float64]
Field = NDArray[np.float32]

EDGE_FLOOR = 1.5
"""Gradients shorter than so many medians count as noise and weigh little."""
_ENOUGH_VOXELS, _ENOUGH_PLACES, _FEWEST_PLACES = 3, 1500, 200
MOST_PLACES = 20_000
"""Twice as many make the search half as fast, and hardly more exact."""


@dataclass(frozen=True)
class EdgeField:
    """Normalised gradients of one image, or of a part of it.

    Attributes:
        field_dhwc: the gradient's components (z, y, x of the patient), in its image's voxels; a layer of zeros
            around them.
        matrix: from an index of the field to millimetres (z, y, x).
        origin_mm: of the field's voxel (0, 0, 0).
    """

    field_dhwc: Field
    matrix: Array
    origin_mm: Array

    @classmethod
    def of(
        cls, array_dhw: NDArray[np.float32], grid: Grid, centre_mm: Array, half_mm: Array, scale_mm: float
    ) -> EdgeField | None:
        """The edges of an image within a box of the patient's space.

        Args:
            array_dhw: the image.
            grid: where its voxels lie.
            centre_mm: of the box, (z, y, x).
            half_mm: from its middle to its faces.
            scale_mm: standard deviation of the Gaussian that is applied first.

        Returns:
            None where the image is too thin there to have gradients, or has none.
        """
        part = box_of_voxels(grid, centre_mm, half_mm + 3 * scale_mm)
        region, block = _averaged(array_dhw[part], grid.spacing_mm_dhw, scale_mm)
        if min(region.shape) < _ENOUGH_VOXELS:
            return None
        matrix = grid.matrix * block
        spacing = grid.spacing_mm_dhw * block
        # Averaging over a block has smoothed by its own width already.
        width = np.sqrt(scale_mm**2 - (spacing**2 - grid.spacing_mm_dhw**2) / 12)
        smooth = gaussian_filter(region, width / spacing, mode="nearest", truncate=3.0)
        along = np.stack(np.gradient(smooth, *(float(s) for s in spacing)), axis=-1)
        gradient = along @ (matrix / spacing).T.astype(np.float32)
        squared = (gradient**2).sum(axis=-1)
        # Where most of the region is empty, its median would call every edge strong.
        level = float(np.median(squared[squared > 0])) if (squared > 0).any() else 0.0
        if not level > 0:
            return None
        field = gradient / np.sqrt(squared + np.float32(EDGE_FLOOR**2 * level))[..., None]
        # Beyond the image there is nothing to match: were its border to go on, leaving it could pay.
        padded = np.pad(field.astype(np.float32, copy=False), ((1, 1), (1, 1), (1, 1), (0, 0)))
        start = np.array([s.start for s in part]) + (block - 1) / 2 - block
        return cls(padded, matrix, grid.to_mm(start))

    def at(self, places_mm: Array) -> Array:
        """The field between voxels, trilinearly; zero beyond its border.

        Args:
            places_mm: (n, 3), (z, y, x).

        Returns:
            (n, 3).
        """
        return self._sampled(places_mm, slopes=False)[0]

    def within(self, places_mm: Array) -> NDArray[np.bool_]:
        """Which of the places (n, 3) lie within the field, (n,)."""
        index = self._index(places_mm)
        inside = (index >= 0.5) & (index <= np.array(self.field_dhwc.shape[:3]) - 1.5)
        return np.asarray(inside.all(axis=1), dtype=np.bool_)

    def with_slopes(self, places_mm: Array) -> tuple[Array, Array]:
        """As `at`, and the derivatives (n, 3, 3): component by patient axis, per mm."""
        values, by_index = self._sampled(places_mm, slopes=True)
        return values, by_index @ np.linalg.inv(self.matrix)

    def _index(self, places_mm: Array) -> Array:
        index: Array = (places_mm - self.origin_mm) @ np.linalg.inv(self.matrix).T
        return index

    def _sampled(self, places_mm: Array, *, slopes: bool) -> tuple[Array, Array]:
        index = self._index(places_mm)
        last = np.array(self.field_dhwc.shape[:3]) - 1
        base = np.clip(np.floor(index), 0, last - 1).astype(np.intp)
        part = np.clip(index - base, 0.0, 1.0)
        # Beyond the border nothing changes any more.
        slope = ((index > 0) & (index < last)).astype(np.float64)
        flat = self.field_dhwc.reshape(-1, 3)
        _, h, w = self.field_dhwc.shape[:3]
        first = (base[:, 0] * h + base[:, 1]) * w + base[:, 2]
        values = np.zeros((len(index), 3))
        by_index = np.zeros((len(index), 3, 3 if slopes else 0))
        for corner in range(8):
            bits = np.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
            weights = np.where(bits, part, 1.0 - part)
            signs = np.where(bits, slope, -slope)
            at_corner = flat[first + (bits[0] * h + bits[1]) * w + bits[2]].astype(np.float64)
            d, e, f = weights.T
            values += at_corner * (d * e * f)[:, None]
            for axis, others in enumerate((e * f, d * f, d * e) if slopes else ()):
                by_index[:, :, axis] += at_corner * (others * signs[:, axis])[:, None]
        return values, by_index


def _averaged(
    region_dhw: NDArray[np.float32], spacing_mm: Array, scale_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """The means of blocks that are small against the scale, and the blocks' voxels along each axis."""
    block = np.maximum((0.8 * scale_mm / spacing_mm).astype(int), 1)
    block = np.where(np.array(region_dhw.shape) >= _ENOUGH_VOXELS * block, block, 1)
    d, h, w = (n // k for n, k in zip(region_dhw.shape, block, strict=True))
    a, b, c = block
    whole = region_dhw[: d * a, : h * b, : w * c].astype(np.float32, copy=False)
    return whole.reshape(d, a, h, b, w, c).mean(axis=(1, 3, 5), dtype=np.float32), block


def box_of_voxels(grid: Grid, centre_mm: Array, half_mm: Array) -> tuple[slice, slice, slice]:
    """The voxels of an image around a box of the patient's space (axes z, y, x); may be thin, never invalid."""
    centre = grid.to_index(centre_mm)
    reach = np.abs(np.linalg.inv(grid.matrix)) @ half_mm
    shape = np.array(grid.shape_dhw)
    low = np.clip(np.floor(centre - reach), 0, shape - 1).astype(int)
    high = np.maximum(np.clip(np.ceil(centre + reach) + 1, 0, shape).astype(int), low + 1)
    d, h, w = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return d, h, w


@dataclass(frozen=True)
class EdgeMatch:
    """What is compared at one scale: places in the fixed image with its edges there, and the moving's edges.

    Attributes:
        centre_mm: the rotation's centre.
        away_mm: (n, 3), the places, from the centre.
        fixed: (n, 3), the fixed image's edges there.
        moving: the moving image's edges.
    """

    centre_mm: Array
    away_mm: Array
    fixed: Array
    moving: EdgeField

    def score(self, rotation: Array, shift_mm: Array) -> float:
        """How well the edges meet, 0 to 1, when place p is looked up at ``R (p - c) + c + shift``."""
        values = self.moving.at(self.away_mm @ rotation.T + self.centre_mm + shift_mm)
        return float((((self.fixed @ rotation.T) * values).sum(axis=1) ** 2).mean())

    def overlap(self, rotation: Array, shift_mm: Array) -> float:
        """The share of the places that the moving image covers."""
        return float(self.moving.within(self.away_mm @ rotation.T + self.centre_mm + shift_mm).mean())

    def score_and_slope(self, rotation: Array, shift_mm: Array) -> tuple[float, Array]:
        """The score and its derivative: by a small further rotation (3), then by the shift (3)."""
        turned = self.away_mm @ rotation.T
        values, slopes = self.moving.with_slopes(turned + self.centre_mm + shift_mm)
        fixed = self.fixed @ rotation.T
        meet = (fixed * values).sum(axis=1)
        by_shift = np.einsum("nc,ncx->nx", fixed, slopes)
        # A turn moves the place it looks at, and turns the fixed edge that it compares with.
        by_turn = np.cross(turned, by_shift) - np.cross(values, fixed)
        weight = 2 * meet[:, None] / len(meet)
        slope = np.concatenate([(weight * by_turn).sum(axis=0), (weight * by_shift).sum(axis=0)])
        return float((meet**2).mean()), slope

    def score_and_pull(self, shifts_mm: Array) -> tuple[float, Array]:
        """The score when every place has a shift of its own (n, 3), and its derivative by these shifts."""
        values, slopes = self.moving.with_slopes(self.away_mm + self.centre_mm + shifts_mm)
        meet = (self.fixed * values).sum(axis=1)
        pull = np.einsum("nc,ncx->nx", self.fixed, slopes) * (2 * meet[:, None] / len(meet))
        return float((meet**2).mean()), pull


def match(
    fixed: tuple[NDArray[np.float32], Grid],
    moving: tuple[NDArray[np.float32], Grid],
    centre_mm: Array,
    half_mm: Array,
    *,
    scale_mm: float,
    step_mm: float,
    far_mm: float,
) -> EdgeMatch | None:
    """Lay out what is compared.

    The places are scattered about a lattice: on a lattice that is parallel to the voxels, the criterion has
    false maxima wherever the two lattices meet (interpolation smooths noise least on a voxel's centre).

    Args:
        fixed: an image and its grid.
        moving: the other one.
        centre_mm: of the region, and of rotations.
        half_mm: (3,), from the region's middle to its faces, along the patient's axes.
        scale_mm: of the edges.
        step_mm: of the lattice; more where that would make too many places, less where too few.
        far_mm: how far beyond the region the moving image may be looked up.

    Returns:
        None where one of the images has no edges there.
    """
    edges = EdgeField.of(*fixed, centre_mm, half_mm, scale_mm)
    others = EdgeField.of(*moving, centre_mm, half_mm + far_mm, scale_mm)
    if edges is None or others is None:
        return None
    seen_mm3 = abs(float(np.linalg.det(edges.matrix))) * float(np.prod(edges.field_dhwc.shape[:3]))
    volume_mm3 = min(seen_mm3, float(np.prod(2 * half_mm)))
    finest, coarsest = ((volume_mm3 / places) ** (1 / 3) for places in (MOST_PLACES, _ENOUGH_PLACES))
    step_mm = min(max(step_mm, finest), coarsest)
    lines = [np.arange(-int(half / step_mm), int(half / step_mm) + 1) * step_mm for half in half_mm]
    lattice = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    away = lattice + np.random.default_rng(0).uniform(-0.5, 0.5, lattice.shape) * step_mm
    away = away[edges.within(away + centre_mm)]
    if len(away) < _FEWEST_PLACES:
        return None
    return EdgeMatch(centre_mm, away, edges.at(away + centre_mm), others)
