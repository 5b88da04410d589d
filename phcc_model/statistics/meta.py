"""Several centres' figures as one, by random-effects meta-analysis: no score has to leave a centre.

The centres are taken for a sample of centres, each with a true figure of its own. Between them the variance is
DerSimonian and Laird's (Controlled Clinical Trials 1986;7:177-188); the interval of the mean is Hartung and
Knapp's (Statistics in Medicine 2001;20:3875-3889), never narrower than Wald's (Roever et al., BMC Medical
Research Methodology 2015;15:99); the prediction interval, for the figure of another centre, Higgins et al.'s
(JRSS A 2009;172:137-159). I^2 is the share of the spread that chance within the centres does not explain
(Higgins & Thompson, Statistics in Medicine 2002;21:1539-1558).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import chi2, norm, t

from phcc_model.errors import DataError
from phcc_model.statistics.delong import AucEstimate
from phcc_model.statistics.intervals import normal_quantile

FEW_CENTRES = 5
"""With fewer, the spread between centres is hardly known."""


@dataclass(frozen=True)
class Pooled:
    """A mean over centres; every figure is None, and `reason` says why, where it is not defined.

    Attributes:
        value: mean of the centres' true figures.
        low, high: Hartung-Knapp interval of that mean.
        wald_low, wald_high: DerSimonian and Laird's own, on the normal distribution; too narrow for few centres.
        predicted_low, predicted_high: where the figure of one more such centre is expected; from three
            centres on.
        standard_error: of the mean (DerSimonian and Laird's), on the scale on which it was pooled.
        tau2: variance between centres, on the same scale.
        i2: 0 to 1.
        q, q_p: Cochran's Q and its p-value, of no difference between the centres; weak with few centres.
        centres: how many were pooled.
        left_out: centre -> why it could not be.
        warnings: what a reader must know.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    wald_low: float | None = None
    wald_high: float | None = None
    predicted_low: float | None = None
    predicted_high: float | None = None
    standard_error: float | None = None
    tau2: float | None = None
    i2: float | None = None
    q: float | None = None
    q_p: float | None = None
    centres: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    warnings: tuple[str, ...] = ()


def pool(value_k: ArrayLike, variance_k: ArrayLike, *, confidence: float = 0.95) -> Pooled:
    """Random-effects meta-analysis of k independent estimates.

    Args:
        value_k: the estimates.
        variance_k: their variances, each above 0.
        confidence: coverage of the intervals.

    Raises:
        DataError: lengths differ, a figure is not finite, or a variance is not above 0.
    """
    y, v = np.asarray(value_k, dtype=np.float64), np.asarray(variance_k, dtype=np.float64)
    if y.ndim != 1 or y.shape != v.shape or not (np.isfinite(y) & np.isfinite(v) & (v > 0.0)).all():
        raise DataError(
            "every estimate needs a finite value and a variance above 0",
            where="meta-analysis",
            remedy="Leave out the centres that have none, and say which",
        )
    k = len(y)
    if k < 2:
        reason = "no centre has the figure" if k == 0 else "one centre only: there is nothing to pool"
        return Pooled(None, centres=k, reason=reason)
    w = 1.0 / v
    common = float(w @ y / w.sum())
    q = float(w @ (y - common) ** 2)
    tau2 = max(0.0, (q - (k - 1)) / float(w.sum() - (w @ w) / w.sum()))
    w_star = 1.0 / (v + tau2)
    mean = float(w_star @ y / w_star.sum())
    error = float(1.0 / math.sqrt(w_star.sum()))
    scale = math.sqrt(float(w_star @ (y - mean) ** 2) / (k - 1))
    tail = (1.0 - confidence) / 2.0
    half = float(t.isf(tail, k - 1)) * error * max(1.0, scale)
    # t has heavier tails than the normal: with this the interval is never narrower than Wald's.
    wald = normal_quantile(confidence) * error
    beyond = float(t.isf(tail, k - 2)) * math.sqrt(tau2 + error**2) if k > 2 else None
    return Pooled(
        mean,
        mean - half,
        mean + half,
        mean - wald,
        mean + wald,
        None if beyond is None else mean - beyond,
        None if beyond is None else mean + beyond,
        error,
        tau2,
        max(0.0, (q - (k - 1)) / q) if q > 0.0 else 0.0,
        q,
        float(chi2.sf(q, k - 1)),
        k,
        warnings=_warnings(k),
    )


def pool_aucs(by_centre: Mapping[str, AucEstimate], *, confidence: float = 0.95) -> Pooled:
    """The mean AUC over centres, pooled on the logit scale and given back as an AUC.

    With ``var(logit A) = var(A) / (A (1 - A))^2``. Where a centre's variance cannot be formed (its classes are
    separated completely, or have one patient), A is drawn half a pair of patients off 0 and 1 and its
    variance is taken from Newcombe's interval, which is wide [R]: leaving out the best centres would bias the
    mean. A centre with one class only has no AUC; it is named in `Pooled.left_out`.

    `Pooled.standard_error` and `Pooled.tau2` stay on the logit scale.

    Raises:
        ValueError: the confidence is not between 0 and 1.
    """
    left_out: dict[str, str] = {}
    places: list[tuple[float, float]] = []
    for centre, estimate in sorted(by_centre.items()):
        place = _on_logit_scale(estimate, confidence)
        if place is None:
            left_out[centre] = estimate.reason or "no interval"
        else:
            places.append(place)
    found = pool([y for y, _ in places], [v for _, v in places], confidence=confidence)
    back = {
        name: None if (value := getattr(found, name)) is None else float(expit(value))
        for name in ("value", "low", "high", "wald_low", "wald_high", "predicted_low", "predicted_high")
    }
    return Pooled(
        **back,
        standard_error=found.standard_error,
        tau2=found.tau2,
        i2=found.i2,
        q=found.q,
        q_p=found.q_p,
        centres=found.centres,
        left_out=left_out,
        reason=found.reason,
        warnings=found.warnings,
    )


def heterogeneity(estimates: Sequence[AucEstimate], *, confidence: float = 0.95) -> tuple[float, int] | None:
    """P-value of Cochran's Q that groups have one AUC, and how many groups it compares; None below two."""
    places = [place for e in estimates if (place := _on_logit_scale(e, confidence)) is not None]
    found = pool([y for y, _ in places], [v for _, v in places], confidence=confidence)
    return None if found.q_p is None else (found.q_p, found.centres)


def _on_logit_scale(estimate: AucEstimate, confidence: float) -> tuple[float, float] | None:
    """Logit of an AUC and its variance; None where there is no AUC."""
    if estimate.auc is None or estimate.low is None or estimate.high is None:
        return None
    if estimate.method == "logit-delong" and estimate.standard_error:
        slope = estimate.auc * (1.0 - estimate.auc)
        return float(logit(estimate.auc)), (estimate.standard_error / slope) ** 2
    pairs = estimate.n_pos * (estimate.n - estimate.n_pos)
    # The half of the interval that points towards 0.5 is finite on this scale, wherever the AUC lies.
    drawn_in = (pairs * estimate.auc + 0.5) / (pairs + 1.0)
    end = estimate.low if drawn_in >= 0.5 else estimate.high
    half = abs(float(logit(drawn_in)) - float(logit(end)))
    z = float(norm.isf((1.0 - confidence) / 2.0))
    return float(logit(drawn_in)), (half / z) ** 2


def _warnings(centres: int) -> tuple[str, ...]:
    if centres >= FEW_CENTRES:
        return ()
    return (f"only {centres} centres: how much centres differ is hardly known, the interval is wide for it",)
