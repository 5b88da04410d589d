"""Intervals by drawing patients anew, with all their cases, which needs no formula for the variance.

Patients are drawn within strata (those with positive cases only, negative only, both), as DeLong's variance,
too, takes the class sizes as given; so no replicate lacks a class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phcc_model.errors import DataError
from phcc_model.statistics.samples import Patients, Sample, sample

_BLOCK = 1_000_000
"""Weights held at a time."""


@dataclass(frozen=True)
class BootstrapInterval:
    """A percentile interval; None, with the reason, where not defined.

    Attributes:
        replicates: samples drawn.
        standard_error: standard deviation over them.
    """

    low: float | None
    high: float | None
    standard_error: float | None
    replicates: int
    reason: str | None = None


def bootstrap_auc(
    label_n: ArrayLike,
    score_n: ArrayLike,
    patient_n: Patients = None,
    *,
    generator: np.random.Generator,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """A patient-level percentile interval of the AUC (Efron & Tibshirani 1993, chapter 13).

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, score_n, patient_n)
    if (reason := _reason(cases, replicates)) is not None:
        return BootstrapInterval(None, None, None, 0, reason)
    area = _WeightedAuc(cases)
    values = np.concatenate([area(weight_bn) for weight_bn in _draw(cases, replicates, generator)])
    return _percentiles(values, confidence)


def bootstrap_difference(
    label_n: ArrayLike,
    score_a_n: ArrayLike,
    score_b_n: ArrayLike,
    patient_n: Patients = None,
    *,
    generator: np.random.Generator,
    replicates: int = 1000,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """A patient-level percentile interval of AUC a minus AUC b, both on the same patients drawn.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    if (reason := _reason(sample(label_n, score_a_n, patient_n), replicates)) is not None:
        return BootstrapInterval(None, None, None, 0, reason)
    a, b = auc_replicates(
        label_n, (score_a_n, score_b_n), patient_n, generator=generator, replicates=replicates
    )
    return _percentiles(a - b, confidence)


def auc_replicates(
    label_n: ArrayLike,
    scores: Sequence[ArrayLike],
    patient_n: Patients = None,
    *,
    generator: np.random.Generator,
    replicates: int,
) -> NDArray[np.float64]:
    """The AUCs of several scores on the same patients drawn, axes score, replicate.

    Raises:
        DataError: the labels or scores cannot be used, or one class has fewer than two patients.
    """
    samples = [sample(label_n, score_n, patient_n) for score_n in scores]
    if (reason := _reason(samples[0], replicates)) is not None:
        raise DataError(reason, where="bootstrap")
    areas = [_WeightedAuc(cases) for cases in samples]
    blocks = [[area(drawn) for area in areas] for drawn in _draw(samples[0], replicates, generator)]
    return np.concatenate(blocks, axis=1)


def _reason(cases: Sample, replicates: int) -> str | None:
    if cases.reason is not None:
        return cases.reason
    if replicates < 1:
        return "no bootstrap was asked for"
    if min(cases.patients_of(positive=True), cases.patients_of(positive=False)) < 2:
        return "one patient only in a class: nothing varies between draws"
    return None


def _percentiles(values: NDArray[np.float64], confidence: float) -> BootstrapInterval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, (tail, 1.0 - tail))
    error = float(values.std(ddof=1)) if len(values) > 1 else None
    return BootstrapInterval(float(low), float(high), error, len(values))


def _draw(cases: Sample, replicates: int, source: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """How often each case is drawn: blocks of replicates, [b, n]."""
    patients = int(cases.patient_n.max()) + 1
    has_positive = np.bincount(cases.patient_n, cases.label_n, patients) > 0
    has_negative = np.bincount(cases.patient_n, ~cases.label_n, patients) > 0
    stratum = has_positive + 2 * has_negative
    members = [found for kind in (1, 2, 3) if len(found := np.flatnonzero(stratum == kind))]
    block = max(1, _BLOCK // cases.n)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = np.hstack([group[source.integers(len(group), size=(size, len(group)))] for group in members])
        # One count over all replicates: each has its own range of patients' numbers.
        number = drawn + patients * np.arange(size)[:, None]
        times = np.bincount(number.ravel(), minlength=size * patients).reshape(size, patients)
        yield times[:, cases.patient_n].astype(np.float64)


class _WeightedAuc:
    """The AUC of weighted cases; what does not depend on the weights is done once."""

    def __init__(self, cases: Sample) -> None:
        self._order = np.argsort(cases.score_n, kind="stable")
        self._positive = cases.label_n[self._order]
        ordered = cases.score_n[self._order]
        self._ties = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])

    def __call__(self, weight_bn: NDArray[np.float64]) -> NDArray[np.float64]:
        """One AUC for each row of weights, none of which may leave a class without any."""
        weight = weight_bn[:, self._order]
        positive = np.add.reduceat(weight * self._positive, self._ties, axis=1)
        negative = np.add.reduceat(weight * ~self._positive, self._ties, axis=1)
        below = np.cumsum(negative, axis=1) - 0.5 * negative
        area: NDArray[np.float64] = (positive * below).sum(axis=1)
        area /= positive.sum(axis=1) * negative.sum(axis=1)
        return area
