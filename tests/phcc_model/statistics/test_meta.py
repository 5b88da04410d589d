from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import norm, t

from phcc_model.errors import DataError
from phcc_model.seeds import generator
from phcc_model.statistics import auc_interval, pool, pool_aucs

# Thirteen trials of BCG against tuberculosis (Colditz et al., JAMA 1994;271:698-702; van Houwelingen et al.,
# Statistics in Medicine 2002;21:589-624): vaccinated with and without disease, not vaccinated with and without.
_BCG = """
4 119 11 128   6 300 29 274   3 228 11 209   62 13536 248 12619   33 5036 47 5761   180 1361 372 1079
8 2537 10 619   505 87886 499 87892   29 7470 45 7232   17 1699 65 1600   186 50448 141 27197
5 2493 3 2338   27 16886 29 17825
"""


@pytest.fixture
def bcg() -> tuple[np.ndarray, np.ndarray]:
    """Log risk ratios and their variances."""
    a, b, c, d = np.array(_BCG.split(), dtype=np.float64).reshape(-1, 4).T
    return np.log(a / (a + b)) - np.log(c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def test_the_textbook_example(bcg: tuple[np.ndarray, np.ndarray]) -> None:
    """As R's metafor and Stata's metan print it (Viechtbauer, Journal of Statistical Software 2010;36(3))."""
    found = pool(*bcg)
    assert found.value == pytest.approx(-0.7141, abs=5e-5)
    assert (found.wald_low, found.wald_high) == pytest.approx((-1.0644, -0.3638), abs=6e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.tau2 == pytest.approx(0.3088, abs=5e-5)
    assert found.i2 == pytest.approx(0.9212, abs=5e-5)
    assert found.q_p < 1e-20
    assert found.centres == 13


def test_hartung_knapp_and_prediction_by_their_formulas(bcg: tuple[np.ndarray, np.ndarray]) -> None:
    y, v = bcg
    found = pool(y, v)
    w = 1 / (v + found.tau2)
    variance = sum(w * (y - found.value) ** 2) / (12 * sum(w))
    assert found.high - found.value == pytest.approx(t.ppf(0.975, 12) * math.sqrt(variance))
    reach = t.ppf(0.975, 11) * math.sqrt(found.tau2 + 1 / sum(w))
    assert found.predicted_low == pytest.approx(found.value - reach)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 4)), min_size=2, max_size=8), st.floats(-3, 3))
def test_laws(centres: list[tuple[float, float]], shift: float) -> None:
    y, v = np.array(centres).T
    found = pool(y, v)
    assert found.low <= found.wald_low <= found.value <= found.wald_high <= found.high
    assert y.min() - 1e-9 <= found.value <= y.max() + 1e-9
    assert found.tau2 >= 0.0
    assert 0.0 <= found.i2 < 1.0
    assert (found.predicted_low is None) == (len(y) < 3)
    moved = pool(y[::-1] + shift, v[::-1])
    assert moved.value == pytest.approx(found.value + shift, abs=1e-6)
    assert moved.tau2 == pytest.approx(found.tau2, abs=1e-6)


def test_equal_centres_have_nothing_between_them() -> None:
    found = pool([0.3] * 5, [0.1] * 5)
    assert (found.tau2, found.i2) == (0.0, 0.0)
    assert found.value == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(math.sqrt(0.1 / 5))
    assert found.warnings == ()


def test_too_few_to_pool() -> None:
    assert pool([0.3], [0.1]).reason == "one centre only: there is nothing to pool"
    assert pool([], []).value is None
    assert "only 2 centres" in pool([0.3, 0.4], [0.1, 0.1]).warnings[0]


@pytest.mark.parametrize(
    ("y", "v"), [([1, 2], [0.1, 0]), ([1, math.nan], [1, 1]), ([1, 2], [1]), ([1], [-1])]
)
def test_estimates_without_a_variance_are_refused(y: list, v: list) -> None:
    with pytest.raises(DataError, match="variance"):
        pool(y, v)


def drawn(centre: str, positives: int, negatives: int, shift: float) -> tuple[list[int], np.ndarray]:
    score = generator(3, "centre", centre).normal(size=positives + negatives)
    score[:positives] += shift
    return [1] * positives + [0] * negatives, score


def test_aucs_of_centres() -> None:
    estimates = {name: auc_interval(*drawn(name, 40, 60, 1.0)) for name in "ABCDEF"}
    found = pool_aucs(estimates)
    y = np.array([logit(e.auc) for e in estimates.values()])
    v = np.array([(e.standard_error / e.auc / (1 - e.auc)) ** 2 for e in estimates.values()])
    plain = pool(y, v)
    assert (found.value, found.low, found.high) == pytest.approx(expit([plain.value, plain.low, plain.high]))
    assert found.low < norm.cdf(1 / math.sqrt(2)) < found.high
    assert pool_aucs(dict(reversed(estimates.items()))) == found


def test_a_centre_that_ranks_without_an_error_counts_and_one_of_one_class_is_named() -> None:
    good = auc_interval([1, 1, 1, 0, 0, 0], [6, 5, 4, 3, 2, 1])
    fair = auc_interval(*drawn("fair", 40, 60, 0.8))
    one = auc_interval([0, 0, 0], [0.1, 0.2, 0.3])
    found = pool_aucs({"good": good, "fair": fair, "one": one})
    assert good.auc == 1.0
    assert found.centres == 2
    assert found.left_out == {"one": "one class only: all 3 cases are negative"}
    assert fair.auc < found.value < 1.0
    bad = auc_interval([0, 0, 0, 1, 1, 1], [6, 5, 4, 3, 2, 1])
    mirrored = pool_aucs(
        {"bad": bad, "fair": auc_interval([0] * 40 + [1] * 60, drawn("fair", 40, 60, 0.8)[1])}
    )
    assert mirrored.value == pytest.approx(1.0 - found.value)


def test_the_interval_covers_over_drawn_federations() -> None:
    """200 federations of five centres whose true AUCs differ: the mean is covered about as often as promised."""
    source = generator(5, "federations")
    mean, tau = 1.2, 0.35
    hits = 0
    for _ in range(200):
        truth = mean + tau * source.normal(size=5)
        v = source.uniform(0.03, 0.15, size=5)
        found = pool(truth + np.sqrt(v) * source.normal(size=5), v)
        hits += found.low <= mean <= found.high
    assert hits >= 184
