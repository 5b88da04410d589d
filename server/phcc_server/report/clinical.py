"""Figures of what a score is good for: calibration, precision, decision curves, centres, subgroups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from phcc_server.report.breakdown import CENTRE, CENTRES
from phcc_server.report.canvas import QUIET, Picture, canvas, colour, dash, marker
from phcc_server.report.figures import MOST_ARMS, dropped
from phcc_server.report.schema import (
    TEST_SPLITS,
    VALIDATION,
    ArmResult,
    GroupResult,
    Limits,
    PooledResult,
    Summary,
)
from phcc_server.report.wording import group, split_title

_LOWEST = 0.05
"""Net benefit below minus this is not drawn: what is worse than useless need not be seen in full."""


def clinical_pictures(summary: Summary) -> list[Picture]:
    """Calibration, precision-recall and decision curve of both tests; calibration of the validation too."""
    drawings: tuple[Callable[[Summary, str], Picture | None], ...] = (_calibration, _precision, _decision)
    on_validation = _calibration(summary, VALIDATION)
    pictures = [p for draw in drawings for split in TEST_SPLITS if (p := draw(summary, split)) is not None]
    return pictures if on_validation is None else [*pictures, on_validation]


def breakdown_pictures(summary: Summary) -> list[Picture]:
    """The centres of each arm with their mean."""
    widest = [one for one in summary.pooled if one.split == _widest(summary, one.arm)]
    return [_centres(summary, one) for one in widest[:MOST_ARMS]]


def subgroup_pictures(summary: Summary) -> list[Picture]:
    """The parts of the reference arm's test patients, but for the centres, which have figures of their own."""
    traits = [one for one in summary.subgroups if one.trait != CENTRE]
    return [_subgroups(summary, traits)] if traits else []


def _widest(summary: Summary, arm: str) -> str:
    """All centres where there are external ones, otherwise the internal ones."""
    splits = [one.split for one in summary.pooled if one.arm == arm]
    return CENTRES if CENTRES in splits else splits[0]


def _known(
    summary: Summary, split: str, has: Callable[[ArmResult], bool]
) -> list[tuple[int, str, ArmResult]]:
    """Arms that have what is to be drawn: their place, name and figures."""
    return [
        (index, arm, results[split])
        for index, (arm, results) in enumerate(summary.arms.items())
        if split in results and has(results[split])
    ]


def _calibration(summary: Summary, split: str) -> Picture | None:
    known = _known(summary, split, lambda result: result.brier is not None and result.n_pos > 0)
    if not known:
        return None
    with canvas(height=4.4) as sheet:
        axes = sheet.panels[0]
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        for index, arm, result in known[:MOST_ARMS]:
            points = [point for point in result.calibration if point.observed is not None]
            x, y = [point.predicted for point in points], [point.observed or 0.0 for point in points]
            axes.plot(x, y, color=colour(index), linestyle=dash(index), marker=marker(index), label=arm)
            if index == known[0][0]:
                _whiskers(axes, x, [point.ci for point in points], colour(index))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="predicted probability")
        axes.set_ylabel("share of positives")
        axes.set_aspect("equal")
        sheet.legend(axes, "upper left")
        caption = (
            f"Cases in the order of their scores, as many to a point as ties allow; bars ({known[0][1]} only) "
            "are exact intervals. On the dotted line seven in ten are positive where 0.7 was said; below it the "
            "scores are too high."
        )
        name = f"calibration-{split}"
        return sheet.picture(name, f"Calibration, {split_title(split)}", caption + _more(known))


def _whiskers(axes: Axes, x: Sequence[float], intervals: Sequence[Limits], shade: str) -> None:
    for at, interval in zip(x, intervals, strict=True):
        if interval is not None:
            axes.plot([at, at], interval, color=shade, linewidth=1.0, alpha=0.7)


def _precision(summary: Summary, split: str) -> Picture | None:
    known = _known(summary, split, lambda result: bool(result.precision_recall))
    if not known:
        return None
    with canvas(height=3.6) as sheet:
        axes = sheet.panels[0]
        for index, arm, result in known[:MOST_ARMS]:
            recall, precision = zip(*result.precision_recall, strict=True)
            label = f"{result.average_precision:.2f}  {arm}"
            # A step: between two corners there is no threshold, and a straight line would promise one.
            axes.step(recall, precision, where="pre", color=colour(index), linestyle=dash(index), label=label)
        share = known[0][2].n_pos / known[0][2].n
        axes.axhline(share, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), xlabel="recall (sensitivity)")
        axes.set_ylabel("precision (PPV)")
        sheet.legend(axes, "lower left", "average precision")
        caption = f"The dotted line, {share:.2f}, is the share of positives: the precision of a coin."
        name = f"precision-recall-{split}"
        return sheet.picture(name, f"Precision and recall, {split_title(split)}", caption + _more(known))


