from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phcc_model.errors import DataError
from phcc_model.seeds import generator
from phcc_model.statistics import (
    auc,
    auc_interval,
    bootstrap_auc,
    bootstrap_difference,
    newcombe_auc_interval,
    paired_delong,
    sample,
)
from phcc_model.statistics.delong import placements

SETTINGS = settings(max_examples=60, deadline=None)

# Whole numbers, few of them, so that ties are common and monotone maps are exact.
scores = st.integers(min_value=-6, max_value=6)


@st.composite
def scored(draw: st.DrawFn, columns: int = 1) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """Labels with at least two cases of each class, and one or more scores of them."""
    size = st.integers(min_value=2, max_value=15)
    label = np.array(draw(st.permutations([1] * draw(size) + [0] * draw(size))))
    column = st.lists(scores, min_size=len(label), max_size=len(label))
    return label, [np.array(draw(column), dtype=np.float64) for _ in range(columns)]


def placement_values(label: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """The full m x n table of psi: 1 where a positive outscores a negative, a half where they tie."""
    positive, negative = score[label == 1], score[label == 0]
    return np.array([[1.0 if p > q else 0.5 if p == q else 0.0 for q in negative] for p in positive])


@given(scored())
@SETTINGS
def test_placements_and_variance_are_those_of_the_full_table(data: tuple) -> None:
    label, (score,) = data
    psi = placement_values(label, score)
    place = placements(sample(label, score))
    np.testing.assert_allclose(place.positive_m, psi.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(place.negative_n, psi.mean(axis=0), atol=1e-12)
    estimate = auc_interval(label, score)
    variance = psi.mean(axis=1).var(ddof=1) / len(psi) + psi.mean(axis=0).var(ddof=1) / psi.shape[1]
    assert estimate.auc == pytest.approx(psi.mean(), abs=1e-12)
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), abs=1e-9)


@given(scored())
@SETTINGS
def test_the_area_is_scikit_learns(data: tuple) -> None:
    label, (score,) = data
    assert auc_interval(label, score).auc == pytest.approx(auc(label, score), abs=1e-12)


@given(scored(), st.sampled_from([lambda x: 3 * x + 7, lambda x: x**3, lambda x: np.exp(x)]))
@SETTINGS
def test_only_the_order_of_the_scores_matters(data: tuple, rising) -> None:
    label, (score,) = data
    assert auc_interval(label, rising(score)) == auc_interval(label, score)


@given(scored())
@SETTINGS
def test_turning_the_score_round_mirrors_everything(data: tuple) -> None:
    label, (score,) = data
    forth, back = auc_interval(label, score), auc_interval(label, -score)
    assert back.auc == pytest.approx(1.0 - forth.auc, abs=1e-12)
    assert (1.0 - back.high, 1.0 - back.low) == pytest.approx((forth.low, forth.high), abs=1e-9)


@given(scored())
@SETTINGS
def test_the_interval_holds_the_estimate_and_stays_within_bounds(data: tuple) -> None:
    label, (score,) = data
    estimate = auc_interval(label, score)
    assert 0.0 <= estimate.low <= estimate.auc <= estimate.high <= 1.0
    assert estimate.high - estimate.low > 0.0


@given(scored(columns=2))
@SETTINGS
def test_paired_test_is_antisymmetric_and_matches_the_full_tables(data: tuple) -> None:
    label, (a, b) = data
    ab, ba = paired_delong(label, a, b), paired_delong(label, b, a)
    assert (ab.delta, ab.low, ab.high) == pytest.approx((-ba.delta, -ba.high, -ba.low), abs=1e-9)
    assert ab.p == (None if ba.p is None else pytest.approx(ba.p, abs=1e-9))
    difference = placement_values(label, a) - placement_values(label, b)
    variance = difference.mean(axis=1).var(ddof=1) / len(difference)
    variance += difference.mean(axis=0).var(ddof=1) / difference.shape[1]
    assert ab.delta == pytest.approx(difference.mean(), abs=1e-12)
    assert ab.standard_error == pytest.approx(math.sqrt(variance), abs=1e-9)


@given(scored())
@SETTINGS
def test_identical_and_equally_ranked_scores_do_not_differ(data: tuple) -> None:
    label, (score,) = data
    same = paired_delong(label, score, 5 * score + 1)
    assert (same.delta, same.low, same.high, same.p, same.reason) == (0.0, 0.0, 0.0, 1.0, None)


