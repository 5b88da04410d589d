"""The AUC's interval and the paired test of two AUCs, after DeLong, for patients with one or several cases.

Variance: DeLong, DeLong & Clarke-Pearson (Biometrics 1988;44:837-845), with the placements taken from
midranks in O(n log n) (Sun & Xu, IEEE Signal Processing Letters 2014;21:1389-1393). Where a patient has
several cases, the placements are summed by patient first (Obuchowski, Biometrics 1997;53:567-578); with one
case each that *is* DeLong's variance.

Interval: on the logit scale, so that it stays within 0 and 1 and covers better in small samples (Perme &
Manevski, Statistical Methods in Medical Research 2019;28:3755-3768). Where the variance estimate is zero or
cannot be formed (classes separated completely, all scores equal, one patient in a class), Newcombe's method 5
takes its place; the result says which was used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from phcc_model.statistics.intervals import newcombe_auc_interval, normal_quantile
from phcc_model.statistics.samples import Patients, Sample, sample

_ROUNDING = 1e-24
"""Above what rounding leaves of a zero variance; far below the smallest that is not (1 / (m n)^2)."""

Method = Literal["logit-delong", "newcombe"]


@dataclass(frozen=True)
class AucEstimate:
    """An AUC with its interval; every figure is None, and `reason` says why, where it is not defined.

    Attributes:
        n: cases.
        n_pos: positive cases.
        patients: patients behind them.
        method: how the interval was formed.
        warnings: plain words about classes too small to carry the figure.
    """

    auc: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    n: int
    n_pos: int
    patients: int
    method: Method | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PairedDifference:
    """AUC of a minus AUC of b on the same cases; None, with the reason, where not defined.

    Attributes:
        p: two-sided p-value of no difference; 1 where both rank alike.
        reason: why a figure is None.
    """

    delta: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    p: float | None
    n: int
    n_pos: int
    reason: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placements:
    """Where each case stands among those of the other class.

    Attributes:
        positive_m: share of the negatives below each positive, ties counted half.
        negative_n: share of the positives above each negative, ties counted half.
    """

    positive_m: NDArray[np.float64]
    negative_n: NDArray[np.float64]


def placements(cases: Sample) -> Placements:
    """Placements of every case, from midranks (Sun & Xu 2014). Both classes must be there."""
    positive, negative = cases.score_n[cases.label_n], cases.score_n[~cases.label_n]
    rank_n = rankdata(cases.score_n)
    below_m = rank_n[cases.label_n] - rankdata(positive)
    below_n = rank_n[~cases.label_n] - rankdata(negative)
    return Placements(below_m / len(negative), 1.0 - below_n / len(positive))


def auc_interval(
    label_n: ArrayLike, score_n: ArrayLike, patient_n: Patients = None, *, confidence: float = 0.95
) -> AucEstimate:
    """The AUC with its interval.

    Args:
        label_n: 0 or 1 for each case.
        score_n: finite; the higher, the more likely positive.
        patient_n: the patient of each case, where one may have several.
        confidence: coverage.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, score_n, patient_n)
    sizes = cases.n, cases.n_pos, cases.patients
    if cases.reason is not None:
        return AucEstimate(None, None, None, None, *sizes, reason=cases.reason)
    area, variance = _mean_and_variance(cases, placements(cases))
    interval = _interval(cases, area, variance, confidence)
    error = None if variance is None else math.sqrt(variance)
    method: Method = "logit-delong" if variance else "newcombe"
    return AucEstimate(area, *interval, error, *sizes, method=method, warnings=cases.warnings)


