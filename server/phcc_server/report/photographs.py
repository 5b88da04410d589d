"""Pictures of voxels for the page: what an autoencoder filled in, and the cases that a classifier got wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from phcc_server.report.wording import UNDEFINED

_RESOLUTION = 160
_TILE_INCHES = 1.04
"""Four phases are then as wide as a figure, and their names are as large as its type."""
_LINE = "#00E5FF"
_HIDDEN = 0.35
"""Grey of what the encoder did not see, between black and white."""
_STYLE: Any = {"font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 8.0,
               "text.parse_math": False}  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """One picture of voxels.

    Attributes:
        name: of its file.
        title: one line above it.
        caption: what it shows and how to read it.
        png: the picture.
        part: of the page where it belongs.
        group: pictures of one group stand together, e.g. an arm's.
    """

    name: str
    title: str
    caption: str
    png: bytes
    part: Literal["training", "mistakes"] = "training"
    group: str = ""

    @property
    def uri(self) -> str:
        """The picture as text, for a page that asks for nothing."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Filled:
    """What an autoencoder made of one case after one round.

    Attributes:
        when: in words, e.g. ``round 1``.
        prediction_phw: one slice of each phase, in units of the target.
        agreement: correlation with the target over hidden voxels, in the units that are predicted; None where
            one of the two is flat.
        spread: of the prediction there, as a share of the target's.
    """

    when: str
    prediction_phw: NDArray[np.floating]
    agreement: float | None
    spread: float


def reconstruction(
    arm: str,
    target_phw: NDArray[np.floating],
    visible_phw: NDArray[np.bool_],
    filled: Sequence[Filled],
    phases: Sequence[str],
    *,
    present_p: Sequence[bool] | None = None,
    case: str = "",
    objective: str = "raw",
    aspect: float = 1.0,
) -> Photograph:
    """Target, what the encoder saw, and what was filled in after each of some rounds, phase by phase.

    The caption carries two numbers for each round, so that a collapse is seen even by who does not look: the
    correlation of prediction and target over hidden voxels, and how much of the target's spread the prediction
    has. A network that paints one grey has 0 in both.

    Args:
        arm: whose autoencoder it is.
        target_phw: one slice of each normalised volume.
        visible_phw: what the encoder saw.
        filled: by round, in order; at least one.
        phases: p names.
        present_p: False where a phase is missing: its column says so.
        case: pseudonym, for the title.
        objective: the study's ``pretrain.target``, for the caption.
        aspect: height of a voxel by its width.
    """
    there = [True] * len(phases) if present_p is None else list(present_p)
    rows = ["target", "seen", *(f"after {one.when}" for one in filled)]
    with _sheet(len(rows), len(phases), target_phw.shape[1:], aspect) as sheet:
        for p, phase in enumerate(phases):
            column = sheet.panels[:, p]
            column[0].set_title(phase, fontsize=8)
            if not there[p]:
                _say_missing(column)
                continue
            target, seen = target_phw[p], visible_phw[p]
            low, high = _window(target)
            images = [target, np.where(seen, target, low + _HIDDEN * (high - low))]
            images += [np.where(seen, target, one.prediction_phw[p]) for one in filled]
            for axes, image in zip(column, images, strict=True):
                axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect=aspect)
        for axes, label in zip(sheet.panels[:, 0], rows, strict=True):
            axes.set_ylabel(label, fontsize=8)
    said = "; ".join(
        f"after {one.when} {UNDEFINED if one.agreement is None else format(round(one.agreement, 2) + 0.0, '.2f')}"
        f" and {one.spread:.2f}"
        for one in filled
    )
    caption = (
        f"Correlation with the target over hidden patches, and share of its spread: {said}; near 0 the network "
        f"paints one grey. {_UNITS[objective]}"
    )
    name = f"reconstruction-{arm}" + (f"-{case}" if case else "")
    title = f"{arm}: filled in" + (f", {case}" if case else "")
    return Photograph(name, title, caption, sheet.png(), group=arm)


