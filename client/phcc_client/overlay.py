"""Heat maps for people: over the images as one picture, and as NIfTI files that lie on the images they are of.

The picture shows all phases in a row. Above, the images alone; below, slices through the lesion with the map
over them, where it is transparent as far as it is weak. Axes are those of the crop: a slice is seen from the
feet, its right is the patient's left. The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phcc_model.errors import CaseError
from phcc_model.storage import write_atomically

COLOURS = "inferno"
"""Of matplotlib: rises in brightness all the way, for colour-blind readers and grey printers too."""
LINE = "#00E5FF"
"""The lesion's outline."""
STRONGEST_OPACITY = 0.75
WINDOW_PERCENT = (1.0, 99.0)
"""Black and white of an image, in percentiles of its crop."""
_TILE_INCHES, _DPI = 1.9, 120
_STYLE: Any = {"font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 8.0,
               "text.parse_math": False}  # fmt: skip


def overlay_png(
    volumes_pdhw: NDArray[Any],
    maps_pdhw: NDArray[Any],
    lesion_dhw: NDArray[Any],
    phases: Sequence[str],
    present_p: NDArray[np.bool_],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slices: int = 3,
    attention_p: NDArray[Any] | None = None,
    caption: str = "",
) -> bytes:
    """One case as a PNG.

    Args:
        volumes_pdhw: the crops, as the network saw them.
        maps_pdhw: 0 to 1, on the same grid (`phcc_model.explain`).
        lesion_dhw: not zero inside the lesion; outlined.
        phases: names, in order.
        present_p: False where a phase is missing: its column says so.
        spacing_mm: of the grid along D, H, W, so that a pixel has its shape.
        slices: how many slices the map is shown on, spread over the lesion.
        attention_p: share of each phase; None leaves it out.
        caption: a line at the foot. No identifying text belongs here.

    Raises:
        CaseError: the shapes do not belong together, or no phase is there.
    """
    _must_fit(volumes_pdhw, maps_pdhw, lesion_dhw, phases, present_p)
    at = lesion_slices(lesion_dhw, slices)
    middle = at[len(at) // 2]
    rows = [(middle, False), *((index, True) for index in at)]
    _, _, h, w = volumes_pdhw.shape
    tall = (h * spacing_mm[1]) / (w * spacing_mm[2])
    wide_in = _TILE_INCHES * len(phases) + 0.75
    high_in = _TILE_INCHES * tall * len(rows) + 0.75
    with mpl.rc_context(_STYLE):
        figure = Figure((wide_in, high_in), dpi=_DPI, layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr,call-arg]
        grid = figure.subplots(len(rows), len(phases), squeeze=False)
        for p, phase in enumerate(phases):
            share = None if attention_p is None or not present_p[p] else float(attention_p[p])
            grid[0, p].set_title(phase if share is None else f"{phase}\nattention {share:.2f}", fontsize=8)
            for r, (index, with_map) in enumerate(rows):
                heat_hw = np.asarray(maps_pdhw[p, index], np.float32) if with_map else None
                if present_p[p]:
                    image = np.asarray(volumes_pdhw[p], np.float32)
                    _tile(grid[r, p], image, index, lesion_dhw[index], heat_hw, spacing_mm)
                else:
                    _blank(grid[r, p], h, w, spacing_mm)
        for r, (index, with_map) in enumerate(rows):
            what = "heat map" if with_map else "image"
            grid[r, 0].set_ylabel(f"{what}, slice {index + 1}")
        scale = ScalarMappable(Normalize(0.0, 1.0), COLOURS)
        bar = figure.colorbar(scale, ax=grid.ravel().tolist(), fraction=0.03, pad=0.01, aspect=40)
        bar.set_label("heat map, in units of this case's strongest place")
        figure.supxlabel(caption or "blue line: the lesion as given", fontsize=7.5, color="#444444")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def slice_png(
    volumes_pdhw: NDArray[Any],
    lesion_dhw: NDArray[Any],
    phases: Sequence[str],
    present_p: NDArray[np.bool_],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """The lesion's middle slice as a PNG, all phases in a row, without a map.

    Args:
        volumes_pdhw: the crops, as the network saw them.
        lesion_dhw: not zero inside the lesion; outlined.
        phases: names, in order.
        present_p: False where a phase is missing: its column says so.
        spacing_mm: of the grid along D, H, W, so that a pixel has its shape.

    Raises:
        CaseError: the shapes do not belong together, or no phase is there.
    """
    _must_fit(volumes_pdhw, volumes_pdhw, lesion_dhw, phases, present_p)
    middle = lesion_slices(lesion_dhw, 1)[0]
    _, _, h, w = volumes_pdhw.shape
    tall = (h * spacing_mm[1]) / (w * spacing_mm[2])
    with mpl.rc_context(_STYLE):
        size = (_TILE_INCHES * len(phases), _TILE_INCHES * tall + 0.25)
        figure = Figure(size, dpi=_DPI, layout="constrained", facecolor="white")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)  # type: ignore[union-attr,call-arg]
        for p, axes in enumerate(figure.subplots(1, len(phases), squeeze=False)[0]):
            axes.set_title(phases[p], fontsize=8)
            if present_p[p]:
                image_dhw = np.asarray(volumes_pdhw[p], np.float32)
                _tile(axes, image_dhw, middle, lesion_dhw[middle], None, spacing_mm)
            else:
                _blank(axes, h, w, spacing_mm)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def lesion_slices(lesion_dhw: NDArray[Any], count: int) -> list[int]:
    """Slices spread over the lesion from its second sixth to its fifth, in order, none twice.

    Args:
        lesion_dhw: not zero inside; where it is empty, the crop's middle stands for it.
        count: at least 1; fewer come back where the lesion has fewer.
    """
    there = np.flatnonzero(np.asarray(lesion_dhw).any(axis=(1, 2)))
    if not len(there):
        return [len(lesion_dhw) // 2]
    places = (np.arange(max(count, 1)) + 0.5) / max(count, 1) * len(there) - 0.5
    return sorted({int(there[int(np.floor(place + 0.5))]) for place in places})


def write_map_nifti(path: Path, map_dhw: NDArray[Any], affine_dhw: NDArray[np.float64]) -> None:
    """A heat map as NIfTI, on the crop's grid, so that a viewer lays it over the image that it is of.

    Args:
        path: ending in ``.nii.gz`` or ``.nii``.
        map_dhw: 0 to 1.
        affine_dhw: (4, 4), from an index (d, h, w) of the crop to mm of the patient (x, y, z to the right, the
            front, the head: RAS, as NIfTI counts); see `overlay_place.crop_affines`.

    Raises:
        StorageError: the disk is full or not writable.
    """
    # NIfTI's first axis is the fastest in memory: w. The columns follow their axes.
    affine_whd = affine_dhw[:, [2, 1, 0, 3]]
    made: Any = nib.Nifti1Image  # nibabel's own hints are partial
    image = made(np.ascontiguousarray(np.asarray(map_dhw, np.float32).transpose(2, 1, 0)), affine_whd)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine_whd, code=1)
    image.set_sform(affine_whd, code=1)
    content = image.to_bytes()
    write_atomically(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


def _tile(
    axes: Axes,
    image_dhw: NDArray[np.float32],
    index: int,
    lesion_hw: NDArray[Any],
    heat_hw: NDArray[np.float32] | None,
    spacing_mm: tuple[float, float, float],
) -> None:
    """One slice, its lesion outlined; with a map over it where one is given."""
    finite = image_dhw[np.isfinite(image_dhw)]
    low, high = np.percentile(finite, WINDOW_PERCENT) if finite.size else (0.0, 1.0)
    aspect = spacing_mm[1] / spacing_mm[2]
    axes.imshow(image_dhw[index], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect)
    if heat_hw is not None:
        opacity_hw = np.clip(heat_hw, 0.0, 1.0) * STRONGEST_OPACITY
        axes.imshow(heat_hw, cmap=COLOURS, vmin=0.0, vmax=1.0, alpha=opacity_hw, aspect=aspect)
    inside_hw = np.asarray(lesion_hw) > 0
    if inside_hw.any():
        # A frame of outside around it, so that a lesion at the crop's edge is closed there.
        padded = np.pad(inside_hw.astype(np.float32), 1)
        h, w = inside_hw.shape
        axes.contour(np.arange(-1, w + 1), np.arange(-1, h + 1), padded, [0.5], colors=LINE, linewidths=0.9)
        axes.set_xlim(-0.5, w - 0.5)
        axes.set_ylim(h - 0.5, -0.5)
    _bare(axes)


def _blank(axes: Axes, h: int, w: int, spacing_mm: tuple[float, float, float]) -> None:
    axes.imshow(np.full((h, w), 0.92), cmap="gray", vmin=0.0, vmax=1.0, aspect=spacing_mm[1] / spacing_mm[2])
    axes.text((w - 1) / 2, (h - 1) / 2, "phase missing", ha="center", va="center", color="#444444")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _must_fit(
    volumes_pdhw: NDArray[Any],
    maps_pdhw: NDArray[Any],
    lesion_dhw: NDArray[Any],
    phases: Sequence[str],
    present_p: NDArray[np.bool_],
) -> None:
    shape = volumes_pdhw.shape
    fits = len(shape) == 4 and maps_pdhw.shape == shape and lesion_dhw.shape == shape[1:]
    if not fits or len(phases) != shape[0] or len(present_p) != shape[0]:
        raise CaseError(
            f"images {shape}, heat maps {maps_pdhw.shape}, lesion {lesion_dhw.shape} and {len(phases)} phases "
            "do not belong together",
            where="heat map",
            remedy="Draw maps over the crops that they were made from",
        )
    if not np.asarray(present_p).any():
        raise CaseError("none of the phases is there", where="heat map", remedy="Check the phases' names")