def paired_delong(
    label_n: ArrayLike,
    score_a_n: ArrayLike,
    score_b_n: ArrayLike,
    patient_n: Patients = None,
    *,
    confidence: float = 0.95,
) -> PairedDifference:
    """Test whether two scores of the same cases have the same AUC.

    Where the variance of the difference is zero: both rank alike (difference 0, p = 1), or they differ by the
    same amount at every case, which leaves no test; the interval is then combined from the two AUCs' own
    (MOVER, Zou & Donner, Statistics in Medicine 2008;27:1693-1702), as if they were independent.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    a, b = sample(label_n, score_a_n, patient_n), sample(label_n, score_b_n, patient_n)
    if a.reason is not None:
        return PairedDifference(None, None, None, None, None, a.n, a.n_pos, a.reason)
    place_a, place_b = placements(a), placements(b)
    both = Placements(place_a.positive_m - place_b.positive_m, place_a.negative_n - place_b.negative_n)
    delta, variance = _mean_and_variance(a, both)
    error = None if variance is None else math.sqrt(variance)
    if not both.positive_m.any() and not both.negative_n.any():
        return PairedDifference(0.0, 0.0, 0.0, 0.0, 1.0, a.n, a.n_pos, warnings=a.warnings)
    if not error:
        reason = "no test: the variance of the difference is zero"
        if error is None:
            reason = "no test: one patient only in a class"
        low, high = _independent_interval(a, b, confidence)
        return PairedDifference(delta, low, high, error, None, a.n, a.n_pos, reason, a.warnings)
    half = normal_quantile(confidence) * error
    p = 2.0 * float(norm.sf(abs(delta) / error))
    low, high = max(-1.0, delta - half), min(1.0, delta + half)
    return PairedDifference(delta, low, high, error, p, a.n, a.n_pos, warnings=a.warnings)


def _mean_and_variance(cases: Sample, place: Placements) -> tuple[float, float | None]:
    """The mean placement and its variance (Obuchowski 1997), None where a class has one patient only.

    Over either class the mean is the AUC, or the difference of two.
    With V10 and V01 the placements summed by patient, minus the mean as often as the patient has cases,
    S10 = I10 / ((I10 - 1) m) sum V10^2 over the I10 patients with positives, S01 likewise,
    S11 = I / (I - 1) sum V10 V01 over all I patients, and var = S10 / m + S01 / n + 2 S11 / (m n).
    """
    patients = int(cases.patient_n.max()) + 1
    positive, negative = cases.patient_n[cases.label_n], cases.patient_n[~cases.label_n]
    m, n = len(positive), len(negative)
    mean = float(place.positive_m.mean())
    i10, i01 = cases.patients_of(positive=True), cases.patients_of(positive=False)
    if min(i10, i01) < 2:
        return mean, None
    v10 = np.bincount(positive, place.positive_m - mean, patients)
    v01 = np.bincount(negative, place.negative_n - mean, patients)
    variance = i10 / (i10 - 1) * float(v10 @ v10) / m**2 + i01 / (i01 - 1) * float(v01 @ v01) / n**2
    variance += 2.0 * patients / (patients - 1) * float(v10 @ v01) / (m * n)
    return mean, variance if variance > _ROUNDING else 0.0


def _interval(cases: Sample, area: float, variance: float | None, confidence: float) -> tuple[float, float]:
    if not variance:
        sizes = cases.patients_of(positive=True), cases.patients_of(positive=False)
        return newcombe_auc_interval(area, *sizes, confidence=confidence)
    # d logit(A) / dA = 1 / (A (1 - A)); a variance above zero keeps A off 0 and 1.
    half = normal_quantile(confidence) * math.sqrt(variance) / (area * (1.0 - area))
    centre = float(logit(area))
    return float(expit(centre - half)), float(expit(centre + half))


def _independent_interval(a: Sample, b: Sample, confidence: float) -> tuple[float, float]:
    """An interval for the difference of two AUCs from their own intervals, as if they were independent."""
    area_a, variance_a = _mean_and_variance(a, placements(a))
    area_b, variance_b = _mean_and_variance(b, placements(b))
    low_a, high_a = _interval(a, area_a, variance_a, confidence)
    low_b, high_b = _interval(b, area_b, variance_b, confidence)
    delta = area_a - area_b
    return (
        delta - math.hypot(area_a - low_a, high_b - area_b),
        delta + math.hypot(high_a - area_a, area_b - low_b),
    )
