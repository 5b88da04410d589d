from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from phcc_server.journal import Event
from phcc_server.screen import Screen

PLAN = [
    {"arm": "full", "pretrain": 2, "finetune": 3},
    {"arm": "mean", "pretrain": 2, "finetune": 3},
    {"arm": "afp", "pretrain": 0, "finetune": 0},
]


class Clock:
    """Time as a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("phcc_server.screen.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def plain() -> tuple[Screen, io.StringIO]:
    """A screen that is no terminal: a file, a pipe, a log of a batch system."""
    stream = io.StringIO()
    return Screen(Console(file=stream, width=80)), stream


def lines(stream: io.StringIO) -> list[str]:
    """What was written, without the time of day."""
    assert "\x1b" not in stream.getvalue()
    found = [re.fullmatch(r"\d\d:\d\d:\d\d (.*)", line) for line in stream.getvalue().splitlines()]
    assert None not in found, stream.getvalue()
    return [line[1] for line in found if line is not None]


def plan(screen: Screen) -> None:
    screen.event(Event("plan", {"arms": PLAN}))


def done(screen: Screen, arm: str, stage: str, number: int, seconds: float = 10.0, **others: Any) -> None:
    fields = {
        "arm": arm,
        "stage": stage,
        "round": number,
        "seconds": seconds,
        "status": "COMPLETE",
        "loss": None,
        "validation_loss": None,
        "auc": None,
        "sites": 3,
        "of": 3,
        "left_out": [],
    }
    screen.event(Event("round", fields | others))


def test_without_a_terminal_every_round_is_one_plain_line(clock: Clock) -> None:
    screen, stream = plain()
    with screen:
        plan(screen)
        done(screen, "full", "pretrain", 0, loss=0.98765, validation_loss=0.9)
        done(screen, "full", "finetune", 1, 4.25, loss=0.5, validation_loss=0.61, auc=0.7501)
    assert lines(stream) == [
        "full  pretrain 1/2  loss 0.988  validation 0.900  3/3 sites  10.0 s  about 90 s left".replace(
            "90 s", "2 min"
        ),
        "full  finetune 2/3  loss 0.500  validation 0.610  AUC 0.750  3/3 sites  4.2 s  about 37 s left",
    ]


def test_a_partial_round_says_who_is_not_in_it_in_their_own_words(clock: Clock) -> None:
    screen, stream = plain()
    plan(screen)
    left_out = ["Klinik [nord]: array not expected; expected are ['change']", "B: [/] [red]x[/red] :warning:"]
    done(screen, "full", "pretrain", 0, status="PARTIAL", sites=1, left_out=left_out)
    (line,) = lines(stream)
    assert f"1/3 sites  10.0 s  PARTIAL ({'; '.join(left_out)})" in line


def test_a_note_is_shown_as_it_is(clock: Clock) -> None:
    screen, stream = plain()
    text = "Klinik [nord]: no [bold]positive[/bold] patient in test, it has no AUC of its own " * 3
    screen.event(Event("note", {"text": text.strip()}))
    assert lines(stream) == [text.strip()]  # whole, however narrow the console


def left_after(screen: Screen, stream: io.StringIO) -> str:
    return lines(stream)[-1].rpartition("about ")[2]


def test_time_left_comes_to_nothing_at_the_last_round(clock: Clock) -> None:
    screen, stream = plain()
    plan(screen)
    for arm in ("full", "mean"):
        for stage, rounds in (("pretrain", 2), ("finetune", 3)):
            for number in range(rounds):
                done(screen, arm, stage, number)
    assert left_after(screen, stream) == "0 s left"


def test_a_pre_training_that_is_shared_is_taken_out_of_the_time_left(clock: Clock) -> None:
    screen, stream = plain()
    plan(screen)
    for stage, rounds in (("pretrain", 2), ("finetune", 3)):
        for number in range(rounds):
            done(screen, "full", stage, number)
    assert left_after(screen, stream) == "50 s left"  # the next arm may have a stage 1 of its own
    done(screen, "mean", "finetune", 0)
    assert left_after(screen, stream) == "20 s left"


def test_rounds_that_patience_gave_up_are_taken_out_of_the_time_left(clock: Clock) -> None:
    screen, stream = plain()
    plan(screen)
    for number in range(2):
        done(screen, "full", "pretrain", number)
    done(screen, "full", "finetune", 0)
    assert left_after(screen, stream) == "70 s left"
    done(screen, "mean", "pretrain", 0)
    assert left_after(screen, stream) == "40 s left"


def test_a_run_that_is_resumed_counts_from_where_it_stands(clock: Clock) -> None:
    screen, stream = plain()
    plan(screen)
    done(screen, "full", "finetune", 1)
    assert left_after(screen, stream) == "60 s left"  # one of full, five of mean
    done(screen, "full", "finetune", 2)
    assert left_after(screen, stream) == "50 s left"


def test_an_arm_that_was_not_planned_does_no_harm(clock: Clock) -> None:
    screen, stream = plain()
    done(screen, "other", "finetune", 4)
    assert lines(stream) == ["other  finetune 5/0  3/3 sites  10.0 s  about 0 s left"]


def test_file_work_says_now_and_then_where_it_is(clock: Clock) -> None:
    screen, stream = plain()
    for at in range(1, 101):
        clock.now += 0.3
        screen.files("preparing cases", at, 100)
    said = lines(stream)
    assert said[-1] == "preparing cases 100/100"
    assert 2 <= len(said) <= 4  # 30 s of work, a line every 10
    assert re.fullmatch(r"preparing cases \d+/100, about \d+ s left", said[0])


def test_file_work_of_another_kind_begins_anew(clock: Clock) -> None:
    screen, stream = plain()
    screen.files("writing the phantom", 5, 5)
    screen.files("preparing cases", 1, 2)
    clock.now += 11
    screen.files("preparing cases", 2, 2)
    assert lines(stream) == ["writing the phantom 5/5", "preparing cases 2/2"]


def test_on_a_terminal_a_bar_shows_what_is_done_and_what_is_left() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with Screen(console) as screen:
        screen.files("preparing cases", 3, 8)
        plan(screen)
        done(screen, "full", "pretrain", 0)
    shown = stream.getvalue()
    assert "full  pretrain 1/2" in shown
    assert re.search(r"full  pretrain 1/2\s+[━╸╺ ]+\s+1/10\s+2 min left", shown)
