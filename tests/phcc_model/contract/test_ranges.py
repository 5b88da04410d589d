"""Ranges that leave a hospital: rounded outwards, whole, plausible, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_model.contract.ranges import ENDS, QUANTITIES, check_ranges
from phcc_model.errors import ContractError


@st.composite
def measured(draw: st.DrawFn) -> tuple[str, float, float]:
    name = draw(st.sampled_from(sorted(QUANTITIES)))
    known = QUANTITIES[name]
    values = st.floats(known.least + known.step, known.most - known.step)
    low, high = sorted((draw(values), draw(values)))
    return name, low, high


@given(measured())
def test_a_range_is_rounded_outwards_by_less_than_a_step_and_then_believed(
    one: tuple[str, float, float],
) -> None:
    name, low, high = one
    step = QUANTITIES[name].step
    down, up = QUANTITIES[name].rounded(low, high)
    assert low - step * 1.001 < down <= low + step * 1e-5
    assert high - step * 1e-5 <= up < high + step * 1.001
    assert QUANTITIES[name].rounded(down, up) == (down, up)
    check_ranges({f"{name}.low": down, f"{name}.high": up})


@pytest.mark.parametrize(
    "seen",
    [
        {"field.low": 1.5},
        {"field.low": 3.0, "field.high": 1.5},
        {"field.low": 1.5, "field.high": float("nan")},
        {"field.low": 1.5, "field.high": float("inf")},
        {"field.low": 1.5, "field.high": 90.0},
        {"field.low": 1.4937, "field.high": 1.5},
        {"spacing.d.low": -1.0, "spacing.d.high": 2.0},
        {"age.low": 40.0, "age.high": 70.0},
    ],
)
def test_what_is_no_range_is_named(seen: dict[str, float]) -> None:
    with pytest.raises(ContractError, match=r"seen\.(field|spacing\.d|age)"):
        check_ranges(seen)


def test_the_names_say_what_is_measured_and_nothing_of_a_patient() -> None:
    assert {
        "spacing.d.low",
        "field.high",
        "enhancement.arterial.low",
        "seconds.arterial.delayed.high",
    } <= ENDS
    assert len(ENDS) == 2 * len(QUANTITIES)
