from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.seeds import generator
from phcc_model.statistics import auc, bootstrap_auc, bootstrap_difference, sample
from phcc_model.statistics.bootstrap import _draw, _WeightedAuc


def data(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    draw = generator(0, "bootstrap data")
    label = (np.arange(n) % 3 == 0).astype(int)
    return label, np.round(draw.normal(size=n) + label, 1)


@given(st.lists(st.integers(0, 4), min_size=12, max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_weight_is_a_case_so_many_times_over(weights: list[int]) -> None:
    label = np.array([0, 1] * 6)
    score = np.array([1, 2, 2, 3, 5, 1, 3, 3, 2, 4, 0, 5], dtype=float)
    repeated = np.repeat(np.arange(12), weights)
    expected = auc(label[repeated], score[repeated])
    if expected is not None:
        weighted = _WeightedAuc(sample(label, score))(np.array([[1] * 12, weights], dtype=float))
        assert weighted == pytest.approx([auc(label, score), expected], abs=1e-12)


def test_patients_are_drawn_whole_and_within_their_stratum() -> None:
    label = np.array([1, 1, 0, 0, 0, 1, 0])
    patient = np.array([0, 0, 1, 1, 2, 3, 3])
    (weights,) = _draw(sample(label, np.zeros(7), patient), 50, generator(0, "draw"))
    assert weights.shape == (50, 7)
    for weight in weights:
        assert weight[0] == weight[1]
        assert weight[2] == weight[3]
        assert weight[5] == weight[6] == 1.0  # the only patient with both classes
        assert weight[2] + weight[4] == 2.0


def test_same_stream_same_interval() -> None:
    label, score = data()
    first, second, other = (bootstrap_auc(label, score, generator=generator(seed)) for seed in (1, 1, 2))
    assert first == second
    assert first != other
    assert first.replicates == 1000


def test_many_cases_are_drawn_in_blocks_and_none_is_missed() -> None:
    label, score = np.arange(30_000) % 2, np.zeros(30_000)
    blocks = list(_draw(sample(label, score), 40, generator(0, "draw")))
    assert len(blocks) > 1
    assert sum(len(block) for block in blocks) == 40
    assert all((block.sum(axis=1) == 30_000).all() for block in blocks)


def test_identical_arms_never_differ() -> None:
    label, score = data()
    found = bootstrap_difference(label, score, score, generator=generator(0), replicates=50)
    assert (found.low, found.high) == (0.0, 0.0)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    label, score = data()
    narrow, wide = (
        bootstrap_auc(label, score, generator=generator(0), confidence=level) for level in (0.8, 0.99)
    )
    assert wide.low < narrow.low < auc(label, score) < narrow.high < wide.high


@pytest.mark.parametrize(
    ("label", "replicates", "word"),
    [([1, 1], 10, "one class only"), ([1, 0, 0], 10, "one patient only"), ([1, 1, 0, 0], 0, "asked for")],
)
def test_not_defined_says_why(label: list[int], replicates: int, word: str) -> None:
    score = np.arange(len(label))
    for found in (
        bootstrap_auc(label, score, generator=generator(0), replicates=replicates),
        bootstrap_difference(label, score, -score, generator=generator(0), replicates=replicates),
    ):
        assert (found.low, found.high, found.replicates) == (None, None, 0)
        assert word in found.reason
