"""The page as matplotlib draws it: one A4 sheet, as a PDF and as the picture that a PACS takes.

The same input gives the same bytes: no date of making is written.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from phcc_client.prediction import wording
from phcc_client.prediction.result import NOT_FOR_DIAGNOSIS, NOTICE, Prediction

A4_INCHES = (8.27, 11.69)
PICTURE_DPI = 150
_INK, _GREY, _RED, _PALE = "#1a1a1a", "#5a5a5a", "#a11212", "#f2f2f2"
_LEFT, _RIGHT = 0.06, 0.94
_LINE = 0.0125
_COLUMNS = (0.0, 0.125, 0.215, 0.535, 0.68, 0.775, 0.915)
"""Where the phases' columns begin, as shares of the width."""
_WIDTHS = (15, 10, 40, 17, 11, 17, 9)
_MOST_WARNINGS = 7
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,
    "svg.hashsalt": "phcc",
    "text.usetex": False,
    "text.parse_math": False,
}


def sheet_pdf(prediction: Prediction, overlay_png: bytes) -> bytes:
    """The sheet as a PDF of one page, the patient's number on it."""
    out = io.BytesIO()
    with _drawing():
        figure = _drawn(prediction, overlay_png, named=True)
        FigureCanvasPdf(figure)
        about = {"Title": f"pHCC-SSL prediction. {NOTICE}", "CreationDate": None}
        figure.savefig(out, format="pdf", metadata=about)
    return out.getvalue()


def sheet_picture(prediction: Prediction, overlay_png: bytes) -> NDArray[np.uint8]:
    """The sheet as uint8 (rows, columns, RGB), with nothing on it that tells who the patient is."""
    with _drawing():
        figure = _drawn(prediction, overlay_png, named=False)
        figure.set_dpi(PICTURE_DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba(), dtype=np.uint8)  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(drawn[..., :3])


@contextmanager
def _drawing() -> Iterator[None]:
    """The style; a letter that the font lacks is drawn as a box, and nobody at the terminal is told."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def _drawn(prediction: Prediction, overlay_png: bytes, *, named: bool) -> Figure:
    figure = Figure(figsize=A4_INCHES)
    pen = _Pen(figure)
    _banner(figure, 0.962)
    _banner(figure, 0.012)
    pen.down(0.945)
    who = prediction.patient if named else "as in this study's header"
    examined = f", examined {prediction.input.examined}" if prediction.input.examined else ""
    pen.write(wording.title(prediction), size=13, weight="bold", gap=1.7)
    pen.write(f"Patient {who}{examined}", size=9, wrap=100)
    pen.write(wording.lesion_line(prediction.lesion), size=8, colour=_GREY)
    pen.skip(0.6)
    _result(figure, pen, prediction)
    _phases(pen, prediction)
    _warnings(pen, prediction)
    bottom = 0.115
    _picture(figure, overlay_png, top=pen.y - 0.004, bottom=bottom)
    pen.down(bottom - 0.008)
    for line in (wording.LIMITS, *wording.origin_lines(prediction)):
        pen.write(line, size=5.6, colour=_GREY, wrap=165, gap=0.72)
    return figure


class _Pen:
    """Writes lines of text from the top of a figure downwards."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.y = 1.0

    def down(self, y: float) -> None:
        """Go to a height."""
        self.y = y

    def skip(self, lines: float) -> None:
        """Leave room."""
        self.y -= lines * _LINE

    def write(
        self, text: str, *, size: float, weight: str = "normal", colour: str = _INK, wrap: int = 120,
        gap: float = 1.15,
    ) -> None:  # fmt: skip
        """A paragraph."""
        for line in textwrap.wrap(_plain(text), wrap) or [""]:
            self.figure.text(_LEFT, self.y, line, size=size, weight=weight, color=colour, va="top")
            self.y -= _LINE * gap

    def row(self, cells: Sequence[str], *, size: float, weight: str = "normal") -> None:
        """Cells under the phases' columns; as high as the highest of them."""
        wrapped = [textwrap.wrap(_plain(cell), width) for cell, width in zip(cells, _WIDTHS, strict=True)]
        for start, lines in zip(_COLUMNS, wrapped, strict=True):
            at = _LEFT + start * (_RIGHT - _LEFT)
            for number, line in enumerate(lines):
                y = self.y - number * _LINE * 0.85
                self.figure.text(at, y, line, size=size, weight=weight, color=_INK, va="top")
        self.y -= _LINE * (0.85 * max(len(lines) for lines in wrapped) + 0.2)


