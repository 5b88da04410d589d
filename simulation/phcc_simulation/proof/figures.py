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
CROSSED = (
    "bootstrap of seeds and patients: seeds are drawn with replacement, and patients, who are the same in every "
    "seed, once for all of them with all their cases, by class; percentile interval"
)
_SEED = 0
"""Of the draws: fixed, so that the same runs give the same bytes."""


@dataclass(frozen=True)
class Draws:
    """How sure one wants to be.

    Attributes:
        replicates: of the bootstrap.
        confidence: coverage of the interval.
        same_patients: whether a patient's name means one person in all seeds: synthetic patients are made anew.
    """

    replicates: int
    confidence: float
    same_patients: bool = False


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


def shares_patients(runs: Sequence[SeedRun], split: str) -> bool:
    """Whether every arm of a split is judged on the same patients in all seeds that ran it, two at least."""
    found = []
    for arm in dict.fromkeys(arm for run in runs for arm in run.arms):
        columns = [Columns.of(list(run.of(arm, split).values())) for run in runs if arm in run.arms]
        found.append(same_people(columns) is not None)
    return bool(found) and all(found)


def same_people(seeds: Sequence[Columns]) -> list[list[str]] | None:
    """The patient of each case, where all seeds have the same patients with the same labels; None where not.

    A virtual centre is dealt anew by each seed: patients are known without it, if that tells them apart.
    """
    for without_centre in (False, True):
        names = [[_bare(name) if without_centre else str(name) for name in one.patient] for one in seeds]
        told_apart = all(
            len(set(bare)) == len(set(one.patient.tolist())) for bare, one in zip(names, seeds, strict=True)
        )
        cases = {
            tuple(sorted(zip(bare, one.label.tolist(), strict=True)))
            for bare, one in zip(names, seeds, strict=True)
        }
        if told_apart and len(cases) == 1 and len(seeds) > 1:
            return names
    return None


def _bare(name: str) -> str:
    return name.partition("\x1f")[2]


def _figure(
    parts: Mapping[int, tuple[Columns, Columns | None]], draws: Draws, name: tuple[str, ...]
) -> Figure:
    """The figure of one score or of two for each seed's cases."""
    seeds = tuple(parts)
    n = sum(len(one.label) for one, _ in parts.values())
    n_pos = sum(int(one.label.sum()) for one, _ in parts.values())
    people = same_people([one for one, _ in parts.values()]) if draws.same_patients else None
    names = people or [one.patient.tolist() for one, _ in parts.values()]
    scores = [
        RunScores(one.label, one.score, None if other is None else other.score, patients)
        for (one, other), patients in zip(parts.values(), names, strict=True)
    ]
    try:
        found = over_runs(
            scores,
            generator=generator(_SEED, "over-seeds", *name),
            replicates=draws.replicates,
            confidence=draws.confidence,
            same_patients=people is not None,
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