def test_worked_example_of_delong_et_al(ovarian_cancer) -> None:
    """Standard errors and tests as computed by R 4.2.2 with pROC 1.18.0 (var, roc.test, method "delong")."""
    data = ovarian_cancer
    expected = {
        "albumin": (0.73655913978, 0.09269434605),
        "total_protein": (0.6478494624, 0.1000473756),
        "kg_score": (0.7258064516, 0.1028216090),
    }
    for name, (area, error) in expected.items():
        estimate = auc_interval(data.label, getattr(data, name))
        assert (estimate.auc, estimate.standard_error) == pytest.approx((area, error), abs=1e-9)
        assert (estimate.n, estimate.n_pos) == (43, 31)
    albumin = paired_delong(data.label, data.albumin, data.kg_score)
    assert albumin.p == pytest.approx(0.9102063472, abs=1e-9)
    assert (albumin.low, albumin.high) == pytest.approx((-0.1761173687, 0.1976227451), abs=1e-9)
    protein = paired_delong(data.label, data.total_protein, data.kg_score)
    assert protein.p == pytest.approx(0.4561397075, abs=1e-9)
    assert protein.delta / protein.standard_error == pytest.approx(-0.7452183897, abs=1e-9)


def test_agrees_with_a_bootstrap() -> None:
    draw = generator(1, "binormal")
    label = np.repeat([1, 0], [90, 130])
    a = draw.normal(size=220) + 1.2 * label
    b = 0.6 * a + 0.8 * draw.normal(size=220) + 0.3 * label
    estimate = auc_interval(label, a)
    resampled = bootstrap_auc(label, a, generator=generator(1, "bootstrap"), replicates=2000)
    assert estimate.standard_error == pytest.approx(resampled.standard_error, rel=0.08)
    assert (estimate.low, estimate.high) == pytest.approx((resampled.low, resampled.high), abs=0.012)
    paired = paired_delong(label, a, b)
    resampled = bootstrap_difference(label, a, b, generator=generator(2, "bootstrap"), replicates=2000)
    assert paired.standard_error == pytest.approx(resampled.standard_error, rel=0.08)
    # A test that took the two arms as independent would be far too wide.
    independent = math.hypot(estimate.standard_error, auc_interval(label, b).standard_error)
    assert paired.standard_error < 0.85 * independent


def test_several_cases_of_a_patient_count_as_one_patient() -> None:
    """Every case given three times tells nothing new: the variance by patient is that of single cases."""
    draw = generator(2, "clusters")
    label = np.repeat([1, 0], [30, 40])
    score = draw.normal(size=70) + label
    patient = np.arange(70)
    single = auc_interval(label, score, patient)
    assert single == auc_interval(label, score)
    tripled = auc_interval(np.tile(label, 3), np.tile(score, 3), np.tile(patient, 3))
    assert (tripled.n, tripled.patients) == (210, 70)
    assert tripled.standard_error == pytest.approx(single.standard_error, rel=1e-9)
    assert auc_interval(np.tile(label, 3), np.tile(score, 3)).standard_error < 0.7 * single.standard_error


def test_clustered_variance_agrees_with_drawing_patients() -> None:
    """Patients with lesions of both classes, correlated within the patient (Obuchowski's case)."""
    draw = generator(3, "clusters")
    patient = np.repeat(np.arange(120), draw.integers(1, 4, size=120))
    own = draw.normal(size=120)[patient]
    label = (draw.random(len(patient)) < 0.45).astype(int)
    score = own + 0.6 * draw.normal(size=len(patient)) + 1.1 * label
    estimate = auc_interval(label, score, patient)
    drawn = bootstrap_auc(label, score, patient, generator=generator(3, "bootstrap"), replicates=2000)
    assert estimate.standard_error == pytest.approx(drawn.standard_error, rel=0.1)


@pytest.mark.parametrize(("separation", "truth"), [(0.8416212, 0.7241), (1.8, 0.8985)])
def test_the_interval_covers_as_often_as_it_says(separation: float, truth: float) -> None:
    """Binormal scores: AUC = Phi(separation / sqrt 2). 600 samples of 25 + 35: 95 % +- 2 standard errors."""
    assert truth == pytest.approx(0.5 * (1.0 + math.erf(separation / 2.0)), abs=1e-4)
    draw = generator(4, "coverage", str(separation))
    label = np.repeat([1, 0], [25, 35])
    held = 0
    for _ in range(600):
        estimate = auc_interval(label, draw.normal(size=60) + separation * label)
        held += estimate.low <= truth <= estimate.high
    assert held / 600 == pytest.approx(0.95, abs=0.02)


def test_the_paired_test_rejects_a_true_null_as_often_as_it_says() -> None:
    draw = generator(5, "null")
    label = np.repeat([1, 0], [40, 60])
    rejected = 0
    for _ in range(600):
        shared = draw.normal(size=100)
        a, b = (0.7 * shared + 0.7 * draw.normal(size=100) + label for _ in range(2))
        rejected += paired_delong(label, a, b).p < 0.05
    assert rejected / 600 == pytest.approx(0.05, abs=0.02)


