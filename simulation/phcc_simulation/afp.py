"""The baseline without an image: logistic regression on the logarithm of alpha-fetoprotein (AFP).

One patient counts once, however many lesions. AFP spans five decades, hence the logarithm; below `FLOOR_NG_ML`
an assay tells no difference. Patients without a usable value get the training median and are counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from phcc_model.cases import UNKNOWN_LABEL, CaseSet
from phcc_model.errors import DatasetError
from phcc_model.statistics import youden_threshold

FLOOR_NG_ML = 0.5
"""[R] About the detection limit of routine assays; a reported 0 means "below"."""

_WHERE = "arm afp"


@dataclass(frozen=True)
class AfpModel:
    """A fitted baseline.

    Attributes:
        mean: of log(AFP in ng/mL) over the training patients, missing values imputed.
        spread: standard deviation of the same, 1 where all are equal.
        slope: log odds per standard deviation.
        intercept: log odds at the mean.
        median_ng_ml: what a missing value is taken for: the training patients' median.
        threshold: Youden's on the training patients; a score at or above it is called positive.
        patients: number of training patients.
        imputed: how many of them had no usable AFP.
    """

    mean: float
    spread: float
    slope: float
    intercept: float
    median_ng_ml: float
    threshold: float
    patients: int
    imputed: int

    def score(self, cases: CaseSet) -> NDArray[np.float64]:
        """Probability of the positive class for each case, from its AFP alone."""
        return self._score(cases.afp_n)

    def _score(self, afp_ng_ml_n: NDArray[np.float32]) -> NDArray[np.float64]:
        standard_n = (_log_afp(afp_ng_ml_n, self.median_ng_ml) - self.mean) / self.spread
        return np.asarray(expit(self.intercept + self.slope * standard_n), dtype=np.float64)
