"""What the rounds of several seeds tell: whether the pre-training collapsed, and what the sample weights did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from phcc_model.arms import plan_arm
from phcc_model.contract import keys
from phcc_model.errors import ConfigError
from phcc_server.report.schema import TRAIN, RoundSummary, Summary
from phcc_simulation.proof.runs import SeedRun

RANK, EFFECTIVE = "effective_rank", "effective_sample_size"
WEIGHTED, UNIFORM = "decorrelation_weighted", "decorrelation_uniform"
_WEIGHTS_AT_WORK = 1.0 - 1e-9
"""Below this share of the batch in effect, some weight differs from uniform."""


def rounds_of(run: SeedRun, arm: str, stage: str) -> list[RoundSummary]:
    """An arm's rounds of a stage, in order; its pre-training may have been done by another arm that shares it."""
    records = [r for r in run.summary.rounds if (r.arm, r.stage) == (arm, stage)]
    if not records and stage == keys.PRETRAIN and (key := _pretrain_key(run, arm)) is not None:
        done = dict.fromkeys(r.arm for r in run.summary.rounds if r.stage == stage)
        same = next((other for other in done if _pretrain_key(run, other) == key), None)
        records = [r for r in run.summary.rounds if (r.arm, r.stage) == (same, stage)]
    return sorted(records, key=lambda record: record.round)


def mean_metric(record: RoundSummary, key: str) -> float | None:
    """A measure of one round, mean over its sites."""
    values = [v for site in record.sites.values() if (v := site.metrics.get(key)) is not None]
    return sum(values) / len(values) if values else None


def weighting_of(run: SeedRun, arm: str) -> tuple[float, float, float] | None:
    """What the weights did, mean over the rounds in which they were not uniform; None where there is none.

    Returns:
        Redundancy under the weights, under uniform ones, and the share of the batch that is left in effect.
    """
    found = [
        (weighted, uniform, effective)
        for record in rounds_of(run, arm, keys.PRETRAIN)
        if (weighted := mean_metric(record, WEIGHTED)) is not None
        and (uniform := mean_metric(record, UNIFORM)) is not None
        and (effective := mean_metric(record, EFFECTIVE)) is not None
        and effective < _WEIGHTS_AT_WORK
    ]
    if not found:
        return None
    weighted_r, uniform_r, effective_r = zip(*found, strict=True)
    return _mean(weighted_r), _mean(uniform_r), _mean(effective_r)


def series(
    records: Sequence[RoundSummary], value: Callable[[RoundSummary], float | None]
) -> tuple[list[int], list[float]]:
    """A measure by round, counted from 1; rounds without it are left out."""
    found = [(record.round + 1, value(record)) for record in records]
    return [at for at, v in found if v is not None], [v for _, v in found if v is not None]


def training_centres_of(summary: Summary) -> tuple[str, ...]:
    """The centres that were trained on, sorted."""
    return tuple(sorted({count.centre for count in summary.data.split if count.split == TRAIN}))


def _pretrain_key(run: SeedRun, arm: str) -> str | None:
    try:
        return plan_arm(arm, run.study, training_centres_of(run.summary)).pretrain_key
    except ConfigError:  # an arm of another version of this software
        return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
