from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from phcc_model.errors import DatasetError
from phcc_model.threshold import BINS, ScoreHistogram

Scored = list[tuple[float, int]]
# Edges of bins on purpose, too: there binning and deciding could disagree.
probability = st.one_of(st.floats(0.0, 1.0), st.integers(0, BINS).map(lambda k: k / BINS))
scored: st.SearchStrategy[Scored] = st.lists(st.tuples(probability, st.integers(0, 1)), max_size=40)
both_classes = scored.filter(lambda rows: len({label for _, label in rows}) == 2)


def arrays(rows: Scored) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return np.array([s for s, _ in rows], np.float64), np.array([y for _, y in rows], np.int64)


def counted(rows: Scored) -> ScoreHistogram:
    return ScoreHistogram.from_scores(*arrays(rows))


def youden_index(rows: Scored, threshold: float) -> float:
    score, label = arrays(rows)
    called = score >= threshold
    return float(called[label == 1].mean() - called[label == 0].mean())


@settings(deadline=None, max_examples=60)
@given(a=scored, b=scored, c=scored)
def test_histograms_of_sites_add_up(a: Scored, b: Scored, c: Scored) -> None:
    assert counted(a) + counted(b) == counted(b) + counted(a) == counted(a + b)
    assert (counted(a) + counted(b)) + counted(c) == counted(a) + (counted(b) + counted(c))
    assert counted(a) + ScoreHistogram.empty() == counted(a)
    assert ScoreHistogram.from_array(counted(a).to_array()) == counted(a)
    assert counted(a).positives + counted(a).negatives == len(a)


@settings(deadline=None, max_examples=100)
@given(rows=both_classes)
def test_auc_lies_within_its_error_of_the_scores_own(rows: Scored) -> None:
    score, label = arrays(rows)
    histogram = counted(rows)
    assert abs(histogram.auc - roc_auc_score(label, score)) <= histogram.auc_error + 1e-9


@settings(deadline=None, max_examples=100)
@given(rows=both_classes)
@example(rows=[(1.0, 1), (0.99609375, 0)])
def test_no_other_edge_separates_the_patients_better(rows: Scored) -> None:
    # The last bin holds the score 1 as well: the edge at 1 lies within a bin, and no count tells what it parts.
    best = max(youden_index(rows, k / BINS) for k in range(BINS))
    assert youden_index(rows, counted(rows).youden()) == pytest.approx(best)


def test_threshold_lies_in_the_middle_of_the_gap() -> None:
    histogram = ScoreHistogram.from_scores([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert histogram.youden() == pytest.approx(0.5, abs=1 / BINS)
    assert histogram.auc == 1.0


def test_large_study_loses_almost_nothing_to_binning() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 5000)
    score = 1.0 / (1.0 + np.exp(-rng.normal(label, 1.0)))
    parts = [ScoreHistogram.from_scores(score[a:b], label[a:b]) for a, b in pairwise([0, 17, 900, 5000])]
    pooled = parts[0] + parts[1] + parts[2]
    assert pooled.auc_error < 0.005
    assert pooled.auc == pytest.approx(roc_auc_score(label, score), abs=pooled.auc_error)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_fixes_no_threshold(label: int) -> None:
    histogram = ScoreHistogram.from_scores([0.3, 0.6], [label, label])
    assert np.isnan(histogram.auc)
    with pytest.raises(DatasetError, match="fix no threshold"):
        histogram.youden()


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_score_that_is_no_probability_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        ScoreHistogram.from_scores([0.5, score], [0, 1])


def test_unknown_labels_and_malformed_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown labels"):
        ScoreHistogram.from_scores([0.5], [-1])
    with pytest.raises(ValueError, match="one length"):
        ScoreHistogram.from_scores([0.5], [0, 1])
    with pytest.raises(ValueError, match="score histogram is an array"):
        ScoreHistogram.from_array(np.zeros((2, BINS + 1), np.int64))
    with pytest.raises(ValueError, match="non-negative"):
        ScoreHistogram.from_array(np.full((2, BINS), -1, np.int64))
