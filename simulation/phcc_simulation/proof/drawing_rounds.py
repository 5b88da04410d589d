"""Pictures of the training of several seeds: validation by round, and whether the pre-training collapsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.ticker import MaxNLocator

from phcc_model.contract import keys
from phcc_server.report.canvas import canvas, colour, dash
from phcc_server.report.schema import RoundSummary
from phcc_simulation.proof.claims import BARE, FULL
from phcc_simulation.proof.drawing import Drawing, above, finish, heading
from phcc_simulation.proof.monitors import EFFECTIVE, RANK, UNIFORM, WEIGHTED, mean_metric, rounds_of, series
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import Combined

Value = Callable[[RoundSummary], float | None]
Lines = list[tuple[list[int], list[float]]]
"""Rounds and values, one pair a seed."""
Panel = tuple[str, dict[str, Lines]]
"""What stands beside the axis, and the lines by what the legend calls them."""


def curves(found: Combined, runs: Sequence[SeedRun]) -> Drawing | None:
    """Validation loss and AUC by round, one line a seed, with and without pre-training; None without rounds."""
    arms = (FULL, BARE)
    panels: list[Panel] = [
        ("pre-training\nloss", {arm: _lines(runs, arm, keys.PRETRAIN, _loss) for arm in arms}),
        ("classifier\nloss", {arm: _lines(runs, arm, keys.FINETUNE, _loss) for arm in arms}),
        ("classifier\nAUC", {arm: _lines(runs, arm, keys.FINETUNE, _auc) for arm in arms}),
    ]
    caption = (
        "One line a seed: the aggregated model on all training centres' validation patients. The round that is "
        "tested is chosen on these."
    )
    return _drawn("curves", heading("Validation by round", found), caption, panels)


def monitors(found: Combined, runs: Sequence[SeedRun]) -> Drawing | None:
    """Rank, redundancy and effective sample size over the pre-training of `full`; None without any."""

    def of(key: str) -> Lines:
        return _lines(runs, FULL, keys.PRETRAIN, lambda record: mean_metric(record, key))

    panels: list[Panel] = [
        ("effective rank", {"sample weights": of(RANK)}),
        ("redundancy", {"sample weights": of(WEIGHTED), "uniform weights": of(UNIFORM)}),
        ("effective\nsample size", {"sample weights": of(EFFECTIVE)}),
    ]
    caption = (
        "One line a seed, mean over the training centres. Effective rank: independent directions among the "
        "features; a fall towards 1 is a collapse. Redundancy: covariance between features, on draws held out "
        "from the weighting. Effective sample size: share of the batch that the weights leave in effect; 1 while "
        "weights are still uniform."
    )
    return _drawn("monitors", heading(f"Pre-training of {FULL}", found), caption, panels, from_zero=True)


def _lines(runs: Sequence[SeedRun], arm: str, stage: str, value: Value) -> Lines:
    found = (series(rounds_of(run, arm, stage), value) for run in runs)
    return [one for one in found if one[0]]


def _drawn(
    file: str, name: str, caption: str, panels: Sequence[Panel], *, from_zero: bool = False
) -> Drawing | None:
    shown = [(label, lines) for label, lines in panels if any(lines.values())]
    if not shown:
        return None
    with canvas(rows=len(shown), height=1.2 + 1.7 * len(shown)) as sheet:
        legend: dict[str, Artist] = {}
        for axes, (label, named) in zip(sheet.panels, shown, strict=True):
            for index, (what, lines) in enumerate(named.items()):
                for rounds, values in lines:
                    (drawn,) = axes.plot(
                        rounds,
                        values,
                        color=colour(index),
                        linestyle=dash(index),
                        linewidth=1.1,
                        marker="." if len(rounds) == 1 else None,  # a single round has no line to be seen
                    )
                    legend.setdefault(what, drawn)
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if from_zero:
                axes.set_ylim(bottom=0.0)
        above(sheet.figure, name)
        sheet.panels[-1].set_xlabel("round")
        sheet.figure.legend(list(legend.values()), list(legend), loc="outside lower left", ncols=2)
        return finish(sheet.figure, sheet.picture(file, name, caption))


def _loss(record: RoundSummary) -> float | None:
    return record.validation.loss if record.validation else None


def _auc(record: RoundSummary) -> float | None:
    return record.validation.auc if record.validation else None
