from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.schedule import climb, rate_factor, step_position

shares = st.floats(0.0, 1.0)


def test_values_of_warm_up_and_cosine() -> None:
    assert rate_factor(0.0, 0.2) == 0.0
    assert rate_factor(0.1, 0.2) == pytest.approx(0.5)
    assert rate_factor(0.2, 0.2) == 1.0
    assert rate_factor(0.6, 0.2) == pytest.approx(0.5)
    assert rate_factor(1.0, 0.2) == pytest.approx(0.0)
    assert rate_factor(0.0, 0.0) == 1.0
    assert rate_factor(1.0, 1.0) == 1.0


@settings(deadline=None, max_examples=100)
@given(position=shares, later=shares, warmup=shares)
def test_up_to_the_peak_then_down(position: float, later: float, warmup: float) -> None:
    position, later = sorted((position, later))
    first, second = rate_factor(position, warmup), rate_factor(later, warmup)
    assert 0.0 <= first <= 1.0
    if later <= warmup:
        assert first <= second
    if position >= warmup:
        assert first >= second


@settings(deadline=None, max_examples=50)
@given(rounds=st.integers(1, 12), steps=st.integers(1, 9))
def test_positions_climb_through_the_whole_training(rounds: int, steps: int) -> None:
    positions = [
        step_position(r, s, rounds=rounds, steps_per_round=steps) for r in range(rounds) for s in range(steps)
    ]
    assert positions == sorted(set(positions))
    assert positions[0] > 0.0
    assert positions[-1] < 1.0
    assert sum(positions) / len(positions) == pytest.approx(0.5)


def test_sites_of_different_size_stand_at_the_same_point_after_a_round() -> None:
    small = step_position(3, 0, rounds=10, steps_per_round=1)
    large = [step_position(3, s, rounds=10, steps_per_round=40) for s in range(40)]
    assert min(large) < small < max(large)
    assert sum(large) / len(large) == pytest.approx(small)


@pytest.mark.parametrize(("round_index", "step"), [(-1, 0), (10, 0), (0, -1), (0, 4)])
def test_a_point_outside_the_training_is_refused(round_index: int, step: int) -> None:
    with pytest.raises(ValueError, match="no such point"):
        step_position(round_index, step, rounds=10, steps_per_round=4)


@pytest.mark.parametrize(("position", "warmup"), [(-0.1, 0.1), (1.1, 0.1), (0.5, -0.1), (0.5, 1.1)])
def test_a_share_outside_zero_and_one_is_refused(position: float, warmup: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        rate_factor(position, warmup)


@given(steps=st.integers(1, 60), share=shares)
def test_the_rate_climbs_within_a_round_and_stays(steps: int, share: float) -> None:
    factors = [climb(step, steps, share) for step in range(steps)]
    assert factors == sorted(factors)
    assert factors[0] > 0.0
    assert factors[-1] <= 1.0
    whole = sum(factor == 1.0 for factor in factors)
    assert whole >= math.floor((1.0 - share) * steps)
    if share == 0.0:
        assert whole == steps


def test_half_of_a_round_of_four_steps() -> None:
    assert [climb(step, 4, 0.5) for step in range(4)] == [0.25, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("step", "share"), [(-1, 0.1), (4, 0.1), (0, -0.1), (0, 1.1)])
def test_a_point_outside_a_round_is_refused(step: int, share: float) -> None:
    with pytest.raises(ValueError, match="no such point"):
        climb(step, 4, share)