def _decision(summary: Summary, split: str) -> Picture | None:
    known = _known(summary, split, lambda result: bool(result.decision))
    if not known:
        return None
    with canvas(height=3.6) as sheet:
        axes = sheet.panels[0]
        cut = [point.threshold for point in known[0][2].decision]
        everybody = [point.treat_all for point in known[0][2].decision]
        axes.plot(cut, everybody, color=QUIET, linewidth=1.2, label="all taken for positive")
        axes.axhline(0.0, color="black", linewidth=1.2, label="none taken for positive")
        for index, arm, result in known[:MOST_ARMS]:
            axes.plot(
                [point.threshold for point in result.decision],
                [point.net_benefit for point in result.decision],
                color=colour(index),
                linestyle=dash(index),
                label=arm,
            )
        share = known[0][2].n_pos / known[0][2].n
        axes.set(
            xlim=(0.0, 1.0), ylim=(-_LOWEST, 1.15 * share), xlabel="probability from which one would act"
        )
        axes.set_ylabel("net benefit")
        sheet.legend(axes, "upper right")
        caption = (
            "True positives per patient, less the false ones at the price that the threshold puts on them. "
            "An arm helps where it lies above both the grey and the black line (Vickers & Elkin 2006)."
        )
        name = f"decision-{split}"
        return sheet.picture(name, f"Decision curve, {split_title(split)}", caption + _more(known))


def _centres(summary: Summary, pooled: PooledResult) -> Picture:
    results = summary.arms[pooled.arm]
    centres = [name for name in summary.centres if results[name].n]
    with canvas(height=1.1 + 0.28 * (len(centres) + 2)) as sheet:
        axes = sheet.panels[0]
        lowest = 0.45
        for at, centre in enumerate(centres):
            interval = results[centre].ci
            _bar(axes, at, results[centre].auc, interval, "#444444", "s")
            lowest = min(lowest, interval[0] if interval else lowest)
        mean = len(centres)
        _bar(axes, mean, pooled.auc, pooled.ci, colour(0), "D")
        rows = [*(f"{name} ({results[name].n})" for name in centres), "mean of centres"]
        if pooled.prediction is not None:
            axes.plot(
                pooled.prediction, [mean + 1] * 2, color=colour(0), linewidth=1.2, linestyle=(0, (3, 2))
            )
            lowest = min(lowest, pooled.prediction[0])
            rows.append("another centre")
        axes.axvline(0.5, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(rows)), rows)
        axes.set(xlim=(max(0.0, lowest - 0.03), 1.02), ylim=(len(rows) - 0.4, -0.6), xlabel="AUC")
        axes.grid(axis="y", visible=False)
        caption = (
            "Each centre's own AUC, in brackets its cases; the mean by random-effects meta-analysis; dashed, "
            "where one more such centre is expected."
        )
        if pooled.i2 is not None:
            caption += f" I² {100 * pooled.i2:.0f} %: that much of the spread is not explained by chance."
        said = "".join(f" {text[0].upper()}{text[1:]}." for text in pooled.warnings)
        title = f"{pooled.arm}: centre by centre"
        return sheet.picture(
            f"centres-{pooled.arm}",
            title,
            caption + said,
        )


def _bar(axes: Axes, at: int, value: float | None, interval: Limits, shade: str, shape: str) -> None:
    if value is None or interval is None:
        _say(axes, 0.505, at, "not defined")
        return
    axes.plot(interval, [at, at], color=shade, linewidth=2.0, solid_capstyle="butt")
    axes.plot([value], [at], color=shade, marker=shape, markersize=6)


def _say(axes: Axes, x: float, at: int, text: str) -> None:
    axes.text(x, at, text, color=QUIET, fontsize=8, style="italic", va="center")


def _subgroups(summary: Summary, groups: Sequence[GroupResult]) -> Picture:
    traits = list(dict.fromkeys(one.trait for one in groups))
    lines: list[tuple[str, GroupResult | None]] = []
    for trait in traits:
        lines.append((trait, None))
        lines += [(f"{group(one.group)} ({one.n_pos}/{one.n})", one) for one in groups if one.trait == trait]
    with canvas(height=0.9 + 0.26 * len(lines)) as sheet:
        axes = sheet.panels[0]
        for at, (_, one) in enumerate(lines):
            if one is not None and one.too_small is None:
                _bar(axes, at, one.auc, one.ci, colour(0), "o")
            elif one is not None:
                axes.text(
                    0.02,
                    at,
                    "too small to say anything",
                    color=QUIET,
                    fontsize=8,
                    style="italic",
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
                )
        axes.axvline(0.5, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(lines)), [text for text, _ in lines])
        for tick, (_, one) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if one is None else "normal")
        axes.set(xlim=(0.0, 1.02), ylim=(len(lines) - 0.4, -0.6), xlabel="AUC")
        axes.grid(axis="y", visible=False)
        arm = groups[0].arm
        caption = (
            "All test patients, in brackets positives of cases. Intervals that overlap do not show that "
            f"groups are alike, and the {100 * summary.confidence:.0f} % hold for each group by itself."
        )
        return sheet.picture("subgroups", f"{arm}: parts of the test patients", caption)


def _more(known: Sequence[tuple[int, str, ArmResult]]) -> str:
    return dropped([arm for _, arm, _ in known])
