from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phcc_model.errors import DataError
from phcc_model.seeds import generator
from phcc_model.statistics import decision_curve


def test_net_benefit_worked_out_by_hand() -> None:
    """Ten patients, four positive.

    At 0.25 six are called, 3 of them positive: 3/10 - 3/10 * 1/3 = 0.2; all: 4/10 - 6/10 * 1/3 = 0.2.
    At 0.5 four are called, 3 positive: 3/10 - 1/10 = 0.2; all: 0.4 - 0.6 = -0.2.
    At 0.8 one is called, positive: 1/10; all: 0.4 - 0.6 * 4 = -2.
    """
    label = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    score = [0.9, 0.6, 0.5, 0.1, 0.7, 0.3, 0.26, 0.2, 0.1, 0.0]
    found = decision_curve(label, score, threshold_t=[0.25, 0.5, 0.8])
    assert found.net_benefit_t == pytest.approx([0.2, 0.2, 0.1])
    assert found.treat_all_t == pytest.approx([0.2, -0.2, -2.0])
    assert found.useful_t.tolist() == [False, True, True]


def test_a_perfect_score_is_worth_the_prevalence_everywhere() -> None:
    found = decision_curve([0, 0, 1, 0], [0.0, 0.0, 1.0, 0.0])
    assert len(found.threshold_t) == 99
    assert found.net_benefit_t == pytest.approx(np.full(99, 0.25))
    assert found.useful_t.all()


@given(arrays(np.int8, 12, elements=st.integers(0, 1)), arrays(np.float64, 12, elements=st.floats(0, 1)))
def test_nothing_beats_knowing_and_calling_everybody_is_treating_all(
    label: np.ndarray, score: np.ndarray
) -> None:
    found = decision_curve(label, score)
    if found.reason is None:
        assert (found.net_benefit_t <= label.mean() + 1e-12).all()
        everybody = decision_curve(label, np.ones(12))
        assert everybody.net_benefit_t == pytest.approx(everybody.treat_all_t)
        assert not everybody.useful_t.any()
    else:
        assert len(found.net_benefit_t) == 0


def test_an_over_confident_score_can_do_harm() -> None:
    draw = generator(0, "harm")
    label = (draw.random(4000) < 0.2).astype(int)
    found = decision_curve(label, np.clip(0.75 + 0.1 * draw.normal(size=4000), 0.0, 1.0))
    assert found.net_benefit_t[49] < -0.5


def test_what_is_not_defined_says_why() -> None:
    assert decision_curve([1, 1], [0.1, 0.2]).reason == "one class only: all 2 cases are positive"
    assert decision_curve([], []).reason == "no cases"
    assert "probabilities" in (decision_curve([0, 1], [-3.0, 2.0]).reason or "")


@pytest.mark.parametrize("cut", [[0.0], [1.0], [np.nan], [[0.5]]])
def test_thresholds_without_odds_are_refused(cut: list) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        decision_curve([0, 1], [0.1, 0.9], threshold_t=cut)
