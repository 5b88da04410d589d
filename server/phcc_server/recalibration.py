"""From scores to probabilities: intercept and slope, fitted on validation patients before any test."""

from __future__ import annotations

from scipy.special import expit, logit

from phcc_model.package_schema import Recalibration
from phcc_model.statistics.calibration import CLIP, assess_calibration
from phcc_model.threshold import BINS, ScoreHistogram

FEWEST = 10
"""Validation patients of each class, below which none is fitted: it would add more error than it takes away."""


def fit_counts(histogram: ScoreHistogram) -> tuple[Recalibration | None, str]:
    """`fit_recalibration` from counts of scores per bin: each case stands in the middle of its bin."""
    label: list[int] = []
    probability: list[float] = []
    for value, counts_k in ((1, histogram.positive_k), (0, histogram.negative_k)):
        for place, count in enumerate(counts_k.tolist()):
            label += [value] * count
            probability += [(place + 0.5) / BINS] * count
    return fit_recalibration(label, probability)


def fit_recalibration(label: list[int], probability: list[float]) -> tuple[Recalibration | None, str]:
    """Intercept and slope by logistic regression on the logit (Cox, Biometrika 1958;45:562-565).

    Args:
        label: 0 or 1 for each case.
        probability: the model's, of 1.

    Returns:
        The recalibration, or None, and in words why there is none.
    """
    positives = sum(label)
    counts = f"{positives} positive and {len(label) - positives} negative validation cases"
    if min(positives, len(label) - positives) < FEWEST:
        return None, f"{counts} are too few to fit one ({FEWEST} of each are asked for)."
    slope = assess_calibration(label, probability).slope
    if slope.value is None:
        return None, f"None can be fitted: {slope.reason}."
    if not 0.0 < slope.value <= 100.0:
        return None, f"On {counts} the scores do not rise with the outcome (slope {slope.value:.2f})."
    # With the slope in place, the intercept of the joint fit is what makes the mean right.
    scaled = [float(expit(slope.value * logit(min(max(p, CLIP), 1.0 - CLIP)))) for p in probability]
    intercept = assess_calibration(label, scaled).intercept
    if intercept.value is None or not abs(intercept.value) <= 100.0:
        return None, f"None can be fitted on {counts}."
    source = f"Fitted on {counts}, the same that chose the round and the threshold"
    return Recalibration(intercept=intercept.value, slope=slope.value, source=source), ""