def test_constant_scores_are_a_coin_with_an_honest_interval() -> None:
    estimate = auc_interval([0, 1] * 20, [3.0] * 40)
    assert estimate.auc == 0.5
    assert estimate.method == "newcombe"
    assert estimate.low == pytest.approx(1.0 - estimate.high)
    assert 0.3 < estimate.low < 0.4


@pytest.mark.parametrize(("flip", "area"), [(1, 1.0), (-1, 0.0)])
def test_complete_separation_is_not_certainty(flip: int, area: float) -> None:
    label = np.repeat([0, 1], 15)
    estimate = auc_interval(label, flip * np.arange(30.0))
    assert estimate.auc == area
    assert (estimate.low, estimate.high) == newcombe_auc_interval(area, 15, 15)
    assert 0.1 < estimate.high - estimate.low < 0.2


def test_zero_variance_with_a_difference_has_an_interval_and_no_p() -> None:
    label = np.repeat([0, 1], 15)
    perfect, constant = np.arange(30.0), np.zeros(30)
    paired = paired_delong(label, perfect, constant)
    assert paired.delta == 0.5
    assert paired.p is None
    assert "variance" in paired.reason
    assert 0.0 < paired.low < 0.5 < paired.high <= 1.0


def test_one_patient_in_a_class_has_no_variance_but_an_interval() -> None:
    estimate = auc_interval([1, 0, 0, 0], [0.9, 0.1, 0.95, 0.3])
    assert estimate.auc == pytest.approx(2 / 3)
    assert estimate.standard_error is None
    assert 0.0 < estimate.low < estimate.auc < estimate.high < 1.0
    paired = paired_delong([1, 0, 0, 0], [0.9, 0.1, 0.95, 0.3], [0.9, 0.1, 0.8, 0.3])
    assert paired.p is None
    assert "one patient" in paired.reason


@pytest.mark.parametrize(("label", "reason"), [([], "no cases"), ([1, 1], "positive"), ([0], "negative")])
def test_one_class_is_not_defined_and_says_why(label: list[int], reason: str) -> None:
    estimate = auc_interval(label, [0.5] * len(label))
    assert (estimate.auc, estimate.low, estimate.high) == (None, None, None)
    assert reason in estimate.reason
    paired = paired_delong(label, [0.5] * len(label), [0.1] * len(label))
    assert (paired.delta, paired.p) == (None, None)
    assert reason in paired.reason


@pytest.mark.parametrize(
    ("positives", "word"), [(9, "too few to say anything"), (10, "read the interval"), (20, None)]
)
def test_small_classes_are_named(positives: int, word: str | None) -> None:
    label = np.repeat([1, 0], [positives, 50])
    found = auc_interval(label, np.arange(len(label)) % 7).warnings
    if word is None:
        assert found == ()
    else:
        assert len(found) == 1
        assert f"only {positives} positive patients" in found[0]
        assert word in found[0]


def test_warnings_count_patients_and_not_cases() -> None:
    label = np.repeat([1, 0], [40, 50])
    patient = np.r_[np.repeat(np.arange(8), 5), np.arange(100, 150)]
    assert "only 8 positive patients" in auc_interval(label, np.arange(90) % 7, patient).warnings[0]


@pytest.mark.parametrize(
    ("label", "score", "word"),
    [
        ([0, 1], [0.1, math.nan], "1 of 2 scores are not finite"),
        ([0, 2], [0.1, 0.2], "neither 0 nor 1"),
        ([0, -1], [0.1, 0.2], "neither 0 nor 1"),
        ([0, 1], [0.1, 0.2, 0.3], "do not belong together"),
    ],
)
def test_input_that_cannot_be_used_is_refused(label: list, score: list, word: str) -> None:
    with pytest.raises(DataError, match=word):
        auc_interval(label, score)


def test_a_hand_made_example() -> None:
    """Two positives, two negatives, one tie: four pairs."""
    label, score = [1, 1, 0, 0], [3.0, 1.0, 1.0, 2.0]
    estimate = auc_interval(label, score)
    pairs = [1.0 if p > q else 0.5 if p == q else 0.0 for p, q in itertools.product([3.0, 1.0], [1.0, 2.0])]
    assert pairs == [1.0, 1.0, 0.5, 0.0]
    assert estimate.auc == 0.625
    # V10 = (1, .25), V01 = (.75, .5): variance .28125 / 2 + .03125 / 2.
    assert estimate.standard_error == pytest.approx(math.sqrt(0.15625))
