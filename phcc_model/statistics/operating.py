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
    """

    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion


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
    )
