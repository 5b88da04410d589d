from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from phcc_model.errors import DataError
from phcc_model.statistics import exact_proportion, f1_score, operating_point, predictive_values
from phcc_model.statistics.operating import OperatingPoint


def point(tp: int, fp: int, tn: int, fn: int) -> OperatingPoint:
    label = [1] * (tp + fn) + [0] * (fp + tn)
    score = [1.0] * tp + [0.0] * fn + [1.0] * fp + [0.0] * tn
    return operating_point(label, score, 0.5)


def test_the_liver_scans_of_altman_and_bland() -> None:
    """BMJ 1994;309:102: sensitivity 231/258, specificity 54/86; at a prevalence of 0.25 PPV 0.45, NPV 0.95."""
    scan = point(231, 32, 54, 27)
    found = predictive_values(scan, 0.25)
    assert found.ppv == pytest.approx(0.45, abs=0.005)
    assert found.npv == pytest.approx(0.95, abs=0.005)
    own = predictive_values(scan, 258 / 344)
    assert (own.ppv, own.npv) == pytest.approx((231 / 263, 54 / 81))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.floats(0.01, 0.99))
def test_limits_hold_the_figure_and_rise_with_the_prevalence(
    tp: int, fp: int, tn: int, fn: int, p: float
) -> None:
    found = predictive_values(point(tp, fp, tn, fn), p)
    assert found.ppv_low <= found.ppv <= found.ppv_high
    assert found.npv_low <= found.npv <= found.npv_high
    more = predictive_values(point(tp, fp, tn, fn), (1.0 + p) / 2.0)
    assert more.ppv > found.ppv
    assert more.npv < found.npv


def test_the_interval_covers_what_it_promises() -> None:
    """Exactly: over every outcome of 12 positives and 15 negatives, each with its binomial probability."""
    sens, spec, p = 0.8, 0.7, 0.3
    truth = sens * p / (sens * p + (1 - spec) * (1 - p))
    covered = 0.0
    for tp in range(13):
        for tn in range(16):
            found = predictive_values(point(tp, 15 - tn, tn, 12 - tp), p)
            if found.ppv_high is not None and (found.ppv_low or 0.0) <= truth <= found.ppv_high:
                covered += binom.pmf(tp, 12, sens) * binom.pmf(tn, 15, spec)
    assert 0.95 <= covered < 1.0


def test_one_class_only_says_why() -> None:
    found = predictive_values(point(0, 3, 4, 0), 0.3)
    assert found.ppv is None
    assert found.reason == "no positive cases"
    nobody = predictive_values(point(0, 0, 4, 3), 0.3)
    assert nobody.ppv is None
    assert nobody.npv == pytest.approx(0.7)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, math.nan, 7.0])
def test_a_prevalence_that_is_none_is_refused(prevalence: float) -> None:
    with pytest.raises(DataError, match="prevalence"):
        predictive_values(point(3, 1, 3, 1), prevalence)


def test_f1_and_its_interval() -> None:
    found = f1_score(6, 2, 4)
    assert found.value == pytest.approx(2 * 6 / (12 + 2 + 4))
    share = exact_proportion(6, 12)
    assert found.low == pytest.approx(2 * share.low / (1 + share.low))
    assert f1_score(0, 0, 0).reason == "no cases positive or called positive"
    assert f1_score(0, 3, 0).value == 0.0
    both = point(6, 2, 5, 4)
    assert both.f1.value == pytest.approx(2 / (1 / both.sensitivity.value + 1 / both.ppv.value))
