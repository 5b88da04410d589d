"""The contact sheet: one row per patient, the phases side by side, the lesion outlined.

All phases of a patient are cut along one plane, the slice of the lesion's largest cross-section, over one
field of view in millimetres, and shown in one grey window, so that enhancement is seen as it is. Seen from
the feet, as radiologists look: the patient's right is on the left. The same images give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import binary_dilation, map_coordinates

from phcc_client.imaging.geometry import bounding_box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.contact_canvas import (
    ABOVE,
    BELOW,
    BLANK,
    COLOURS,
    GREYS,
    INK,
    OUTLINE,
    PALE,
    QUIET,
    Canvas,
    png,
)
from phcc_model.config import Phase
from phcc_model.storage import write_atomically

TILE, LEGEND, GAP = 172, 168, 4
"""Pixels: a phase's edge, the words to the left of a row, and between things."""
CAPTION = 17
ROWS_A_PAGE = 20
LEAST_FIELD_MM, LARGEST_FIELD_MM = 120.0, 320.0
"""What a tile shows: four times the lesion, within these limits; a wider view shows a lesion too small."""

_ORDER: tuple[Phase, ...] = get_args(Phase)
_USUAL: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")
_DIM = 0.25  # of the common window; a phase whose brightest stays below is shown in a window of its own
_SCALE_MM = 20.0
_PAGE = "contact-sheet-"

View = tuple[NDArray[np.generic], Grid]


