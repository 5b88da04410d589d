"""Whether a score of 0.7 means seven in ten: Brier score, calibration intercept and slope, and bins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from phcc_model.statistics.intervals import Proportion, exact_proportion, normal_quantile
from phcc_model.statistics.samples import Sample, sample

CLIP = 1e-6
"""Scores are kept this far from 0 and 1 before the logit: a float32 sigmoid reaches both."""


@dataclass(frozen=True)
class Coefficient:
    """An estimate with its Wald interval; None, with the reason, where not defined."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class CalibrationBin:
    """Cases with neighbouring scores: what was predicted, what came.

    Attributes:
        predicted: mean score.
        observed: share of positives, with its exact interval.
    """

    predicted: float
    observed: Proportion


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted probabilities with outcomes.

    Attributes:
        brier: mean squared difference of score and label; 0 is perfect.
        intercept: calibration in the large, the shift on the logit scale that makes predictions right on
            average (slope held at 1); 0 is perfect, below 0 the scores are too high.
        slope: 1 is perfect, below 1 the scores are too extreme.
        bins: as many cases in each as ties allow.
    """

    brier: float | None
    intercept: Coefficient
    slope: Coefficient
    bins: tuple[CalibrationBin, ...]
    reason: str | None = None


def assess_calibration(
    label_n: ArrayLike, probability_n: ArrayLike, *, bins: int = 10, confidence: float = 0.95
) -> Calibration:
    """Compare predicted probabilities with what came.

    Intercept and slope are those of the logistic recalibration model (Cox, Biometrika 1958;45:562-565), the
    intercept with the slope held at 1 (Van Calster et al., Journal of Clinical Epidemiology 2016;74:167-176).

    Args:
        label_n: 0 or 1 for each case.
        probability_n: predicted probability of 1.
        bins: bins of the calibration plot, fewer where ties demand it.
        confidence: coverage of the intervals.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, probability_n)
    reason = None
    if cases.n == 0:
        reason = "no cases"
    elif cases.score_n.min() < 0.0 or cases.score_n.max() > 1.0:
        reason = "scores are not probabilities between 0 and 1"
    if reason is not None:
        missing = Coefficient(None, None, None, reason)
        return Calibration(None, missing, missing, (), reason)
    x_n = logit(np.clip(cases.score_n, CLIP, 1.0 - CLIP))
    z = normal_quantile(confidence)
    return Calibration(
        brier=float(np.mean((cases.score_n - cases.label_n) ** 2)),
        intercept=_intercept(cases, x_n, z),
        slope=_slope(cases, x_n, z),
        bins=_bins(cases, bins, confidence),
    )


def _intercept(cases: Sample, x_n: NDArray[np.float64], z: float) -> Coefficient:
    if cases.reason is not None:
        return Coefficient(None, None, None, cases.reason)

    def missing_positives(shift: float) -> float:
        return float(cases.n_pos - expit(x_n + shift).sum())

    # Beyond this shift every prediction is nearer to 0 or 1 than a single case could move it.
    reach = float(np.abs(x_n).max()) + math.log(cases.n) + 1.0
    shift = float(brentq(missing_positives, -reach, reach))
    fitted = expit(x_n + shift)
    half = z / math.sqrt(float((fitted * (1.0 - fitted)).sum()))
    return Coefficient(shift, shift - half, shift + half)


def _slope(cases: Sample, x_n: NDArray[np.float64], z: float) -> Coefficient:
    if cases.reason is not None:
        return Coefficient(None, None, None, cases.reason)
    spread = float(x_n.std())
    if spread < 1e-9:
        return Coefficient(None, None, None, "all scores are equal")
    positive, negative = x_n[cases.label_n], x_n[~cases.label_n]
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return Coefficient(None, None, None, "the scores separate the classes completely: no finite slope")
    standard_n1 = ((x_n - x_n.mean()) / spread)[:, None]
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    fitted = model.fit(standard_n1, cases.label_n).predict_proba(standard_n1)[:, 1]
    design = np.column_stack([np.ones(cases.n), standard_n1])
    information = design.T @ (design * (fitted * (1.0 - fitted))[:, None])
    slope = float(model.coef_[0, 0]) / spread
    half = z * math.sqrt(float(np.linalg.inv(information)[1, 1])) / spread
    return Coefficient(slope, slope - half, slope + half)


def _bins(cases: Sample, bins: int, confidence: float) -> tuple[CalibrationBin, ...]:
    # Equal scores stay together, so that a bin is a range of scores.
    edges = np.unique(np.quantile(cases.score_n, np.linspace(0.0, 1.0, bins + 1)[1:-1]))
    place_n = np.searchsorted(edges, cases.score_n, side="left")
    found = []
    for place in np.unique(place_n):
        inside = place_n == place
        positives = int(cases.label_n[inside].sum())
        observed = exact_proportion(positives, int(inside.sum()), confidence=confidence)
        found.append(CalibrationBin(float(cases.score_n[inside].mean()), observed))
    return tuple(found)
