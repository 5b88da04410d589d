"""Precision over recall, by scikit-learn: what is left of a ranking where positives are rare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import metrics

from phcc_model.statistics.samples import sample


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Corners of the curve, by rising recall, and the area below its steps.

    Axes: k corners.

    Attributes:
        average_precision: sum of the precisions, each weighted by the recall gained there; nothing is
            interpolated. None, with the reason, where a class is missing.
        prevalence: average precision of a score that knows nothing.
    """

    recall_k: NDArray[np.float64]
    precision_k: NDArray[np.float64]
    average_precision: float | None
    prevalence: float | None
    reason: str | None = None


def precision_recall(label_n: ArrayLike, score_n: ArrayLike) -> PrecisionRecall:
    """The precision-recall curve (Davis & Goadrich, ICML 2006: no straight line between its corners is real).

    Raises:
        DataError: the labels or scores cannot be used.
    """
    cases = sample(label_n, score_n)
    if cases.reason is not None:
        return PrecisionRecall(np.empty(0), np.empty(0), None, None, cases.reason)
    precision_k, recall_k, _ = metrics.precision_recall_curve(cases.label_n, cases.score_n)
    area = float(metrics.average_precision_score(cases.label_n, cases.score_n))
    return PrecisionRecall(recall_k[::-1], precision_k[::-1], area, cases.n_pos / cases.n)
