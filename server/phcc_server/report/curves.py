"""Figures of the training: losses by round and site, and what sample weighting did to the features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from phcc_server.report.canvas import COLOURS, QUIET, Picture, canvas, colour, dash
from phcc_server.report.schema import RoundSummary, Summary

Series = tuple[list[int], list[float]]

_PARTIAL, _FAILED = "#F3DFA2", "#F2B8A0"
_STAGES = {"pretrain": "stage 1, pre-training", "finetune": "stage 2, classifier"}
_WEIGHTING = (
    (
        "effective_sample_size",
        "effective\nsample size",
        "share of the batch that the sample weights leave in effect",
    ),
    (
        "effective_rank",
        "effective rank",
        "independent directions among the features; a fall towards 1 is a collapse",
    ),
)


def training_pictures(summary: Summary) -> list[Picture]:
    """Loss, and AUC where there is one, by round, for each arm and stage."""
    return [
        _training(arm, stage, [r for r in summary.rounds if (r.arm, r.stage) == (arm, stage)])
        for arm, stage in dict.fromkeys((record.arm, record.stage) for record in summary.rounds)
    ]


def weighting_pictures(summary: Summary) -> list[Picture]:
    """Effective sample size and redundancy over the pre-training, for each arm that has them."""
    pictures = []
    for arm in dict.fromkeys(record.arm for record in summary.rounds):
        records = [r for r in summary.rounds if r.arm == arm and _has(r, "effective_sample_size")]
        if records:
            pictures.append(_weighting(arm, records))
    return pictures


def stage_title(stage: str) -> str:
    """A stage as a heading."""
    return _STAGES.get(stage, stage)


def _training(arm: str, stage: str, records: Sequence[RoundSummary]) -> Picture:
    with_auc = any(r.validation and r.validation.auc is not None for r in records)
    with canvas(rows=2 if with_auc else 1, height=4.6 if with_auc else 2.9) as sheet:
        _sites(sheet.panels[0], records, "loss")
        _whole(sheet.panels[0], records, lambda r: r.validation.loss if r.validation else None)
        sheet.panels[0].set_ylabel("loss")
        if with_auc:
            _sites(sheet.panels[1], records, "auc_training")
            _whole(sheet.panels[1], records, lambda r: r.validation.auc if r.validation else None)
            sheet.panels[1].set_ylabel("AUC")
        _rounds(sheet.panels, records)
        handles, labels = sheet.panels[0].get_legend_handles_labels()
        if handles:
            sheet.figure.legend(handles, labels, loc="outside upper left", ncols=2)
        caption = (
            "Thin: each site's training patients. Black: the aggregated model on all sites' validation "
            "patients. The vertical line is the best round on validation."
        )
        if any(record.status != "COMPLETE" for record in records):
            caption += " Shaded rounds are PARTIAL (yellow) or FAILED (red)."
        return sheet.picture(f"training-{arm}-{stage}", f"{arm}: {stage_title(stage)}", caption, arm)


def _weighting(arm: str, records: Sequence[RoundSummary]) -> Picture:
    names = [entry for entry in _WEIGHTING if any(_has(record, entry[0]) for record in records)]
    redundancy = any(_has(record, "decorrelation_weighted") for record in records)
    with canvas(rows=len(names) + redundancy, height=0.9 + 1.75 * (len(names) + redundancy)) as sheet:
        caption = "Thin: each site."
        for axes, (key, label, meaning) in zip(sheet.panels, names, strict=False):
            _sites(axes, records, key)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0.0)
            plain = label.replace("\n", " ")
            caption += f" {plain[0].upper()}{plain[1:]}: {meaning}."
        if redundancy:
            axes = sheet.panels[-1]
            _whole(axes, records, lambda r: _mean(r, "decorrelation_weighted"), "sample weights")
            uniform = _series(records, lambda r: _mean(r, "decorrelation_uniform"))
            lone = "." if len(uniform[0]) == 1 else None  # a single round has no line to be seen
            axes.plot(*uniform, color=QUIET, linestyle=(0, (4, 2)), marker=lone, label="uniform weights")
            axes.set_ylabel("redundancy")
            axes.set_ylim(bottom=0.0)
            axes.legend(loc="best")
            caption += (
                " Redundancy: covariance between features on draws held out from the weighting, mean over "
                "the sites; the weights earn their keep where they lie below uniform ones."
            )
        _rounds(sheet.panels, records)
        handles, labels = sheet.panels[0].get_legend_handles_labels()
        if handles:
            sheet.figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return sheet.picture(f"weighting-{arm}", f"{arm}: sample weights and features", caption, arm)


def _sites(axes: Axes, records: Sequence[RoundSummary], key: str) -> None:
    names = list(dict.fromkeys(name for record in records for name in record.sites))
    for index, name in enumerate(names):
        rounds, values = _series(records, partial(_metric, site=name, key=key))
        if rounds:
            many = len(names) > len(COLOURS)
            axes.plot(
                rounds,
                values,
                color=QUIET if many else colour(index),
                linestyle="solid" if many else dash(index),
                linewidth=1.1,
                marker="." if len(rounds) == 1 else None,
                label=None if many else name,
            )


def _whole(
    axes: Axes,
    records: Sequence[RoundSummary],
    value: Callable[[RoundSummary], float | None],
    label: str = "validation",
) -> None:
    rounds, values = _series(records, value)
    if rounds:
        axes.plot(rounds, values, color="black", linewidth=2.0, marker="o", markersize=3, label=label)


def _rounds(panels: Sequence[Axes], records: Sequence[RoundSummary]) -> None:
    """The axis of rounds, counted from 1 for readers, with what went wrong behind the curves."""
    best = [record.round for record in records if record.best]
    for axes in panels:
        for record in records:
            if record.status != "COMPLETE":
                shade = _PARTIAL if record.status == "PARTIAL" else _FAILED
                axes.axvspan(record.round + 0.5, record.round + 1.5, color=shade, linewidth=0, zorder=0)
        if best:
            axes.axvline(best[-1] + 1, color=QUIET, linewidth=1.0, linestyle=(0, (2, 2)))
        axes.set_xlim(0.5, max(record.round for record in records) + 1.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.tick_params(axis="x", labelbottom=axes is panels[-1])
    panels[-1].set_xlabel("round")


def _series(records: Sequence[RoundSummary], value: Callable[[RoundSummary], float | None]) -> Series:
    found = [(record.round + 1, value(record)) for record in records]
    return [at for at, v in found if v is not None], [v for _, v in found if v is not None]


def _metric(record: RoundSummary, site: str, key: str) -> float | None:
    return record.sites[site].metrics.get(key) if site in record.sites else None


def _has(record: RoundSummary, key: str) -> bool:
    return any(site.metrics.get(key) is not None for site in record.sites.values())


def _mean(record: RoundSummary, key: str) -> float | None:
    values = [v for site in record.sites.values() if (v := site.metrics.get(key)) is not None]
    return sum(values) / len(values) if values else None
