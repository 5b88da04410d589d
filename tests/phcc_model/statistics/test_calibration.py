from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from phcc_model.seeds import generator
from phcc_model.statistics import assess_calibration

N = 6000


def outcomes(truth: np.ndarray, name: str) -> np.ndarray:
    return (generator(0, "outcomes", name).random(len(truth)) < truth).astype(int)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return generator(0, "logits").normal(-0.4, 1.2, size=N)


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.8, 1.0), (0.0, 2.0), (0.0, 0.5), (-0.5, 1.5)])
def test_a_planted_miscalibration_is_found(logits: np.ndarray, shift: float, scale: float) -> None:
    """Logits of scale times the true ones have a slope of 1 / scale: over-confident above 1."""
    label = outcomes(expit(logits), "planted")
    found = assess_calibration(label, expit(scale * logits + shift))
    assert found.slope.value == pytest.approx(1.0 / scale, abs=0.08)
    assert found.slope.low < 1.0 / scale < found.slope.high
    if scale == 1.0:
        assert found.intercept.value == pytest.approx(-shift, abs=0.08)
        assert found.intercept.low < -shift < found.intercept.high


def test_the_fits_and_their_errors_are_those_of_the_likelihood(logits: np.ndarray) -> None:
    """Against a general minimiser of the negative log-likelihood, its curvature taken by differences."""
    x = logits[:400]
    label = outcomes(expit(0.5 * x + 0.3), "likelihood")
    found = assess_calibration(label, expit(x))

    def negative_log_likelihood(at: np.ndarray) -> float:
        linear = at[0] + at[1] * x
        return float(np.sum(np.logaddexp(0.0, linear) - label * linear))

    both = minimize(negative_log_likelihood, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8})
    assert found.slope.value == pytest.approx(both.x[1], abs=1e-4)
    step = 1e-3
    moves = [np.array(move) * step for move in ((1.0, 0.0), (0.0, 1.0))]
    curvature = [
        [
            sum(
                4 * a * b * negative_log_likelihood(both.x + a * first + b * second)
                for a in (-0.5, 0.5)
                for b in (-0.5, 0.5)
            )
            / step**2
            for second in moves
        ]
        for first in moves
    ]
    error = np.sqrt(np.linalg.inv(curvature)[1, 1])
    assert (found.slope.high - found.slope.low) / 2 == pytest.approx(1.959964 * error, rel=1e-3)

    alone = minimize_scalar(lambda shift: negative_log_likelihood(np.array([shift, 1.0])))
    assert found.intercept.value == pytest.approx(alone.x, abs=1e-5)


def test_brier_is_scikit_learns_and_bins_share_out_the_cases(logits: np.ndarray) -> None:
    probability = expit(logits[:333])
    label = outcomes(probability, "bins")
    found = assess_calibration(label, probability, bins=8)
    assert found.brier == pytest.approx(brier_score_loss(label, probability))
    assert len(found.bins) == 8
    assert sum(part.observed.trials for part in found.bins) == 333
    assert sum(part.observed.successes for part in found.bins) == label.sum()
    assert max(part.observed.trials for part in found.bins) <= 43
    predicted = [part.predicted for part in found.bins]
    assert predicted == sorted(predicted)


def test_equal_scores_share_a_bin() -> None:
    found = assess_calibration([0, 1, 1, 0, 1, 0], [0.2, 0.2, 0.2, 0.7, 0.7, 0.7], bins=10)
    assert [part.observed.trials for part in found.bins] == [3, 3]
    assert [part.predicted for part in found.bins] == pytest.approx([0.2, 0.7])


@pytest.mark.parametrize(
    ("label", "score", "word"),
    [
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], "equal"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "separate"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], "separate"),
        ([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9], "separate"),
        ([1, 1, 1], [0.2, 0.5, 0.9], "one class only"),
    ],
)
def test_no_slope_where_none_exists(label: list[int], score: list[float], word: str) -> None:
    found = assess_calibration(label, score)
    assert found.slope.value is None
    assert word in found.slope.reason
    assert found.brier is not None


def test_saturated_scores_are_kept_finite() -> None:
    found = assess_calibration([0, 1, 0, 1], [0.0, 1.0, 1.0, 0.0])
    assert np.isfinite(found.slope.value)
    assert found.slope.value == pytest.approx(0.0, abs=1e-6)
    assert found.intercept.value == pytest.approx(0.0, abs=1e-6)


def test_scores_that_are_no_probabilities_are_named() -> None:
    for found in (assess_calibration([0, 1], [-0.1, 1.4]), assess_calibration([0, 1], [0.2, 17.0])):
        assert found.brier is None
        assert found.reason == "scores are not probabilities between 0 and 1"
        assert found.slope.reason == found.intercept.reason == found.reason
    assert assess_calibration([], []).reason == "no cases"


def test_intercept_reaches_extreme_scores() -> None:
    found = assess_calibration([1, 0, 1], [1e-9, 1e-9, 1e-9])
    assert found.intercept.value == pytest.approx(float(logit(2 / 3) - logit(1e-6)))
