"""Figures of the results: ROC curves, AUCs with intervals, scores by class, and who stands in which split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from phcc_model.statistics import roc_curve
from phcc_server.report.canvas import (
    NEGATIVE,
    POSITIVE,
    QUIET,
    UNKNOWN,
    Picture,
    canvas,
    colour,
    dash,
    marker,
)
from phcc_server.report.schema import (
    INTERNAL,
    TEST_SPLITS,
    ArmResult,
    SplitCount,
    Summary,
)
from phcc_server.report.summary import ScoredCase, centre_split
from phcc_server.report.wording import split_title

MOST_ARMS = 7
"""Arms drawn in one set of curves, as many as there are colours; the forest plot has them all."""

_MOST_ROWS = 36
_BINS = 20


def roc_pictures(summary: Summary, scored: Sequence[ScoredCase]) -> list[Picture]:
    """ROC curves, internal and external, with each arm's frozen operating point."""
    pictures = []
    for split in TEST_SPLITS:
        known = [arm for arm, results in summary.arms.items() if results[split].auc is not None]
        if not known:
            continue
        with canvas(height=4.0) as sheet:
            axes = sheet.panels[0]
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
            for arm in known[:MOST_ARMS]:
                _roc(axes, list(summary.arms).index(arm), arm, summary.arms[arm][split], scored, split)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="1 - specificity", ylabel="sensitivity")
            axes.set_aspect("equal")
            sheet.legend(axes, "lower right", "AUC")
            caption = (
                "Each corner is a threshold; a ring is the one frozen before these patients were scored."
            )
            pictures.append(
                sheet.picture(f"roc-{split}", f"ROC curves, {split_title(split)}", caption + dropped(known))
            )
    return pictures


def _roc(
    axes: Axes, index: int, arm: str, result: ArmResult, scored: Sequence[ScoredCase], split: str
) -> None:
    rows = [row for row in scored if row.arm == arm and row.scored and split in _splits_of(row)]
    curve = roc_curve([row.label for row in rows], [row.score or 0.0 for row in rows])
    if curve is None:
        return
    label = f"{result.auc:.2f}  {arm}"
    axes.plot(
        curve.false_positive_rate_k,
        curve.true_positive_rate_k,
        color=colour(index),
        linestyle=dash(index),
        label=label,
    )
    if result.sensitivity is not None and result.specificity is not None:
        axes.plot(
            [1.0 - result.specificity],
            [result.sensitivity],
            marker="o",
            markersize=7,
            markerfacecolor="white",
            markeredgecolor=colour(index),
            markeredgewidth=1.6,
        )


def forest_pictures(summary: Summary) -> list[Picture]:
    """Every AUC with its interval, split by split and arm by arm; the best possible AUC as a line."""
    blocks: list[list[str]] = [[]]
    for split in summary.splits:
        if blocks[-1] and (len(blocks[-1]) + 1) * (len(summary.arms) + 1) > _MOST_ROWS:
            blocks.append([])
        blocks[-1].append(split)
    return [
        _forest(summary, splits, f"auc-{number}", "" if len(blocks) == 1 else f" ({number} of {len(blocks)})")
        for number, splits in enumerate(blocks, 1)
        if summary.arms
    ]


