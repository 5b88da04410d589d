"""What a threshold, fixed beforehand, does on these cases: counts and shares with exact intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phcc_model.errors import DataError
from phcc_model.statistics.intervals import Proportion, exact_proportion
from phcc_model.statistics.samples import sample


@dataclass(frozen=True)
class OperatingPoint:
    """A case is called positive where its score reaches the threshold.

    Attributes:
        sensitivity: of the positive cases, called positive.
        specificity: of the negative cases, called negative.
        ppv: of the cases called positive, positive.
        npv: of the cases called negative, negative.
        f1: 2 TP / (2 TP + FP + FN), see `f1_score`.
    """

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion
    f1: Proportion


def operating_point(
    label_n: ArrayLike, score_n: ArrayLike, threshold: ArrayLike, *, confidence: float = 0.95
) -> OperatingPoint:
    """Count calls at a threshold, one for all cases or one for each (where folds have their own).

    Predictive values hold at the prevalence of these cases only.

    Raises:
        DataError: labels, scores or thresholds cannot be used.
    """
    cases = sample(label_n, score_n)
    cut = np.asarray(threshold, dtype=np.float64)
    if cut.shape not in ((), cases.label_n.shape) or np.isnan(cut).any():
        raise DataError(
            "thresholds must be numbers, one for all cases or one for each",
            where="operating threshold",
            remedy="Fix the threshold on training folds before scoring",
        )
    called = cases.score_n >= cut
    tp, fp = int((called & cases.label_n).sum()), int((called & ~cases.label_n).sum())
    fn, tn = cases.n_pos - tp, cases.n - cases.n_pos - fp
    return OperatingPoint(
        tp,
        fp,
        tn,
        fn,
        sensitivity=exact_proportion(tp, tp + fn, confidence=confidence, of="positive cases"),
        specificity=exact_proportion(tn, tn + fp, confidence=confidence, of="negative cases"),
        ppv=exact_proportion(tp, tp + fp, confidence=confidence, of="cases called positive"),
        npv=exact_proportion(tn, tn + fn, confidence=confidence, of="cases called negative"),
        f1=f1_score(tp, fp, fn, confidence=confidence),
    )


def f1_score(tp: int, fp: int, fn: int, *, confidence: float = 0.95) -> Proportion:
    """The harmonic mean of sensitivity and PPV, with its interval.

    ``F1 = 2 J / (1 + J)`` with ``J = TP / (TP + FP + FN)``: a rising function of a share of the cases that are
    positive or called positive, so that the exact interval of that share, given their number, becomes one of
    F1.
    """
    share = exact_proportion(tp, tp + fp + fn, confidence=confidence, of="cases positive or called positive")
    if share.value is None or share.low is None or share.high is None:
        return share
    value, low, high = (2.0 * j / (1.0 + j) for j in (share.value, share.low, share.high))
    return Proportion(value, low, high, share.successes, share.trials)
