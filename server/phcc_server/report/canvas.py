"""The look of every figure, and how one becomes SVG: text stays text, the same input gives the same bytes.

A figure is drawn narrow, with type that can still be read when a phone shows it 350 pixels wide; the page
puts several side by side where there is room.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 4.4
"""Inches; at the 72 points an inch of SVG, type of 9 points is legible down to 300 pixels."""

# Okabe & Ito (2008): colours that colour-blind readers can tell apart; yellow, too pale on white, left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MOST_IN_A_CORNER = 5
Corner = Literal["upper left", "upper right", "lower left", "lower right"]
POSITIVE, NEGATIVE, UNKNOWN, QUIET = "#D55E00", "#0072B2", "#BBBBBB", "#767676"

# matplotlib types the keys of its settings from 3.11 on only.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "phcc",
    "text.parse_math": False,  # a centre may have a dollar sign in its name
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """One figure of the report.

    Attributes:
        name: a short name, its id in the page.
        title: one line above it.
        caption: what it shows and how to read it, also for readers who do not see it.
        svg: an ``<svg>`` element.
        group: pictures of one group stand together, e.g. an arm's.
    """

    name: str
    title: str
    caption: str
    svg: str
    group: str = ""

    @property
    def document(self) -> str:
        """The figure as a file of its own; as wide as it is in a column of the page."""
        sized = self.svg.replace("<svg", f'<svg width="{WIDTH * 100:.0f}"', 1)
        return f'<?xml version="1.0" encoding="utf-8"?>\n{sized}\n'


@contextmanager
def canvas(rows: int = 1, height: float = 3.3, ratios: tuple[float, ...] | None = None) -> Iterator[_Sheet]:
    """A sheet to draw on, in the report's style.

    Args:
        rows: panels below one another.
        height: inches, all panels together.
        ratios: heights of the panels to one another.
    """
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Names in other scripts are not in the font that measures the text; the reader's browser has them.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(rows, 1, squeeze=False, height_ratios=ratios)[:, 0]
        yield _Sheet(figure, tuple(panels))


@dataclass(frozen=True)
class _Sheet:
    figure: Figure
    panels: tuple[Axes, ...]

    def legend(self, axes: Axes, corner: Corner, title: str | None = None) -> None:
        """Name the series of a panel: in a corner, or below, on a taller sheet, where they are too many."""
        handles, labels = axes.get_legend_handles_labels()
        style: Any = {"title": title, "title_fontsize": 8.5, "alignment": "left"}
        if len(labels) <= _MOST_IN_A_CORNER:
            axes.legend(loc=corner, **style)
            return
        self.figure.set_figheight(self.figure.get_figheight() + 0.2 + 0.17 * -(-len(labels) // 2))
        self.figure.legend(handles, labels, loc="outside lower left", ncols=2, **style)

    def picture(self, name: str, title: str, caption: str, group: str = "") -> Picture:
        """Close the sheet."""
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        self.figure.savefig(buffer, format="svg", metadata=metadata)
        return Picture(name, title, caption, _inline(buffer.getvalue(), name, title), group)


def colour(index: int) -> str:
    """A colour for the n-th of several series."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:
    """A line style for the n-th of several series; four of them beside seven colours make 28 pairs."""
    return DASHES[index % len(DASHES)]


def marker(index: int) -> str:
    """A marker for the n-th of several series."""
    return MARKERS[index % len(MARKERS)]


def _inline(document: str, name: str, title: str) -> str:
    """The ``<svg>`` element of an SVG file, fit to stand in a page beside others.

    Several figures share one page: every id gets the figure's name in front, and the style sheet, which would
    reach the whole page, goes (the page has the same for figures). Width and height give way to the
    view box, so that the page decides how large a figure is.
    """
    element = document[document.index("<svg") :].strip()
    element = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", element, count=1, flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    element = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", element)
    head, rest = element.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(title, quote=True)}">{rest}'
