"""From the planes of single images to a volume in space, in double precision; or why there is none to trust.

Slices are ordered by where they lie along the normal of their plane (DICOM PS3.3, C.7.6.2.1.1), never by their
numbers, and stand as far apart as their positions say: SliceThickness is how thick a slice is, and
SpacingBetweenSlices is what somebody planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.dicom_values import Values, number, numbers, whole

UNEVEN, UNEVEN_MM = 0.01, 0.05
"""By how much distances between slices may differ: this share of the distance, or this many mm if that is more
(positions are often written with one or two decimals)."""
SAME_PLACE_MM = 0.05
"""Two slices nearer than this along the normal lie at one place."""
PARALLEL = 1e-3
"""Cosines that differ by less are one orientation."""
_SKEW = 1e-2
_OBLIQUE_STACK = 0.1  # share of a pixel by which a slice may stand beside the line of the others
_LARGEST_MM, _SMALLEST_MM = 100.0, 1e-3  # of a voxel's edge that can be believed
_FARTHEST_MM = 1e5


@dataclass(frozen=True)
class Defect:
    """Why there is no volume, and what to do about it."""

    text: str
    remedy: str


@dataclass(frozen=True)
class Plane:
    """Where one image lies.

    Attributes:
        rows, columns: its pixels.
        axes: (2, 3), unit vectors (x, y, z), LPS: along a row, along a column, at right angles.
        corner_mm: (x, y, z) of its first pixel.
        pixel_mm: between rows, between columns.
    """

    rows: int
    columns: int
    axes: NDArray[np.float64]
    corner_mm: NDArray[np.float64]
    pixel_mm: tuple[float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """The direction in which slices are counted: right-handed with the two axes."""
        return np.asarray(np.cross(self.axes[0], self.axes[1]), dtype=np.float64)

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be the same for planes to form a stack: matrix, pixels, orientation (rounded)."""
        rounded = tuple(np.round(self.axes.ravel() / PARALLEL / 2).astype(int).tolist())
        return (self.rows, self.columns, *(round(mm, 4) for mm in self.pixel_mm), rounded)


@dataclass(frozen=True)
class Stack:
    """Planes as a volume.

    Attributes:
        order: which plane stands at each place of the stored array, slices counted along the normal.
        grid: where the stored array (D, H, W) lies.
    """

    order: tuple[int, ...]
    grid: Grid


