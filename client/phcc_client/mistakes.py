"""The patients whom a study's model was most sure about, and wrong: for their own hospital only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phcc_client.kept_scores import KeptScore
from phcc_model.errors import ConfigError
from phcc_model.statistics import AucEstimate, auc_interval

HALF = 0.5
"""The threshold where nobody named one: an order carries none, the frozen one is the coordinator's."""


@dataclass(frozen=True)
class Mistake:
    """A case on the wrong side of the threshold.

    Attributes:
        rank: from 1, the surest first.
        scored: the case.
        sureness: how far its score lies beyond the threshold, as a share of the way to 0 or 1.
    """

    rank: int
    scored: KeptScore
    sureness: float

    @property
    def truth(self) -> str:
        """The label, and what became of it."""
        return "positive, missed" if self.scored.label == 1 else "negative, false alarm"


@dataclass(frozen=True)
class Look:
    """What one hospital sees of one arm's test.

    Attributes:
        mistakes: the surest, so many as were asked for.
        wrong: how many there are in all.
        threshold: from which score on a case is called positive.
        auc: at this hospital, with its interval and the counts.
        patients: who were scored.
        round: of the fine-tuning, from 0.
        weights: digest of the model's weights.
    """

    mistakes: tuple[Mistake, ...]
    wrong: int
    threshold: float
    auc: AucEstimate
    patients: int
    round: int
    weights: str


def look(scored: Sequence[KeptScore], threshold: float, most: int) -> Look:
    """Find the surest mistakes.

    Args:
        scored: every case of one arm's test; at least one.
        threshold: from which score on a case is called positive.
        most: how many are named.

    Raises:
        ConfigError: the threshold is no probability.
    """
    if not 0.0 <= threshold <= 1.0:  # nor is NaN
        raise ConfigError(
            "must lie between 0 and 1", where="threshold", remedy="Take it from the study's report"
        )
    wrong = [
        (_sureness(one.score, threshold), one)
        for one in scored
        if (one.score >= threshold) != (one.label == 1)
    ]
    wrong.sort(key=lambda pair: (-pair[0], pair[1].case))
    auc = auc_interval(
        [one.label for one in scored], [one.score for one in scored], [one.patient for one in scored]
    )
    return Look(
        mistakes=tuple(Mistake(rank, one, sure) for rank, (sure, one) in enumerate(wrong[:most], 1)),
        wrong=len(wrong),
        threshold=threshold,
        auc=auc,
        patients=len({one.patient for one in scored}),
        round=scored[0].round,
        weights=scored[0].weights,
    )


def _sureness(score: float, threshold: float) -> float:
    way = 1.0 - threshold if score >= threshold else threshold
    return abs(score - threshold) / way if way > 0.0 else 0.0


def counts_line(seen: Look) -> str:
    """How many were tested, and how many of them wrongly."""
    auc = seen.auc
    return (
        f"{auc.n} cases of {seen.patients} patients, {auc.n_pos} positive; {seen.wrong} on the wrong side of "
        f"{seen.threshold:.3g}"
    )


def auc_line(seen: Look) -> str:
    """The AUC with its interval, or why there is none."""
    auc = seen.auc
    if auc.auc is None or auc.low is None or auc.high is None:
        return f"AUC not defined: {auc.reason}"
    how = "DeLong" if auc.method == "logit-delong" else "Newcombe: DeLong's variance is zero or not defined"
    return f"AUC {auc.auc:.3f} (95 % interval {auc.low:.3f} to {auc.high:.3f}, {how})"


def ranking_line(seen: Look, named: bool) -> str:
    """By what the mistakes are ranked.

    Args:
        seen: what is shown.
        named: whether a person named the threshold.
    """
    if named:
        return (
            f"Wrong at the threshold {seen.threshold:.3g} that you named; how sure: the share of the way from it "
            "to 0 or 1."
        )
    return (
        "An order carries no threshold, so wrong means on the wrong side of 0.5, and how sure is the distance "
        "from it (100 %: at 0 or 1). The study's report names the frozen threshold: give it with --threshold."
    )
