from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.errors import DataError
from phcc_model.statistics import auc, roc_curve, youden_threshold


def test_ties_count_half_and_constant_scores_are_a_coin() -> None:
    assert auc([0, 1, 0, 1], [1, 1, 1, 1]) == 0.5
    assert auc([0, 1], [0.2, 0.2]) == 0.5
    assert auc([0, 0, 1], [0.1, 0.5, 0.5]) == 0.75


@pytest.mark.parametrize("label", [[], [1], [0, 0, 0]])
def test_one_class_has_no_area_and_no_curve(label: list[int]) -> None:
    assert auc(label, [0.3] * len(label)) is None
    assert roc_curve(label, [0.3] * len(label)) is None


def test_the_curve_runs_from_corner_to_corner_and_holds_the_area() -> None:
    label, score = [0, 1, 0, 1, 1], [0.1, 0.4, 0.4, 0.8, 0.3]
    curve = roc_curve(label, score)
    assert (curve.false_positive_rate_k[0], curve.true_positive_rate_k[0]) == (0.0, 0.0)
    assert (curve.false_positive_rate_k[-1], curve.true_positive_rate_k[-1]) == (1.0, 1.0)
    area = np.trapezoid(curve.true_positive_rate_k, curve.false_positive_rate_k)
    assert area == pytest.approx(auc(label, score))


labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=25).filter(
    lambda cases: {label for label, _ in cases} == {0, 1}
)


@given(labelled)
@settings(max_examples=60, deadline=None)
def test_no_threshold_beats_youdens(cases: list[tuple[int, int]]) -> None:
    label, score = (np.array(column) for column in zip(*cases, strict=True))

    def index(threshold: float) -> float:
        called = score >= threshold
        return called[label == 1].mean() - called[label == 0].mean()

    chosen = youden_threshold(label, score)
    best = max(index(threshold) for threshold in score)
    assert index(chosen) == pytest.approx(best)
    assert chosen == max(threshold for threshold in score if index(threshold) == pytest.approx(best))


def test_no_threshold_from_one_class() -> None:
    with pytest.raises(DataError, match="one class only"):
        youden_threshold([1, 1], [0.2, 0.3])
