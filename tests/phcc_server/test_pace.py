from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_server.pace import Pace, in_words

SECONDS = st.floats(0.1, 1000.0)


def test_nothing_is_known_before_the_first_round() -> None:
    pace = Pace({"pretrain": 3, "finetune": 4})
    assert pace.seconds_left is None
    assert (pace.done, pace.total) == (0, 7)


def test_stages_are_timed_apart_and_one_not_seen_yet_costs_the_average() -> None:
    pace = Pace({"pretrain": 3, "finetune": 4})
    pace.round_done("pretrain", 10.0)
    assert pace.seconds_left == pytest.approx(2 * 10 + 4 * 10)
    pace.round_done("pretrain", 20.0)
    assert pace.seconds_left == pytest.approx(15 + 4 * 15)
    pace.round_done("finetune", 3.0)
    assert pace.seconds_left == pytest.approx(15 + 3 * 3)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.lists(SECONDS, min_size=1, max_size=5), min_size=1))
def test_a_plan_carried_out_ends_with_no_time_left(rounds: dict[str, list[float]]) -> None:
    pace = Pace({stage: len(seconds) for stage, seconds in rounds.items()})
    total = pace.total
    for stage, seconds in rounds.items():
        for at, each in enumerate(seconds):
            pace.round_done(stage, each)
            left = pace.seconds_left
            assert left is not None
            assert left >= (len(seconds) - at - 1) * min(seconds) * (1 - 1e-12)  # rounding of a mean
    assert pace.seconds_left == 0.0
    assert pace.done == pace.total == total


def test_rounds_that_are_not_run_after_all_are_taken_out() -> None:
    pace = Pace({"pretrain": 3, "finetune": 4})
    pace.round_done("pretrain", 10.0)
    pace.skip("finetune", 3)
    assert pace.total == 4
    assert pace.seconds_left == pytest.approx(30.0)
    pace.skip("pretrain", 99)  # never below what was done
    assert pace.total == 2
    assert pace.seconds_left == pytest.approx(10.0)


def test_more_rounds_than_planned_do_not_make_time_negative() -> None:
    pace = Pace({"finetune": 1})
    for _ in range(3):
        pace.round_done("finetune", 5.0)
    assert (pace.done, pace.total, pace.seconds_left) == (3, 3, 0.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "unknown"),
        (0.0, "0 s"),
        (40.4, "40 s"),
        (89.4, "89 s"),
        (100.0, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (2 * 3600, "2 h 0 min"),
        (2 * 3600 - 1, "2 h 0 min"),
        (30 * 3600, "30 h 0 min"),
    ],
)
def test_seconds_are_said_as_people_say_them(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