def thumbnail_row(
    views: Mapping[Phase, View],
    mask_dhw: NDArray[np.generic] | None,
    grid: Grid,
    *,
    pseudonym: str,
    label: int,
    notes: Sequence[str] = (),
) -> bytes:
    """One patient's row as a PNG.

    Args:
        views: the phases, each on its own grid; one that usually exists and is not here is left empty.
        mask_dhw: not zero inside the lesion; None or empty: the middle of `grid`, nothing outlined.
        grid: where the mask's voxels lie.
        pseudonym: the patient.
        label: 1, 0 or -1.
        notes: short lines below the label; at most four are shown.
    """
    phases = [phase for phase in _ORDER if phase in views or (phase in _USUAL and "image" not in views)]
    plane = _Plane.through(mask_dhw, grid)
    tiles = {phase: plane.cut(*views[phase]) for phase in phases if phase in views}
    windows = _windows(tiles)
    outline = plane.outline(mask_dhw, grid)
    canvas = Canvas(LEGEND + len(phases) * (TILE + GAP), CAPTION + TILE + GAP)
    _legend(canvas, pseudonym, label, [*plane.told(mask_dhw, grid), *notes])
    for column, phase in enumerate(phases):
        left = LEGEND + column * (TILE + GAP)
        if phase not in tiles:
            canvas.fill(left, CAPTION, TILE, TILE, BLANK)
            canvas.text(left, 2, phase, QUIET)
            canvas.text(left + TILE // 2, CAPTION + TILE // 2 - 8, "not there", QUIET, centred=True)
            continue
        own = windows[phase] != windows[""]
        canvas.text(left, 2, phase, INK)
        canvas.text(left + TILE - 5, 3, _spacing(views[phase][1]), QUIET, small=True, to_right=True)
        canvas.paste(left, CAPTION, _painted(tiles[phase], windows[phase], outline))
        if own:
            canvas.text(left + 4, CAPTION + TILE - 16, "own grey window", PALE, small=True)
    first = next((column for column, phase in enumerate(phases) if phase in tiles), 0)
    _scale(canvas, LEGEND + first * (TILE + GAP), CAPTION + TILE - 8, plane.step_mm)
    return png(canvas.pixels)


def sheets(site: Path, rows: Sequence[str]) -> tuple[str, ...]:
    """Compose pages of rows, ``contact-sheet-01.png`` and so on, and take away pages of an earlier time.

    Args:
        site: the site's folder.
        rows: PNG files of rows relative to it, in order; one that is missing or damaged is named in its
            place.

    Returns:
        The names of the pages.

    Raises:
        StorageError: a page cannot be written.
    """
    pages = [rows[start : start + ROWS_A_PAGE] for start in range(0, len(rows), ROWS_A_PAGE)]
    names = [f"{_PAGE}{number:02d}.png" for number in range(1, len(pages) + 1)]
    for number, (name, page) in enumerate(zip(names, pages, strict=True)):
        first = number * ROWS_A_PAGE + 1
        title = (
            f"page {number + 1} of {len(pages)}: patients {first} to {first + len(page) - 1} of {len(rows)}"
        )
        write_atomically(site / name, _page([_row(site, row) for row in page], title))
    for old in sorted(site.glob(f"{_PAGE}*.png")):
        if old.name not in names:
            old.unlink(missing_ok=True)
    return tuple(names)


class _Plane:
    """The plane that all tiles of a patient show: a slice of the lesion's grid, in the patient's space.

    Args:
        centre_mm: what lies in the middle, (z, y, x).
        down_mm, right_mm: unit vectors along the tile's edges, as the grid's axes H and W run.
        field_mm: edge of the tile.
    """

    def __init__(
        self,
        centre_mm: NDArray[np.float64],
        down_mm: NDArray[np.float64],
        right_mm: NDArray[np.float64],
        field_mm: float,
    ) -> None:
        self.step_mm = field_mm / TILE
        places = (np.arange(TILE) - (TILE - 1) / 2) * self.step_mm
        down, right = np.meshgrid(places, places, indexing="ij")
        self._mm = (
            centre_mm[:, None] + down_mm[:, None] * down.reshape(-1) + right_mm[:, None] * right.reshape(-1)
        )

    @classmethod
    def through(cls, mask_dhw: NDArray[np.generic] | None, grid: Grid) -> _Plane:
        """The slice with most of the lesion; the middle one where there is none."""
        middle = (np.array(grid.shape_dhw) - 1) / 2
        size_mm = 0.0
        box = None if mask_dhw is None else bounding_box(mask_dhw != 0)
        if mask_dhw is not None and box is not None:
            middle = np.array([float(_largest_slice(mask_dhw)), *box.centre_dhw[1:]])
            size_mm = float((box.size_dhw * grid.spacing_mm_dhw)[1:].max())
        columns = grid.matrix / grid.spacing_mm_dhw
        right = columns[:, 2]
        # In the plane and at right angles, also where a grid's own axes are not quite.
        down = columns[:, 1] - right * float(columns[:, 1] @ right)
        down /= np.linalg.norm(down)
        whole = float((np.array(grid.shape_dhw) * grid.spacing_mm_dhw)[1:].max())
        wanted = min(max(4 * size_mm, LEAST_FIELD_MM), LARGEST_FIELD_MM) if size_mm else whole
        return cls(grid.to_mm(middle), down, right, min(wanted, max(whole, 1e-3)))

    def cut(self, array_dhw: NDArray[np.generic], grid: Grid) -> NDArray[np.float32]:
        """An image on the plane, linearly interpolated; NaN outside of it."""
        index = np.linalg.solve(grid.matrix, self._mm - grid.origin_mm[:, None])
        shape = np.array(grid.shape_dhw)[:, None]
        outside = ((index < -0.5) | (index > shape - 0.5)).any(axis=0)
        low = np.clip(np.floor(index.min(axis=1)).astype(int), 0, shape[:, 0] - 1)
        high = np.clip(np.ceil(index.max(axis=1)).astype(int), low, shape[:, 0] - 1)
        part = array_dhw[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))].astype(np.float32)
        tile = map_coordinates(part, index - low[:, None], order=1, mode="nearest", output=np.float32)
        tile[outside] = np.nan
        return np.asarray(tile.reshape(TILE, TILE), dtype=np.float32)

    def outline(self, mask_dhw: NDArray[np.generic] | None, grid: Grid) -> NDArray[np.bool_]:
        """The pixels just outside the lesion; nothing of it is covered."""
        if mask_dhw is None:
            return np.zeros((TILE, TILE), dtype=np.bool_)
        inside = np.nan_to_num(self.cut((mask_dhw != 0).astype(np.uint8), grid)) > 0.5
        return np.asarray(binary_dilation(inside, np.ones((3, 3))) & ~inside)

    def told(self, mask_dhw: NDArray[np.generic] | None, grid: Grid) -> list[str]:
        """The lesion in words: its size in the plane, its volume, the slice."""
        box = None if mask_dhw is None else bounding_box(mask_dhw != 0)
        if mask_dhw is None or box is None:
            return ["no lesion drawn"]
        _, height, width = box.size_dhw * grid.spacing_mm_dhw
        number = _largest_slice(mask_dhw) + 1
        volume = np.count_nonzero(mask_dhw) * abs(np.linalg.det(grid.matrix)) / 1000.0
        return [
            f"{height:.0f} x {width:.0f} mm, {volume:.1f} ml",
            f"slice {number} of {grid.shape_dhw[0]}",
        ]


