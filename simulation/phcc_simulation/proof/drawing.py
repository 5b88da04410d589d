"""Pictures over seeds: every arm's AUC, what `full` is better by, and AUC against the labels that were used."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

from phcc_server.report.canvas import QUIET, Picture, canvas, colour, marker
from phcc_server.report.wording import split_title
from phcc_simulation.proof.claims import BARE, CEILING, FULL
from phcc_simulation.proof.schema import Combined, Figure

DPI = 150
BEST = "#009E73"
_LABELS = re.compile(r"(?:(full|no-pretraining)\+)?labels-(\d+)")
_APART = 0.17
"""Between the two splits' marks of one arm, in rows."""


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG, and as PNG for what shows no SVG."""

    picture: Picture
    png: bytes


def finish(sheet: Sheet, picture: Picture) -> Drawing:
    """The same sheet once more as PNG."""
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Drawing(picture, buffer.getvalue())


def heading(what: str, found: Combined) -> str:
    """A picture's title; that data are synthetic is never left out."""
    return f"{what}, {_seeds(len(found.seeds))}{', synthetic' if found.synthetic else ''}"


def above(sheet: Sheet, name: str) -> None:
    """The title from the sheet's left edge on: above the axes alone, long names of arms leave it no room."""
    sheet.suptitle(name, x=0.02, ha="left", fontsize=9.5, fontweight="bold")


