"""Whether acting on a score helps patients: net benefit over the thresholds at which one would act.

Vickers & Elkin, Medical Decision Making 2006;26:565-574. Whoever would treat at a probability of ``t`` holds one
missed patient to be as bad as ``(1 - t) / t`` patients treated for nothing, so that of n patients

    net benefit(t) = true positives / n - false positives / n * t / (1 - t)

in units of true positives per patient. It is compared with treating everybody and with treating nobody (0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phcc_model.errors import DataError
from phcc_model.statistics.samples import sample

THRESHOLDS = np.arange(1, 100) / 100
"""Every whole per cent but 0 and 100: at 0 everybody is treated, at 100 nobody."""


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds; empty, with the reason, where not defined.

    Axes: t thresholds, rising.

    Attributes:
        threshold_t: probability from which on one would act.
        net_benefit_t: of acting on the score.
        treat_all_t: of acting on everybody.
    """

    threshold_t: NDArray[np.float64]
    net_benefit_t: NDArray[np.float64]
    treat_all_t: NDArray[np.float64]
    reason: str | None = None

    @property
    def useful_t(self) -> NDArray[np.bool_]:
        """Where the score is better than treating everybody and than treating nobody."""
        return np.asarray(self.net_benefit_t > np.maximum(self.treat_all_t, 0.0) + 1e-12, dtype=np.bool_)


def decision_curve(
    label_n: ArrayLike, probability_n: ArrayLike, *, threshold_t: ArrayLike = THRESHOLDS
) -> DecisionCurve:
    """The net benefit of calling a case positive where its probability reaches a threshold.

    Holds at the prevalence of these cases only. Patients with several cases count as often as they have cases.

    Args:
        label_n: 0 or 1 for each case.
        probability_n: predicted probability of 1.
        threshold_t: above 0 and below 1.

    Raises:
        DataError: the labels, scores or thresholds cannot be used.
    """
    cases = sample(label_n, probability_n)
    cut_t = np.asarray(threshold_t, dtype=np.float64)
    if cut_t.ndim != 1 or not ((cut_t > 0.0) & (cut_t < 1.0)).all():
        raise DataError(
            "a threshold of a decision curve must lie between 0 and 1, both left out",
            where="decision curve",
            remedy="Leave 0 and 1 out: there everybody or nobody is treated",
        )
    reason = cases.reason
    if reason is None and (cases.score_n.min() < 0.0 or cases.score_n.max() > 1.0):
        reason = "scores are not probabilities between 0 and 1"
    if reason is not None:
        none = np.empty(0)
        return DecisionCurve(none, none, none, reason)
    called_tn = cases.score_n[None, :] >= cut_t[:, None]
    hits_t = (called_tn & cases.label_n).sum(axis=1) / cases.n
    false_t = (called_tn & ~cases.label_n).sum(axis=1) / cases.n
    odds_t = cut_t / (1.0 - cut_t)
    share = cases.n_pos / cases.n
    return DecisionCurve(cut_t, hits_t - false_t * odds_t, share - (1.0 - share) * odds_t)