def _largest_slice(mask_dhw: NDArray[np.generic]) -> int:
    """The slice with most of the lesion; of several (a box has as much in each) the middle one."""
    area = np.count_nonzero(mask_dhw, axis=(1, 2))
    most = np.flatnonzero(area == area.max())
    return int(most[len(most) // 2])


def _windows(tiles: Mapping[Phase, NDArray[np.float32]]) -> dict[str, tuple[float, float]]:
    """One grey window for all phases, from their percentiles; a phase in another scale has its own."""
    values = {phase: tile[np.isfinite(tile)] for phase, tile in tiles.items()}
    seen = [v for v in values.values() if v.size]
    if not seen:
        return {"": (0.0, 1.0), **dict.fromkeys(tiles, (0.0, 1.0))}
    everything = np.concatenate(seen)
    common = _window(everything)
    windows: dict[str, tuple[float, float]] = {"": common}
    for phase, found in values.items():
        own = _window(found) if found.size else common
        dim = own[1] - common[0] < _DIM * (common[1] - common[0])
        windows[phase] = own if dim else common
    return windows


def _window(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values, (1, 99.5))
    return float(low), float(max(high, low + 1e-6 * max(abs(low), 1.0)))


def _painted(
    tile: NDArray[np.float32], window: tuple[float, float], outline: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    low, high = window
    with np.errstate(invalid="ignore"):
        grey = np.clip((tile - low) / (high - low), 0.0, 1.0) * (GREYS - 1)
    outside = ~np.isfinite(tile)
    painted = np.round(np.where(outside, 0.0, grey)).astype(np.uint8)
    painted[outside] = BLANK
    painted[outline] = OUTLINE
    return painted


def _legend(canvas: Canvas, pseudonym: str, label: int, lines: Sequence[str]) -> None:
    colour, words = COLOURS.get(label, COLOURS[-1])
    canvas.fill(0, CAPTION, 5, TILE, colour)
    canvas.text(12, CAPTION, pseudonym, INK)
    canvas.text(12, CAPTION + 20, words, INK, bold=True)
    for number, line in enumerate(lines[:6]):
        canvas.text(12, CAPTION + 42 + 17 * number, line, QUIET, small=True)


def _scale(canvas: Canvas, left: int, top: int, step_mm: float) -> None:
    length = max(1, min(round(_SCALE_MM / step_mm), TILE - 16))
    canvas.fill(left + TILE - 8 - length, top, length, 2, ABOVE)
    canvas.fill(left + TILE - 8 - length, top + 2, length, 1, BELOW)
    canvas.text(left + TILE - 8, top - 14, f"{_SCALE_MM:.0f} mm", PALE, small=True, to_right=True)
    canvas.text(left + 4, CAPTION + 4, "R", PALE, small=True)


def _spacing(grid: Grid) -> str:
    d, h, w = grid.spacing_mm_dhw
    return f"{h:.1f} x {w:.1f} x {d:.1f}"


def _row(site: Path, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(site / name) as picture:
            if picture.mode == "P" and picture.format == "PNG" and picture.height == CAPTION + TILE + GAP:
                return np.asarray(picture, dtype=np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        pass
    canvas = Canvas(LEGEND + TILE, CAPTION + TILE + GAP)
    canvas.text(12, CAPTION, Path(name).stem, INK)
    canvas.text(12, CAPTION + 20, "its row is missing or damaged: ingest again", QUIET, small=True)
    return canvas.pixels


def _page(rows: Sequence[NDArray[np.uint8]], title: str) -> bytes:
    width = max(row.shape[1] for row in rows)
    head = Canvas(width, 24)
    head.text(12, 4, title, QUIET)
    padded = [np.pad(row, ((0, 8), (0, width - row.shape[1])), constant_values=ABOVE) for row in rows]
    return png(np.concatenate([head.pixels, *padded]))