def _forest(summary: Summary, splits: Sequence[str], name: str, part: str) -> Picture:
    rows = len(splits) * (len(summary.arms) + 1)
    with canvas(height=0.9 + 0.22 * rows) as sheet:
        axes = sheet.panels[0]
        labels: list[tuple[int, str, bool]] = []
        lowest = 0.45
        for place, split in enumerate(splits):
            top = place * (len(summary.arms) + 1)
            labels.append((top, split_title(split), True))
            for index, (arm, results) in enumerate(summary.arms.items()):
                result = results[split]
                _interval(axes, top + 1 + index, index, result)
                lowest = min(lowest, result.ci[0] if result.ci else lowest)
                labels.append((top + 1 + index, arm, False))
        axes.axvline(0.5, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        caption = f"Bars are {100 * summary.confidence:.0f} % intervals; 0.5 is a coin."
        if summary.ceiling is not None:
            what, best = summary.ceiling
            axes.axvline(best, color="#009E73", linewidth=1.2, linestyle=(0, (5, 2)))
            caption += f" Green: the best possible AUC, {best:.2f} ({what}), as the data were made."
        axes.set(xlim=(max(0.0, lowest - 0.03), 1.02), ylim=(rows - 0.4, -0.6), xlabel="AUC")
        axes.set_yticks([at for at, _, _ in labels], [text for _, text, _ in labels])
        for tick, (_, _, heading) in zip(axes.get_yticklabels(), labels, strict=True):
            tick.set_fontweight("bold" if heading else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return sheet.picture(name, f"AUC by split and arm{part}", caption)


def _interval(axes: Axes, at: int, index: int, result: ArmResult) -> None:
    if result.auc is None or result.ci is None:
        axes.text(0.505, at, "not defined", color=QUIET, fontsize=8, style="italic", va="center")
        return
    axes.plot(result.ci, [at, at], color=colour(index), linewidth=2.0, solid_capstyle="butt")
    axes.plot([result.auc], [at], color=colour(index), marker=marker(index), markersize=6)


def score_pictures(summary: Summary, scored: Sequence[ScoredCase]) -> list[Picture]:
    """How the scores of the two classes are spread, arm by arm, with the frozen threshold."""
    pictures = []
    for split in TEST_SPLITS:
        arms = [arm for arm, results in summary.arms.items() if results[split].n]
        if not arms:
            continue
        shown = arms[:MOST_ARMS]
        with canvas(rows=len(shown), height=0.7 + 0.85 * len(shown)) as sheet:
            for axes, arm in zip(sheet.panels, shown, strict=True):
                rows = [row for row in scored if row.arm == arm and row.scored and split in _splits_of(row)]
                _scores(axes, arm, rows, summary.arms[arm][split])
                axes.tick_params(axis="x", labelbottom=axes is sheet.panels[-1])
            sheet.panels[-1].set_xlabel("score")
            handles = [
                Patch(color=POSITIVE, label="positive, upwards"),
                Patch(color=NEGATIVE, label="negative, downwards"),
            ]
            sheet.figure.legend(handles=handles, loc="outside upper left", ncols=2)
            caption = (
                "Share of each class by score. The line is the frozen threshold: positive from there on."
            )
            pictures.append(
                sheet.picture(f"scores-{split}", f"Scores, {split_title(split)}", caption + dropped(arms))
            )
    return pictures


def _scores(axes: Axes, arm: str, rows: Sequence[ScoredCase], result: ArmResult) -> None:
    score = np.array([row.score for row in rows], dtype=np.float64)
    positive = np.array([row.label == 1 for row in rows])
    edges = np.linspace(min(0.0, score.min()), max(1.0, score.max()), _BINS + 1)
    for kind, sign, shade in ((positive, 1.0, POSITIVE), (~positive, -1.0, NEGATIVE)):
        share = np.histogram(score[kind], edges)[0] / max(1, int(kind.sum()))
        axes.bar(edges[:-1], sign * share, np.diff(edges), align="edge", color=shade, linewidth=0)
    axes.axhline(0.0, color="#444444", linewidth=0.8)
    if result.threshold is not None:
        axes.axvline(result.threshold, color="black", linewidth=1.2)
    axes.set_title(arm, fontsize=8.5, fontweight="normal", pad=2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.01)


def split_picture(summary: Summary) -> Picture | None:
    """Patients by class, centre and split; None where the data do not say."""
    counts = summary.data.split
    if not counts:
        return None
    with canvas(height=0.9 + 0.27 * len(counts)) as sheet:
        axes = sheet.panels[0]
        most = max(1, *(count.patients for count in counts))
        for at, count in enumerate(counts):
            _patients(axes, at, count, most)
        axes.set_yticks(range(len(counts)), [f"{count.centre} · {count.split}" for count in counts])
        axes.set(xlim=(0, 1.03 * most), ylim=(len(counts) - 0.4, -0.6), xlabel="patients")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        handles = [Patch(color=POSITIVE, label="positive"), Patch(color=NEGATIVE, label="negative")]
        if any(count.unknown for count in counts):
            handles.append(Patch(color=UNKNOWN, label="unknown"))
        sheet.figure.legend(handles=handles, loc="outside upper left", ncols=3)
        caption = (
            "Patients by label, in the order of the legend. Each stands in one place only; "
            "external ones are never trained on."
        )
        return sheet.picture("split", "Who stands where", caption)


def _patients(axes: Axes, at: int, count: SplitCount, most: int) -> None:
    """One stacked bar; its numbers stand inside where all of them fit, otherwise behind it."""
    parts = [(count.positives, POSITIVE), (count.negatives, NEGATIVE), (count.unknown, UNKNOWN)]
    parts = [(number, shade) for number, shade in parts if number]
    inside = all(number > 0.06 * most for number, _ in parts)
    left = 0
    for number, shade in parts:
        axes.barh(at, number, left=left, color=shade, height=0.74, edgecolor="white", linewidth=0.8)
        if inside:
            ink = "black" if shade == UNKNOWN else "white"
            middle = left + number / 2
            axes.text(middle, at, str(number), color=ink, ha="center", va="center", fontsize=8)
        left += number
    if not inside or not parts:
        text = " + ".join(str(number) for number, _ in parts) or "none"
        # A long bar leaves no room behind it.
        late = left > 0.75 * most
        place = (0.99 * left, "right", "white") if late else (left + 0.01 * most, "left", "black")
        axes.text(place[0], at, text, color=place[2], ha=place[1], va="center", fontsize=8)


def _splits_of(row: ScoredCase) -> tuple[str, ...]:
    split = INTERNAL if row.split == "test" else row.split
    return (split, centre_split(row.centre)) if split in TEST_SPLITS else (split,)


def dropped(arms: Sequence[str]) -> str:
    """How many arms a figure leaves out, as the end of its caption."""
    return f" {len(arms) - MOST_ARMS} more arms are not drawn." if len(arms) > MOST_ARMS else ""
