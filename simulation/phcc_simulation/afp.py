"""The baseline without an image: logistic regression on the logarithm of alpha-fetoprotein (AFP).

One patient counts once, however many lesions. AFP spans five decades, hence the logarithm; an assay tells no
difference below `FLOOR_NG_ML`. Patients without a usable value get the training median and are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from phcc_model.cases import UNKNOWN_LABEL, CaseSet
from phcc_model.errors import DatasetError
from phcc_model.statistics import youden_threshold

FLOOR_NG_ML = 0.5
"""[R] About the detection limit of routine assays; a reported 0 means "below"."""


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
        return self.probability(cases.afp_n)

    def probability(self, afp_n: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probability of the positive class for each AFP in ng/mL; NaN and negative ones are imputed."""
        standard_n = (_log_afp(afp_n, self.median_ng_ml) - self.mean) / self.spread
        return np.asarray(expit(self.intercept + self.slope * standard_n), dtype=np.float64)


def fit_afp(cases: CaseSet) -> AfpModel:
    """Fit the baseline on the training patients of all centres (their train and validation splits).

    The slope carries scikit-learn's default L2 penalty on the standardised logarithm: next to nothing in a
    cohort, and finite where AFP separates the classes of a small one.

    Args:
        cases: training cases, patients' names unique over centres; those of unknown label are left out.

    Raises:
        DatasetError: no patient has a usable AFP, or all are of one class.
    """
    afp_p, label_p = _by_patient(cases.labelled)
    usable_p = _usable(afp_p)
    if len(set(label_p)) < 2:
        raise DatasetError(
            f"the {len(label_p)} labelled training patients are not of two classes",
            where="arm afp",
            remedy="Leave the arm out or add patients",
        )
    if not usable_p.any():
        raise DatasetError(
            f"none of the {len(label_p)} training patients has an AFP",
            where="arm afp",
            remedy="Leave the arm out or fill in the column",
        )
    median = float(np.median(afp_p[usable_p]))
    log_p = _log_afp(afp_p, median)
    mean, spread = float(log_p.mean()), float(log_p.std()) or 1.0
    fitted = LogisticRegression().fit(((log_p - mean) / spread)[:, None], label_p)
    model = AfpModel(
        mean=mean,
        spread=spread,
        slope=float(fitted.coef_[0, 0]),
        intercept=float(fitted.intercept_[0]),
        median_ng_ml=median,
        threshold=0.0,
        patients=len(label_p),
        imputed=int((~usable_p).sum()),
    )
    return replace(model, threshold=youden_threshold(label_p, model.probability(afp_p)))


def missing_afp(cases: CaseSet) -> int:
    """Number of patients whose AFP is unknown, negative or not a number."""
    afp_p, _ = _by_patient(cases)
    return int((~_usable(afp_p)).sum())


def _by_patient(cases: CaseSet) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """AFP (median of the usable values, NaN if there is none) and label (any lesion's) of each patient."""
    names, patient_n = np.unique(np.array(cases.patient, dtype=np.str_), return_inverse=True)
    afp_p = np.full(len(names), np.nan)
    label_p = np.full(len(names), UNKNOWN_LABEL, dtype=np.int8)
    np.maximum.at(label_p, patient_n, cases.label_n)
    for patient in range(len(names)):
        values = cases.afp_n[patient_n == patient]
        if _usable(values).any():
            afp_p[patient] = np.median(values[_usable(values)])
    return afp_p, label_p


def _usable(afp_n: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(afp_n) & (afp_n >= 0), dtype=np.bool_)


def _log_afp(afp_n: NDArray[np.floating], median_ng_ml: float) -> NDArray[np.float64]:
    filled_n = np.where(_usable(afp_n), afp_n, median_ng_ml)
    return np.log(np.maximum(filled_n, FLOOR_NG_ML), dtype=np.float64)
