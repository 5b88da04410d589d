"""Arms without a network, fitted on all training centres' patients, and AFP added to a network's score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from phcc_model.cases import CaseSet
from phcc_model.config import StudyConfig
from phcc_model.errors import DatasetError
from phcc_model.statistics import youden_threshold
from phcc_simulation.afp import FLOOR_NG_ML, fit_afp
from phcc_simulation.kinetics import KINETIC, REGIONAL, kinetic_features, ratio_feature

Score = Callable[[CaseSet], NDArray[np.float64]]
Features = Callable[[CaseSet], NDArray[np.float64]]

_MARGIN = 1e-6  # a probability of 0 or 1 has no log odds


@dataclass(frozen=True)
class FittedScore:
    """A fitted score: a probability per case, and the threshold that was frozen with it."""

    score: Score
    threshold: float


def fit_baseline(arm: str, training: CaseSet, study: StudyConfig) -> FittedScore:
    """Fit ``afp``, ``ratio``, ``kinetics`` or ``regions``.

    Args:
        arm: which of them.
        training: cases of the training and validation sides of all training centres.
        study: names the phases.

    Raises:
        DatasetError: the training cases cannot teach it.
    """
    if arm == "afp":
        afp = fit_afp(training.labelled)
        return FittedScore(afp.score, afp.threshold)
    if arm == "ratio":
        return _fitted(arm, lambda cases: ratio_feature(cases, study.data.phases), training.labelled)
    of_phase = REGIONAL if arm == "regions" else KINETIC
    return _fitted(arm, lambda cases: kinetic_features(cases, of_phase), training.labelled)


def fit_combined(arm: str, network: Score, held_out: CaseSet) -> FittedScore:
    """Logistic regression on a network's log odds and log AFP.

    Args:
        arm: its name, for messages.
        network: the network's probability per case.
        held_out: cases that the network was not trained on (the validation side): on those it was trained on,
            its scores are too good, and AFP would get no say.

    Raises:
        DatasetError: the cases cannot teach it.
    """

    def features(cases: CaseSet) -> NDArray[np.float64]:
        odds_n = logit(np.clip(network(cases), _MARGIN, 1.0 - _MARGIN))
        usable_n = np.isfinite(cases.afp_n) & (cases.afp_n >= 0)
        log_afp_n = np.log(np.maximum(np.where(usable_n, cases.afp_n, 1.0), FLOOR_NG_ML), dtype=np.float64)
        return np.column_stack([odds_n, np.where(usable_n, log_afp_n, np.nan)])

    return _fitted(arm, features, held_out.labelled)


def _fitted(arm: str, features: Features, cases: CaseSet) -> FittedScore:
    """Median where a number is missing, standardised, scikit-learn's logistic regression with its penalty."""
    if len(set(cases.label_n.tolist())) < 2:
        raise DatasetError(
            f"the {len(cases)} labelled cases are not of two classes",
            where=f"arm {arm}",
            remedy="Leave the arm out or add patients",
        )
    model: Pipeline = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    )
    model.fit(features(cases), cases.label_n)

    def score(given: CaseSet) -> NDArray[np.float64]:
        return np.asarray(model.predict_proba(features(given))[:, 1], dtype=np.float64)

    return FittedScore(score, youden_threshold(cases.label_n, score(cases)))
