"""What a positive or a negative call means where the disease is more or less frequent than in these data."""

from __future__ import annotations

from dataclasses import dataclass

from phcc_model.errors import DataError
from phcc_model.statistics.intervals import exact_proportion
from phcc_model.statistics.operating import OperatingPoint


@dataclass(frozen=True)
class PredictiveValues:
    """Predictive values at a prevalence that is taken from elsewhere.

    Attributes:
        prevalence: share of positives among the patients who are asked about.
        ppv: P(positive | called positive), with limits; None, with the reason, where not defined.
        npv: P(negative | called negative), likewise.
    """

    prevalence: float
    ppv: float | None
    ppv_low: float | None
    ppv_high: float | None
    npv: float | None
    npv_low: float | None
    npv_high: float | None
    reason: str | None = None


def predictive_values(
    point: OperatingPoint, prevalence: float, *, confidence: float = 0.95
) -> PredictiveValues:
    """Predictive values by Bayes' rule: sensitivity and specificity from these cases, prevalence from elsewhere.

    With sensitivity s, specificity c and prevalence p, ``PPV = s p / (s p + (1 - c)(1 - p))`` and
    ``NPV = c (1 - p) / (c (1 - p) + (1 - s) p)`` (Altman & Bland, BMJ 1994;309:102). Both rise with s and with
    c, so their limits are reached at the limits of both; these are exact ones, each with half of the error
    that is allowed (Bonferroni), which keeps the coverage and makes the interval somewhat too wide.

    That sensitivity and specificity stay what they are where the prevalence differs is an assumption.

    Raises:
        DataError: the prevalence does not lie between 0 and 1.
    """
    if not 0.0 < prevalence < 1.0:
        raise DataError(
            f"a prevalence must lie between 0 and 1, not {prevalence}",
            where="predictive values",
            remedy="Give the share of positives among the patients who are asked about",
        )
    joint = 1.0 - (1.0 - confidence) / 2.0
    positives = point.true_positives + point.false_negatives
    negatives = point.true_negatives + point.false_positives
    s = exact_proportion(point.true_positives, positives, confidence=joint, of="positive cases")
    c = exact_proportion(point.true_negatives, negatives, confidence=joint, of="negative cases")
    if (
        s.value is None
        or c.value is None
        or s.low is None
        or c.low is None
        or s.high is None
        or c.high is None
    ):
        return PredictiveValues(prevalence, None, None, None, None, None, None, s.reason or c.reason)
    at = ((s.value, c.value), (s.low, c.low), (s.high, c.high))
    ppv, ppv_low, ppv_high = (_posterior(sens, 1.0 - spec, prevalence) for sens, spec in at)
    npv, npv_low, npv_high = (_posterior(spec, 1.0 - sens, 1.0 - prevalence) for sens, spec in at)
    return PredictiveValues(prevalence, ppv, ppv_low, ppv_high, npv, npv_low, npv_high)


def _posterior(likely: float, unlikely: float, prior: float) -> float | None:
    """Bayes' rule for one call; None where nobody is called so."""
    called = likely * prior + unlikely * (1.0 - prior)
    return likely * prior / called if called > 0.0 else None
