from __future__ import annotations

import numpy as np
import pytest

from phcc_model.seeds import generator
from phcc_model.statistics import precision_recall


def test_a_curve_by_hand() -> None:
    """Called in turn 1, 0, 1: precision 1 at recall 1/2, then 1/2, then 2/3 at recall 1: area 1/2 + 1/2 * 2/3."""
    found = precision_recall([1, 0, 1], [0.9, 0.8, 0.7])
    assert found.average_precision == pytest.approx(1 / 2 + 1 / 3)
    assert found.recall_k.tolist() == [0.0, 0.5, 0.5, 1.0]
    assert found.precision_k == pytest.approx([1.0, 1.0, 0.5, 2 / 3])


def test_a_score_that_knows_nothing_has_the_prevalence() -> None:
    draw = generator(0, "nothing")
    label = (draw.random(5000) < 0.3).astype(int)
    found = precision_recall(label, draw.random(5000))
    assert found.average_precision == pytest.approx(found.prevalence, abs=0.03)
    assert precision_recall(label, np.zeros(5000)).average_precision == pytest.approx(label.mean())


def test_ranks_alone_count() -> None:
    draw = generator(0, "ranks")
    label, score = draw.integers(0, 2, 60), draw.random(60).round(1)
    plain = precision_recall(label, score)
    bent = precision_recall(label, np.exp(3 * score) - 7)
    assert plain.average_precision == bent.average_precision
    assert (plain.precision_k == bent.precision_k).all()


def test_one_class_only_says_why() -> None:
    found = precision_recall([0, 0], [0.1, 0.2])
    assert (found.average_precision, found.reason) == (None, "one class only: all 2 cases are negative")
