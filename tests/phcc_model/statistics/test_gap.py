from __future__ import annotations

import numpy as np
import pytest

from phcc_model.seeds import generator
from phcc_model.statistics import auc_gap, auc_interval


def test_a_model_that_learned_by_heart() -> None:
    draw = generator(0, "gap")
    label = draw.integers(0, 2, 80)
    heart = auc_interval(label, label + 0.1 * draw.random(80))
    test = auc_interval(label, draw.random(80))
    found = auc_gap(heart, test)
    assert found.value == pytest.approx(1.0 - test.auc)
    assert 0.0 < found.low < found.value < found.high < 1.0


def test_it_agrees_with_drawing_patients_anew() -> None:
    source = generator(1, "gap")
    label = np.array([0, 1] * 60)
    train, test = (source.normal(size=120) + gain * label for gain in (2.0, 0.8))
    found = auc_gap(auc_interval(label, train), auc_interval(label, test))
    values = []
    for _ in range(400):
        one, two = source.integers(120, size=120), source.integers(120, size=120)
        values.append(auc_interval(label[one], train[one]).auc - auc_interval(label[two], test[two]).auc)
    assert (found.low, found.high) == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.03)


def test_what_is_missing_is_named() -> None:
    good = auc_interval([0, 1], [0.1, 0.9])
    none = auc_interval([1, 1], [0.1, 0.9])
    assert auc_gap(good, none).reason == "test: one class only: all 2 cases are positive"
    assert auc_gap(none, good).reason == "training: one class only: all 2 cases are positive"
