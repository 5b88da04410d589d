from __future__ import annotations

import numpy as np
import pytest

from phcc_model.errors import DataError
from phcc_model.seeds import generator
from phcc_model.statistics import assess_subgroups, auc_interval


def drawn(n: int, shift: float, name: str) -> tuple[list[int], np.ndarray]:
    score = generator(0, "subgroup", name).normal(size=2 * n)
    score[:n] += shift
    return [1] * n + [0] * n, score


def test_groups_are_told_apart_and_compared() -> None:
    (label_a, score_a), (label_b, score_b) = drawn(60, 2.5, "a"), drawn(60, 0.3, "b")
    found = assess_subgroups([*label_a, *label_b], [*score_a, *score_b], ["a"] * 120 + ["b"] * 120)
    assert [one.name for one in found.groups] == ["a", "b"]
    assert found.groups[0].estimate == auc_interval(label_a, score_a)
    assert found.compared == 2
    assert found.p < 0.001
    same = assess_subgroups([*label_a, *label_a], [*score_a, *score_a], ["a"] * 120 + ["b"] * 120)
    assert same.p == pytest.approx(1.0)


def test_a_group_that_is_too_small_says_nothing() -> None:
    label, score = drawn(30, 1.0, "large")
    found = assess_subgroups([*label, 1, 0, 0], [*score, 0.0, 1.0, 2.0], ["large"] * 60 + ["small"] * 3)
    small = found.groups[1]
    assert small.too_small == "too small to say anything: only 1 positive patient"
    assert small.estimate.auc == 0.0
    assert (found.p, found.compared) == (None, 1)


def test_cases_of_one_patient_count_once() -> None:
    label, score = drawn(12, 1.0, "patients")
    found = assess_subgroups(label, score, ["x"] * 24, [f"p{n // 4}" for n in range(24)])
    assert found.groups[0].too_small == "too small to say anything: only 3 positive patients"


def test_unknown_is_last_and_not_compared() -> None:
    label, score = drawn(20, 1.0, "unknown")
    found = assess_subgroups(label * 3, [*score] * 3, ["z"] * 40 + [""] * 40 + ["y"] * 40)
    assert [one.name for one in found.groups] == ["y", "z", "unknown"]
    assert found.compared == 2


def test_one_class_only_is_not_defined() -> None:
    found = assess_subgroups([1, 1, 0], [0.5, 0.6, 0.1], ["a", "a", "b"])
    assert [one.estimate.auc for one in found.groups] == [None, None]
    assert found.groups[0].too_small == "too small to say anything: one class only: all 2 cases are positive"


def test_groups_and_cases_belong_together() -> None:
    with pytest.raises(DataError, match="1 groups and 2 cases"):
        assess_subgroups([0, 1], [0.1, 0.2], ["a"])
