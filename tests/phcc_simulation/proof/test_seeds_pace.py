"""What several seeds' journals become: one line a stage, the time that is gone and the time that is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from phcc_server.journal import Event
from phcc_simulation.proof.pace import SeedsPace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def plan(pretrain: int = 2, finetune: int = 3) -> Event:
    arms = [
        {"arm": "full", "pretrain": pretrain, "finetune": finetune},
        {"arm": "afp", "pretrain": 0, "finetune": 0},
        {"arm": "concat", "pretrain": pretrain, "finetune": finetune},
    ]
    return Event("plan", {"arms": arms})


def trained(arm: str, stage: str, number: int, seconds: float = 10.0, status: str = "COMPLETE") -> Event:
    fields = {"arm": arm, "stage": stage, "round": number, "seconds": seconds, "status": status}
    return Event("round", {**fields, "validation_loss": 0.5, "auc": 0.75})


def pace_of(seeds: tuple[int, ...] = (0, 1), at_once: int = 2) -> tuple[SeedsPace, list[str], Clock]:
    lines: list[str] = []
    clock = Clock()
    return SeedsPace(seeds, at_once, lines.append, clock), lines, clock


def test_a_line_for_each_finished_stage_and_none_for_the_rounds_between() -> None:
    pace, lines, _ = pace_of()
    pace.event(0, plan())
    for number in range(2):
        pace.event(0, trained("full", "pretrain", number))
    assert len(lines) == 2
    assert lines[0] == "seed 0: 3 arms: full, afp, concat"
    assert lines[1].startswith("seed 0: full  pretrain 2/2  validation 0.500  AUC 0.750  20 s")


def test_a_round_is_told_after_a_long_silence_or_where_something_is_wrong() -> None:
    pace, lines, clock = pace_of()
    pace.event(0, plan(pretrain=9))
    clock.now = 31.0
    pace.event(0, trained("full", "pretrain", 0))
    assert "pretrain 1/9" in lines[-1]
    pace.event(0, trained("full", "pretrain", 1, status="PARTIAL"))
    assert "pretrain 2/9" in lines[-1]
    assert "PARTIAL" in lines[-1]


def test_time_left_counts_seeds_that_have_not_begun_and_not_what_was_shared() -> None:
    pace, lines, _ = pace_of()
    pace.event(0, plan())
    assert pace.seconds_left is None
    pace.event(0, trained("full", "pretrain", 1))
    # Seed 0: 3 + 2 + 3 rounds of ten seconds; seed 1, like it: 10 rounds, which is longer than half of all.
    assert pace.seconds_left == 100.0
    pace.event(0, trained("concat", "finetune", 0))  # its pre-training was full's
    pace.ended(0, None)
    assert pace.seconds_left == 100.0
    pace.ended(1, "broken")
    assert pace.seconds_left == 0.0
    assert lines[-1].startswith("seed 1: FAILED: broken; 2 of 2 seeds ended")
    assert "about 0 s left" in lines[-1]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.floats(0.0, 100.0)), max_size=20))
def test_time_left_is_never_negative(rounds: list[tuple[int, int, float]]) -> None:
    pace, _, _ = pace_of()
    for seed, number, seconds in rounds:
        pace.event(seed, trained("full", "finetune", number, seconds))
        assert (pace.seconds_left or 0.0) >= 0.0