def named(found: Combined, arm: str) -> str:
    """An arm as its row is called: with the number of its seeds where the study has more."""
    known = found.auc(arm, found.split)
    seeds = len(found.seeds) if known is None else len(known.seeds)
    return arm if seeds == len(found.seeds) else f"{arm} ({_seeds(seeds)})"


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def forest(found: Combined) -> Drawing:
    """Every arm's mean AUC with its interval, internal and external side by side."""
    rows = {named(found, arm): tuple(found.auc(arm, split) for split in found.tests) for arm in found.names}
    name = heading("AUC by arm", found)
    with canvas(height=1.1 + 0.3 * len(rows)) as sheet:
        axes = sheet.panels[0]
        intervals(axes, rows, [split_title(split) for split in found.tests], undefined=0.5)
        axes.axvline(0.5, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        caption = (
            f"Mean over seeds; bars are {100 * found.confidence:.0f} % intervals over seeds and patients."
        )
        if (best := found.best_possible_auc.get(CEILING)) is not None:
            axes.axvline(best, color=BEST, linewidth=1.2, linestyle=(0, (5, 2)), label="best possible")
            caption += (
                f" Green: the best possible AUC of the images alone, {best:.3f}, as the data were made."
            )
        axes.set_xlabel("AUC")
        above(sheet.figure, name)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        return finish(sheet.figure, sheet.picture("forest", name, caption))


def differences(found: Combined) -> Drawing | None:
    """What `full` is better by than each other arm; None without such an arm."""
    rows = {
        named(found, arm): tuple(found.delta(FULL, arm, split) for split in found.tests)
        for arm in found.names
        if found.delta(FULL, arm, found.split) is not None
    }
    if not rows:
        return None
    name = heading(f"{FULL} less each arm", found)
    with canvas(height=1.1 + 0.3 * len(rows)) as sheet:
        axes = sheet.panels[0]
        intervals(axes, rows, [split_title(split) for split in found.tests], undefined=0.0)
        axes.axvline(0.0, color="#444444", linewidth=1.0)
        axes.set_xlabel("difference of AUC")
        above(sheet.figure, name)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        caption = (
            f"Right of 0: {FULL} is better. Mean over seeds, on the same patients; bars are "
            f"{100 * found.confidence:.0f} % intervals over seeds and patients."
        )
        return finish(sheet.figure, sheet.picture("differences", name, caption))


def labels(found: Combined, whole: float) -> Drawing | None:
    """AUC against the share of labels, with and without pre-training; None where no arm has fewer labels.

    Args:
        found: the figures.
        whole: the share of labels of the study itself, 0 to 1.
    """
    curves = {base: _fewer_labels(found, base, whole) for base in (FULL, BARE)}
    if all(len(shares) < 2 for shares in curves.values()):
        return None
    name = heading("AUC by labels used", found)
    shares = sorted({share for arms in curves.values() for share in arms})
    with canvas(rows=len(found.tests), height=1.0 + 2.1 * len(found.tests)) as sheet:
        for axes, split in zip(sheet.panels, found.tests, strict=True):
            for index, (base, arms) in enumerate(curves.items()):
                _curve(axes, index, base, {share: found.auc(arm, split) for share, arm in arms.items()})
            if (best := found.best_possible_auc.get(CEILING)) is not None:
                axes.axhline(best, color=BEST, linewidth=1.2, linestyle=(0, (5, 2)), label="best possible")
            axes.set_xscale("log")
            axes.set_xticks(shares, [_tick(found, share, curves.values()) for share in shares])
            axes.minorticks_off()
            axes.set_ylabel("AUC")
            axes.set_title(split_title(split), fontweight="normal")
        sheet.panels[-1].set_xlabel("labels used, per cent")
        above(sheet.figure, name)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        caption = (
            f"Mean over seeds; bars are {100 * found.confidence:.0f} % intervals over seeds and patients. "
            "All training patients' images are pre-trained on; labels are used of so many."
        )
        return finish(sheet.figure, sheet.picture("labels", name, caption))


def _tick(found: Combined, share: int, curves: Iterable[Mapping[int, str]]) -> str:
    """A share of labels, below it the number of its seeds where the study has more."""
    arms = [arms[share] for arms in curves if share in arms]
    known = [len(one.seeds) for arm in arms if (one := found.auc(arm, found.split)) is not None]
    fewest = min(known, default=len(found.seeds))
    return f"{share}" if fewest == len(found.seeds) else f"{share}\n{_seeds(fewest)}"


def intervals(
    axes: Axes, rows: Mapping[str, Sequence[Figure | None]], titles: Sequence[str], undefined: float
) -> None:
    """One row an arm, with a mark for each title; a figure that is None was not run.

    Args:
        axes: to draw on.
        rows: arm -> one figure a title.
        titles: what the marks stand for.
        undefined: where "not defined" is written.
    """
    apart = min(_APART, 0.4 / len(titles))
    for at, figures in enumerate(rows.values()):
        for index, one in enumerate(figures):
            if one is None:
                continue
            place = at + apart * (2 * index - len(titles) + 1)
            if one.value is None or one.ci is None:
                axes.text(undefined, place, " not defined", color=QUIET, fontsize=7, va="center")
                continue
            axes.plot(one.ci, [place, place], linewidth=2.0, color=colour(index), solid_capstyle="butt")
            axes.plot([one.value], [place], marker=marker(index), markersize=5, color=colour(index))
    for index, title in enumerate(titles):
        axes.plot([], [], color=colour(index), marker=marker(index), label=title)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _fewer_labels(found: Combined, base: str, whole: float) -> dict[int, str]:
    """Per cent of the labels -> arm; ``labels-10`` alone is `full` with fewer labels."""
    arms = {round(100 * whole): base} if base in found.names else {}
    for arm in found.names:
        if (match := _LABELS.fullmatch(arm)) is not None and (match[1] or FULL) == base:
            arms[int(match[2])] = arm
    return dict(sorted(arms.items()))


def _curve(axes: Axes, index: int, name: str, found: dict[int, Figure | None]) -> None:
    known = [
        (share, one.value, one.value - one.ci[0], one.ci[1] - one.value)
        for share, one in found.items()
        if one is not None and one.value is not None and one.ci is not None
    ]
    if known:
        share_k, value_k, below_k, above_k = zip(*known, strict=True)
        # Two intervals at one place would hide each other; the axis is logarithmic.
        place_k = [share * (1.0 + 0.04 * (index - 0.5)) for share in share_k]
        bars: Sequence[Sequence[float]] = [[max(0.0, b) for b in below_k], [max(0.0, a) for a in above_k]]
        axes.errorbar(
            place_k,
            value_k,
            bars,
            color=colour(index),
            marker=marker(index),
            markersize=5,
            capsize=2,
            label=name,
        )