def plane_of(said: Values) -> Plane | Defect:
    """Where one image lies, as its header says."""
    rows, columns = whole(said, "Rows"), whole(said, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        return Defect("images have no pixels (Rows and Columns)", _EXPORT)
    corner = numbers(said, "ImagePositionPatient", 3)
    cosines = numbers(said, "ImageOrientationPatient", 6)
    pixel = numbers(said, "PixelSpacing", 2)
    absent = [
        name
        for name, value in (
            ("ImagePositionPatient", corner), ("ImageOrientationPatient", cosines), ("PixelSpacing", pixel),
        )
        if value is None
    ]  # fmt: skip
    if corner is None or cosines is None or pixel is None:
        return Defect(
            f"headers do not say where images lie ({', '.join(absent)} absent or no numbers)", _EXPORT
        )
    if not all(_SMALLEST_MM <= mm <= _LARGEST_MM for mm in pixel) or max(map(abs, corner)) > _FARTHEST_MM:
        return Defect(f"pixels of {pixel[0]:g} x {pixel[1]:g} mm at {corner} cannot be", _EXPORT)
    axes = np.array(cosines, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.any(np.abs(lengths - 1.0) > _SKEW) or abs(float(axes[0] @ axes[1])) > _SKEW:
        return Defect("ImageOrientationPatient is no pair of directions at right angles", _EXPORT)
    first = axes[0] / lengths[0]
    second = axes[1] - (axes[1] @ first) * first
    return Plane(
        rows,
        columns,
        np.stack([first, second / np.linalg.norm(second)]),
        np.array(corner),
        (pixel[0], pixel[1]),
    )


def places_mm(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """How far along the first plane's normal each plane lies."""
    return np.array([plane.corner_mm for plane in planes]) @ planes[0].normal


def repeated_places(planes: Sequence[Plane]) -> list[list[int]]:
    """Planes by place, in order along the normal; more than one index where a place is taken repeatedly."""
    along = places_mm(planes)
    order = np.argsort(along, kind="stable")
    places: list[list[int]] = []
    for index in order.tolist():
        if places and along[index] - along[places[-1][0]] < SAME_PLACE_MM:
            places[-1].append(index)
        else:
            places.append([index])
    return places


def stack_of(planes: Sequence[Plane], thickness_mm: float | None = None) -> Stack | Defect:
    """The volume that planes form.

    Args:
        planes: of one shape and orientation, each at a place of its own.
        thickness_mm: how far a single plane reaches along its normal; None: a single plane is no volume.
    """
    if len({plane.shape[:2] for plane in planes}) > 1:
        return Defect("slices have matrices of different sizes", _EXPORT)
    if len(planes) == 1 and thickness_mm is None:
        return Defect("it has a single slice, which is no volume", "Export the whole series")
    places = repeated_places(planes)
    if len(places) < len(planes):
        return Defect(f"{len(planes) - len(places)} slices lie where another lies already", _EXPORT)
    order = [place[0] for place in places]
    along = places_mm(planes)[order]
    step = thickness_mm or 1.0
    if len(order) > 1:
        step = float(along[-1] - along[0]) / (len(order) - 1)
        uneven = _uneven(along)
        if uneven:
            return uneven
    corners = np.array([planes[index].corner_mm for index in order])
    first = planes[order[0]]
    beside = corners - corners[0] - np.outer(along - along[0], first.normal)
    allowed = max(UNEVEN_MM, _OBLIQUE_STACK * min(first.pixel_mm))
    if float(np.abs(beside).max()) > allowed:
        return Defect(
            f"slices do not stand behind one another (up to {float(np.linalg.norm(beside, axis=1).max()):.2f} mm "
            "beside the line)",
            "Take the images as the scanner made them, not a sheared reformation",
        )
    if not _SMALLEST_MM <= step <= _LARGEST_MM:
        return Defect(f"slices {step:g} mm apart cannot be", _EXPORT)
    return Stack(tuple(order), _grid(first, step, len(order)))


def thickness_of(said: Values) -> float | None:
    """How far a single plane of an enhanced image reaches: what was planned, or else how thick it is."""
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = number(said, name)
        if found is not None and found > 0:
            return found
    return None


def _uneven(along: NDArray[np.float64]) -> Defect | None:
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    allowed = max(UNEVEN * usual, UNEVEN_MM)
    off = np.abs(gaps - usual)
    worst = int(off.argmax())
    if off[worst] <= allowed:
        return None
    multiples = np.rint(gaps / usual)
    fits = np.abs(gaps - multiples * usual) <= np.maximum(allowed, UNEVEN * multiples * usual)
    if np.all(fits) and multiples.max() > 1:
        lost = int(multiples.sum()) - len(gaps)
        return Defect(
            f"slices are missing: {lost} of {len(along) + lost} (a gap of {gaps[worst]:.2f} mm where others are "
            f"{usual:.2f} mm)",
            "Export the series again, all of it",
        )
    return Defect(
        f"slices are unequally spaced ({float(gaps.min()):.2f} to {float(gaps.max()):.2f} mm apart)",
        "Export the series again; if slices were measured so, it cannot be used",
    )


def _grid(first: Plane, step_mm: float, count: int) -> Grid:
    xyz = np.stack(
        [first.normal * step_mm, first.axes[1] * first.pixel_mm[0], first.axes[0] * first.pixel_mm[1]], axis=1
    )
    return Grid.turned((count, first.rows, first.columns), xyz[::-1], first.corner_mm[::-1].copy())


_EXPORT = "Export the series again from the scanner or the PACS"
