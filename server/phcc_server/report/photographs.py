"""Pictures of voxels for the page: what the masked autoencoder was given, what it saw, what it made of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

_RESOLUTION = 110
_HIDDEN = 0.35
"""Grey of what the encoder did not see, between black and white."""


@dataclass(frozen=True)
class Photograph:
    """One picture of voxels.

    Attributes:
        name: of its file.
        title: one line above it.
        caption: what it shows and how to read it.
        png: the picture.
    """

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as text, for a page that asks for nothing."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def reconstruction(
    arm: str,
    volumes_pdhw: NDArray[np.floating],
    visible_pdhw: NDArray[np.bool_],
    prediction_pdhw: NDArray[np.floating],
    phases: Sequence[str],
    *,
    case: str = "",
) -> Photograph:
    """Target, what the encoder saw, and what was filled in, phase by phase, in the middle slice.

    The caption carries two numbers, so that a collapse is seen even by who does not look: the correlation of
    prediction and target over hidden voxels, and how much of the target's spread the prediction has. A network
    that paints one grey has 0 in both.

    Args:
        arm: whose autoencoder it is.
        volumes_pdhw: normalised target.
        visible_pdhw: what the encoder saw.
        prediction_pdhw: in units of the target, all voxels.
        phases: p names.
        case: pseudonym, for the title.
    """
    middle = volumes_pdhw.shape[1] // 2
    figure = Figure(figsize=(1.5 * len(phases) + 0.4, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, len(phases), squeeze=False)
    for p, phase in enumerate(phases):
        target, seen = volumes_pdhw[p, middle], visible_pdhw[p, middle]
        low, high = np.percentile(target, (1.0, 99.0))
        span = max(float(high - low), 1e-6)
        hidden = np.where(seen, target, low + _HIDDEN * span)
        filled = np.where(seen, target, prediction_pdhw[p, middle])
        for row, image in enumerate((target, hidden, filled)):
            axes = panels[row, p]
            axes.imshow(image, cmap="gray", vmin=low, vmax=low + span, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        panels[0, p].set_title(phase, fontsize=8)
    for row, label in enumerate(("target", "seen", "filled in")):
        panels[row, 0].set_ylabel(label, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
    agreement, spread = fidelity(volumes_pdhw, visible_pdhw, prediction_pdhw)
    said = "not defined" if agreement is None else f"{agreement:.2f}"
    caption = (
        "Middle slice of the crop. Over hidden voxels the prediction's correlation with the target is "
        f"{said}, and it has {spread:.2f} of the target's spread; near 0 the network paints one grey."
    )
    title = f"{arm}: what the autoencoder fills in" + (f", {case}" if case else "")
    return Photograph(
        f"reconstruction-{arm}" + (f"-{case}" if case else ""), title, caption, buffer.getvalue()
    )


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