_UNITS = {
    "raw": "Predicted are the normalised voxels themselves.",
    "norm-pix": (
        "Predicted is each patch less its own mean, by its own spread: both are taken from the target to draw "
        "it, so how bright a hidden patch is was given, and the pattern within it is the network's."
    ),
    "norm-across-phases": (
        "Predicted is each patch less the mean over all phases at its place, by their spread: both are taken "
        "from the target to draw it; what changes from phase to phase is the network's."
    ),
    "enhancement": (
        "Predicted is each patch less the mean over all phases at its place, by the spread that such differences "
        "have in the whole crop; both are taken from the target to draw it."
    ),
    "norm-volume": (
        "Predicted is each voxel less the crop's mean in its phase, by the crop's spread; both are taken from "
        "the whole crop to draw it."
    ),
}


def mistake(
    case: str,
    centre: str,
    what: str,
    slice_phw: NDArray[np.floating],
    lesion_hw: NDArray[np.bool_],
    phases: Sequence[str],
    *,
    present_p: Sequence[bool],
    aspect: float = 1.0,
) -> Photograph:
    """A case that was called wrongly: its lesion's middle slice in all phases, outlined.

    Args:
        case: pseudonym.
        centre: where it is from.
        what: the mistake in words.
        slice_phw: one slice of each normalised volume.
        lesion_hw: True inside the lesion as given.
        phases: p names.
        present_p: False where a phase is missing: its column says so.
        aspect: height of a voxel by its width.
    """
    with _sheet(1, len(phases), slice_phw.shape[1:], aspect) as sheet:
        for p, phase in enumerate(phases):
            axes = sheet.panels[0, p]
            axes.set_title(phase, fontsize=8)
            if not present_p[p]:
                _say_missing([axes])
                continue
            low, high = _window(slice_phw[p])
            axes.imshow(
                slice_phw[p], cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect=aspect
            )
            if lesion_hw.any() and not lesion_hw.all():
                axes.contour(lesion_hw.astype(float), levels=[0.5], colors=_LINE, linewidths=0.8)
    name = f"mistake-{centre}-{case}"
    return Photograph(name, f"{case}, {centre}", what, sheet.png(), part="mistakes")


@dataclass(frozen=True)
class _Sheet:
    figure: Figure
    panels: Any  # an object array of axes [row, column]

    def png(self) -> bytes:
        with mpl.rc_context(_STYLE):
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
            return buffer.getvalue()


@contextmanager
def _sheet(rows: int, columns: int, shape_hw: Sequence[int], aspect: float) -> Iterator[_Sheet]:
    tall = _TILE_INCHES * shape_hw[0] * aspect / shape_hw[1]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_TILE_INCHES * columns + 0.25, tall * rows + 0.3), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0.01, hspace=0.01)  # type: ignore[union-attr,call-arg]
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        yield _Sheet(figure, panels)


def _window(image: NDArray[np.floating]) -> tuple[float, float]:
    """Black and white of a slice; a flat one is grey."""
    low, high = (float(value) for value in np.percentile(image.astype(np.float64), (1.0, 99.0)))
    return low, max(high, low + 1e-6)


def _say_missing(column: Sequence[Axes]) -> None:
    for axes in column:
        axes.set_facecolor("#EEEEEE")
    column[0].text(0.5, 0.5, "missing", transform=column[0].transAxes, ha="center", va="center", fontsize=8)


def fidelity(
    target: NDArray[np.floating], visible: NDArray[np.bool_], prediction: NDArray[np.floating]
) -> tuple[float | None, float]:
    """Correlation of prediction and target over hidden voxels (None if one of them is flat), and share of spread.

    Args:
        target: of any shape.
        visible: True where nothing had to be filled in.
        prediction: of the same shape.
    """
    x, y = (volume[~visible].astype(np.float64) for volume in (target, prediction))
    if x.size < 2 or x.std() < 1e-9:
        return None, 0.0
    spread = float(y.std() / x.std())
    return (None, 0.0) if spread < 1e-6 else (float(np.corrcoef(x, y)[0, 1]), spread)
