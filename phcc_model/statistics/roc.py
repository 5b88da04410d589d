"""The ROC curve and the area below it, by scikit-learn, with ties counted half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from phcc_model.errors import DataError
from phcc_model.statistics.samples import sample


@dataclass(frozen=True)
class RocCurve:
    """Corners of an empirical ROC curve, from (0, 0) to (1, 1).

    Axes: k corners, in the order of falling thresholds; the first threshold is infinite.
    """

    false_positive_rate_k: NDArray[np.float64]
    true_positive_rate_k: NDArray[np.float64]
    threshold_k: NDArray[np.float64]


def auc(label_n: ArrayLike, score_n: ArrayLike) -> float | None:
    """P(score of a positive > score of a negative) + P(equal) / 2; None where one class is missing.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, score_n)
    if cases.reason is not None:
        return None
    return float(metrics.roc_auc_score(cases.label_n, cases.score_n))


def roc_curve(label_n: ArrayLike, score_n: ArrayLike) -> RocCurve | None:
    """The empirical curve; None where one class is missing.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, score_n)
    if cases.reason is not None:
        return None
    return RocCurve(*metrics.roc_curve(cases.label_n, cases.score_n))


def youden_threshold(label_n: ArrayLike, score_n: ArrayLike) -> float:
    """The score from which on a case is called positive that makes sensitivity + specificity largest.

    Youden, Cancer 1950;3:32-35. Where several do, the highest of them: fewer patients are called positive.
    To be fixed on training folds and then frozen.

    Raises:
        DataError: the labels or scores cannot be used, or one class is missing.
    """
    cases = sample(label_n, score_n)
    if cases.reason is not None:
        raise DataError(
            f"no threshold can be fixed: {cases.reason}",
            where="operating threshold",
            remedy="Fix it on patients of both classes",
        )
    # Every corner is kept, as the best one may lie on a straight stretch of the curve.
    fpr, tpr, threshold = metrics.roc_curve(cases.label_n, cases.score_n, drop_intermediate=False)
    # In whole cases: as fractions, equal sums would differ by their rounding and a lower threshold could win.
    positives = int(np.sum(cases.label_n == 1))
    negatives = len(cases.label_n) - positives
    gain = np.rint(tpr * positives) * negatives - np.rint(fpr * negatives) * positives
    return float(threshold[1:][np.argmax(gain[1:])])