def _plain(text: str) -> str:
    """One line of characters that can be drawn."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _banner(figure: Figure, y: float) -> None:
    figure.add_artist(Rectangle((0, y), 1, 0.026, transform=figure.transFigure, color=_RED))
    figure.text(
        0.5, y + 0.0125, f"{NOTICE}.  {NOT_FOR_DIAGNOSIS}", size=8.5, weight="bold", color="white",
        ha="center", va="center",
    )  # fmt: skip


def _result(figure: Figure, pen: _Pen, prediction: Prediction) -> None:
    """The figures, the verdict, and where the score lies between 0 and 1."""
    height = 0.072
    low = pen.y - height
    figure.add_artist(
        Rectangle((_LEFT, low), _RIGHT - _LEFT, height, transform=figure.transFigure, color=_PALE, zorder=0)
    )
    for number, (name, value) in enumerate(wording.figures(prediction)):
        x = _LEFT + 0.015 + number * 0.215
        figure.text(x, pen.y - 0.008, name, size=7, color=_GREY, va="top")
        big = 14 if len(value) < 8 else 7
        figure.text(x, pen.y - 0.020, value, size=big, weight="bold", color=_INK, va="top")
    figure.text(
        _LEFT + 0.015, low + 0.010, wording.verdict_words(prediction), size=8.5, weight="bold", color=_INK
    )
    axes = figure.add_axes((0.71, low + 0.022, 0.21, 0.024))
    axes.barh([0], [prediction.score], color="#4d6d8a", height=0.8)
    axes.axvline(prediction.threshold, color=_RED, linewidth=1.5)
    axes.set(xlim=(0, 1), yticks=[], xticks=[0, 0.5, 1])
    axes.tick_params(labelsize=6, length=2)
    axes.set_title("score, and the threshold in red", size=6, color=_GREY, pad=2)
    pen.down(low - 0.012)


def _phases(pen: _Pen, prediction: Prediction) -> None:
    pen.row(wording.PHASE_HEADER, size=6.6, weight="bold")
    for cells in wording.phase_rows(prediction):
        pen.row(cells, size=6.6)
    pen.skip(0.5)


def _warnings(pen: _Pen, prediction: Prediction) -> None:
    lines = wording.warning_lines(prediction)
    pen.write(f"Warnings ({len(prediction.warnings)})", size=8.5, weight="bold")
    for line in lines[:_MOST_WARNINGS]:
        pen.write(f"• {line}", size=7, wrap=140, gap=0.95)
    if len(lines) > _MOST_WARNINGS:
        pen.write(f"and {len(lines) - _MOST_WARNINGS} more: see prediction.json", size=7, weight="bold")
    if unchecked := wording.unchecked_line(prediction):
        pen.write(unchecked, size=6.4, colour=_GREY, wrap=140, gap=0.9)


def _picture(figure: Figure, overlay_png: bytes, *, top: float, bottom: float) -> None:
    """The heat maps, as large as what is left allows."""
    with Image.open(io.BytesIO(overlay_png)) as opened:
        picture = np.asarray(opened.convert("RGB"))
    axes = figure.add_axes((_LEFT, bottom, _RIGHT - _LEFT, max(top - bottom, 0.05)))
    axes.imshow(picture, aspect="equal", interpolation="antialiased")
    axes.set_anchor("N")
    axes.set_axis_off()
