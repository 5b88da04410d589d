"""The AFP baseline: a patient counts once, a missing value is imputed and counted, scores follow AFP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.metrics import roc_auc_score, roc_curve

from phcc_model.cases import CaseSet
from phcc_model.errors import DatasetError
from phcc_simulation.afp import FLOOR_NG_ML, fit_afp, missing_afp


def cases(afp: Sequence[float], label: Sequence[int], patient: Sequence[str] | None = None) -> CaseSet:
    n = len(afp)
    return CaseSet(
        case=tuple(f"c{i}" for i in range(n)),
        patient=tuple(patient if patient is not None else [f"p{i:04d}" for i in range(n)]),
        volumes_npdhw=np.zeros((n, 1, 1, 1, 1), np.float16),
        present_np=np.ones((n, 1), np.bool_),
        lesion_ndhw=np.ones((n, 1, 1, 1), np.uint8),
        label_n=np.array(label, np.int8),
        afp_n=np.array(afp, np.float32),
    )


def cohort(n: int, seed: int, *, effect: float = 0.6) -> CaseSet:
    """Log-normal AFP, sd 2 of its logarithm, shifted by ``effect`` sd in positives."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(int)
    return cases(np.exp(3 + 2 * (rng.standard_normal(n) + effect * label)).tolist(), label.tolist())


def test_it_finds_the_planted_log_odds() -> None:
    # Two normals of equal spread: log odds are linear in log AFP, slope effect / sd = 0.3 per unit of it.
    model = fit_afp(cohort(20_000, 0))
    assert model.slope / model.spread == pytest.approx(0.3, abs=0.015)
    test = cohort(5_000, 1)
    scores = model.score(test)
    # AUC of two unit normals 0.6 apart: Phi(0.6 / sqrt(2)) = .664.
    assert roc_auc_score(test.label_n, scores) == pytest.approx(0.664, abs=0.02)
    assert scores.mean() == pytest.approx(test.label_n.mean(), abs=0.02)


def test_the_threshold_is_youdens_on_the_training_patients() -> None:
    training = cohort(300, 2)
    model = fit_afp(training)
    fpr, tpr, _ = roc_curve(training.label_n, model.score(training), drop_intermediate=False)
    called = model.score(training) >= model.threshold
    positive = training.label_n == 1
    assert called[positive].mean() - called[~positive].mean() == pytest.approx(np.max(tpr - fpr))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 60))
def test_scores_follow_afp(seed: int, n: int) -> None:
    training = cohort(n, seed)
    assume(len(set(training.label_n)) == 2)
    model = fit_afp(training)
    rising = cases([0.0, 0.1, FLOOR_NG_ML, 1.0, 10.0, 1e3, 1e6], [0] * 7)
    scores = model.score(rising)
    assert np.all((scores >= 0) & (scores <= 1))
    assert scores[0] == scores[1] == scores[2]
    steps = np.diff(scores[2:])
    assert np.all(steps * np.sign(model.slope) >= 0)


def test_a_missing_value_is_imputed_by_the_training_median_and_counted() -> None:
    training = cases([1.0, 10.0, 1000.0, np.nan, -5.0, np.inf], [0, 0, 1, 1, 0, 1])
    model = fit_afp(training)
    assert (model.patients, model.imputed, model.median_ng_ml) == (6, 3, 10.0)
    test = cases([np.nan, -1.0, np.inf, 10.0], [0, 0, 0, 1])
    assert missing_afp(test) == 3
    assert len(set(model.score(test))) == 1


def test_a_patient_counts_once_however_many_lesions() -> None:
    once = fit_afp(cases([1, 5, 50, 400], [0, 1, 0, 1]))
    lesions = cases(
        [1, 5, 50, 400, 400, np.nan, 400],
        [0, 1, 0, 0, 1, -1, 0],
        ["a", "b", "c", "d", "d", "d", "d"],
    )
    assert fit_afp(lesions) == once
    assert missing_afp(lesions) == 0
    assert len(once.score(lesions)) == 7


def test_patients_of_unknown_label_teach_nothing() -> None:
    known = cohort(40, 3)
    both = CaseSet.join([known, cases([1e6, 1e6], [-1, -1], ["u1", "u2"])])
    assert fit_afp(both) == fit_afp(known)


def test_classes_that_afp_separates_still_give_a_finite_slope() -> None:
    model = fit_afp(cases([1, 2, 1000, 2000], [0, 0, 1, 1]))
    assert np.isfinite(model.slope)
    assert 2 / 4 < model.score(cases([1000], [1]))[0] < 1
    assert logit(model.score(cases([1, 2000], [0, 1]))) == pytest.approx(
        model.intercept + model.slope * (np.log([1, 2000]) - model.mean) / model.spread
    )


def test_equal_afp_tells_nothing() -> None:
    model = fit_afp(cases([7, 7, 7, 7], [0, 1, 1, 1]))
    assert model.score(cases([7, 7000], [0, 1]))[0] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("afp", "label", "line"),
    [
        ([1.0, 2.0], [1, 1], "arm afp: the 2 labelled training patients are not of two classes"),
        ([1.0, 2.0], [-1, -1], "the 0 labelled training patients are not of two classes"),
        ([], [], "the 0 labelled training patients"),
        ([np.nan, np.nan], [0, 1], "none of the 2 training patients has an AFP"),
    ],
)
def test_what_cannot_be_fitted_ends_in_one_line(afp: list[float], label: list[int], line: str) -> None:
    with pytest.raises(DatasetError, match=line):
        fit_afp(cases(afp, label))
