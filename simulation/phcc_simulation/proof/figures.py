"""Figures over seeds: an arm's mean AUC, and two arms' mean difference, by the two-stage bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phcc_model.errors import DataError
from phcc_model.seeds import generator
from phcc_model.statistics import RunScores, over_runs
from phcc_server.report.evaluation import Columns
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import Figure

REPLICATES = 2000
BOOTSTRAP = (
    "two-stage bootstrap: seeds are drawn with replacement, then within each its patients with all their cases, "
    "by class; percentile interval"
)
_SEED = 0
"""Of the draws: fixed, so that the same runs give the same bytes."""


@dataclass(frozen=True)
class Draws:
    """How sure one wants to be: replicates of the bootstrap, coverage of the interval."""

    replicates: int
    confidence: float


def auc_over(runs: Sequence[SeedRun], arm: str, split: str, draws: Draws) -> Figure:
    """The mean AUC of an arm over the seeds that ran it."""
    parts = {
        run.seed: (Columns.of(list(run.of(arm, split).values())), None) for run in runs if arm in run.arms
    }
    return _figure(parts, draws, (split, arm))


def delta_over(runs: Sequence[SeedRun], a: str, b: str, split: str, draws: Draws) -> Figure:
    """The mean of AUC `a` less AUC `b`, over the seeds that ran both, on the cases that both scored.

    Raises:
        DataError: a case has two labels.
    """
    parts: dict[int, tuple[Columns, Columns | None]] = {}
    for run in runs:
        if a in run.arms and b in run.arms:
            of_a, of_b = run.of(a, split), run.of(b, split)
            both = [key for key in of_a if key in of_b]
            if differing := [key for key in both if of_a[key].label != of_b[key].label]:
                raise DataError(
                    f"has another label in arm {b!r} than in {a!r}",
                    where=f"{run.folder.name}, case {differing[0][1]}",
                    remedy="Run this seed again",
                )
            parts[run.seed] = Columns.of([of_a[key] for key in both]), Columns.of([of_b[key] for key in both])
    return _figure(parts, draws, (split, a, b))


def _figure(
    parts: Mapping[int, tuple[Columns, Columns | None]], draws: Draws, name: tuple[str, ...]
) -> Figure:
    """The figure of one score or of two for each seed's cases."""
    seeds = tuple(parts)
    n = sum(len(one.label) for one, _ in parts.values())
    n_pos = sum(int(one.label.sum()) for one, _ in parts.values())
    scores = [
        RunScores(one.label, one.score, None if other is None else other.score, one.patient.tolist())
        for one, other in parts.values()
    ]
    try:
        found = over_runs(
            scores,
            generator=generator(_SEED, "over-seeds", *name),
            replicates=draws.replicates,
            confidence=draws.confidence,
        )
    except DataError as error:
        return Figure(value=None, seeds=seeds, n=n, n_pos=n_pos, reason=error.what)
    return Figure(
        value=found.mean,
        ci=(found.low, found.high),
        seeds=seeds,
        each=found.each,
        sd=found.sd,
        share_above_zero=found.share_above_zero,
        n=n,
        n_pos=n_pos,
    )
