"""Intervals that hold in small samples: exact proportions, and an AUC whose variance estimate is zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import betaincinv
from scipy.stats import norm


@dataclass(frozen=True)
class Proportion:
    """A share with its exact interval; not defined (None, with the reason) where nothing was counted.

    Attributes:
        value: successes / trials.
        low: lower limit.
        high: upper limit.
    """

    value: float | None
    low: float | None
    high: float | None
    successes: int
    trials: int
    reason: str | None = None


def normal_quantile(confidence: float) -> float:
    """Z such that a two-sided normal interval of +- z covers with this probability.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return float(norm.isf((1.0 - confidence) / 2.0))


def exact_proportion(
    successes: int, trials: int, *, confidence: float = 0.95, of: str = "cases"
) -> Proportion:
    """A share with its exact interval (Clopper & Pearson, Biometrika 1934;26:404-413).

    The trials are taken as independent: with several cases of one patient the interval is too narrow.

    Args:
        successes: how many of the trials.
        trials: how many in all; none at all leaves the share undefined.
        confidence: coverage.
        of: what is counted, for the reason given where there is none of it.
    """
    if trials == 0:
        return Proportion(None, None, None, 0, 0, f"no {of}")
    tail, failures = (1.0 - confidence) / 2.0, trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1.0 - tail)) if failures else 1.0
    return Proportion(successes / trials, low, high, successes, trials)


def newcombe_auc_interval(
    auc: float, positives: int, negatives: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for an AUC that needs no estimate of its variance, and is honest at 1 and 0.

    Method 5 of Newcombe (Statistics in Medicine 2006;25:559-573): the values theta for which
    ``|auc - theta| <= z sqrt(V(theta))``, with Hanley and McNeil's variance, both class sizes averaged,

        V = theta (1 - theta) / (m n) [1 + N (1 - theta) / (2 - theta) + N theta / (1 + theta)],
        N = (m + n) / 2 - 1.

    Args:
        auc: the estimate, 0 to 1.
        positives: m, at least 1; with several cases of one patient, patients rather than cases.
        negatives: n, at least 1.
        confidence: coverage.
    """
    z = normal_quantile(confidence)
    pairs = positives * negatives
    n_star = (positives + negatives) / 2.0 - 1.0

    def lower(estimate: float) -> float:
        def excess(theta: float) -> float:
            spread = 1.0 + n_star * (1.0 - theta) / (2.0 - theta) + n_star * theta / (1.0 + theta)
            return estimate - theta - z * math.sqrt(theta * (1.0 - theta) / pairs * spread)

        if estimate <= 0.0:
            return 0.0
        # At an estimate of 1 the bound 1 solves the equation too; the one that is meant lies below it.
        top = estimate if estimate < 1.0 else 1.0 - min(0.5, z * z / (4.0 * pairs))
        return float(brentq(excess, 0.0, top))

    # V is the same at theta and 1 - theta, so the upper limit is the mirrored problem's lower one.
    return lower(auc), 1.0 - lower(1.0 - auc)
