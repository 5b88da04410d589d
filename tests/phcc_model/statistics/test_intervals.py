from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from phcc_model.errors import DataError
from phcc_model.statistics import exact_proportion, newcombe_auc_interval, operating_point
from phcc_model.statistics.intervals import normal_quantile

SETTINGS = settings(max_examples=60, deadline=None)


@given(st.integers(1, 400), st.data(), st.sampled_from([0.9, 0.95, 0.99]))
@SETTINGS
def test_exact_limits_leave_half_the_error_on_each_side(trials: int, data, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    share = exact_proportion(successes, trials, confidence=confidence)
    tail = (1.0 - confidence) / 2.0
    assert share.value == successes / trials
    assert share.low <= share.value <= share.high
    if successes > 0:
        assert binom.sf(successes - 1, trials, share.low) == pytest.approx(tail, rel=1e-6)
    if successes < trials:
        assert binom.cdf(successes, trials, share.high) == pytest.approx(tail, rel=1e-6)
    expected = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_nothing_counted_is_not_defined() -> None:
    share = exact_proportion(0, 0, of="positive cases")
    assert (share.value, share.low, share.high) == (None, None, None)
    assert share.reason == "no positive cases"


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.0, 1.0))
@SETTINGS
def test_newcombes_limits_solve_their_equation(m: int, n: int, area: float) -> None:
    low, high = newcombe_auc_interval(area, m, n)
    assert 0.0 <= low <= area + 1e-9
    assert area - 1e-9 <= high <= 1.0
    z, n_star = normal_quantile(0.95), (m + n) / 2 - 1
    for theta in (low, high):
        if 0.0 < theta < 1.0:
            spread = 1 + n_star * (1 - theta) / (2 - theta) + n_star * theta / (1 + theta)
            variance = theta * (1 - theta) / (m * n) * spread
            assert abs(area - theta) == pytest.approx(z * math.sqrt(variance), abs=1e-6)


@given(st.floats(0.0, 1.0))
@SETTINGS
def test_newcombe_with_one_pair_is_wilsons_interval(area: float) -> None:
    """With one patient of each class the correction vanishes: a share of one trial."""
    z2 = normal_quantile(0.95) ** 2
    middle = (area + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (area * (1 - area) + z2 / 4)) / (1 + z2)
    assert newcombe_auc_interval(area, 1, 1) == pytest.approx((middle - half, middle + half), abs=1e-8)


def test_more_patients_make_a_separated_sample_surer() -> None:
    lows = [newcombe_auc_interval(1.0, size, size)[0] for size in (2, 5, 20, 100, 1000)]
    assert lows == sorted(lows)
    assert lows[-1] > 0.99


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        normal_quantile(confidence)


def test_operating_point_by_hand() -> None:
    label = [1, 1, 1, 0, 0, 0, 0]
    score = [0.9, 0.5, 0.2, 0.7, 0.4, 0.3, 0.1]
    point = operating_point(label, score, 0.5)
    counts = point.true_positives, point.false_positives, point.true_negatives, point.false_negatives
    assert counts == (2, 1, 3, 1)
    assert point.sensitivity.value == pytest.approx(2 / 3)
    assert point.specificity.value == 0.75
    assert point.ppv.value == pytest.approx(2 / 3)
    assert point.npv.value == 0.75
    assert (point.sensitivity.successes, point.sensitivity.trials) == (2, 3)


def test_operating_point_takes_a_threshold_for_each_case() -> None:
    point = operating_point([1, 0], [0.6, 0.6], [0.5, 0.7])
    assert (point.sensitivity.value, point.specificity.value) == (1.0, 1.0)


def test_operating_point_of_one_class_defines_what_it_can() -> None:
    point = operating_point([0, 0, 0], [0.1, 0.2, 0.3], 0.9)
    assert point.specificity.value == 1.0
    assert (point.sensitivity.value, point.sensitivity.reason) == (None, "no positive cases")
    assert (point.ppv.value, point.ppv.reason) == (None, "no cases called positive")


@pytest.mark.parametrize("threshold", [math.nan, [0.5, 0.5, 0.5]])
def test_a_threshold_that_is_none_is_refused(threshold: object) -> None:
    with pytest.raises(DataError, match="thresholds must be numbers"):
        operating_point([0, 1], [0.1, 0.2], threshold)
