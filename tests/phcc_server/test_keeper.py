"""The keeper: a first attempt, another when one is lost, none after a verdict, an end to fruitless ones."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from builders import tiny_study

from phcc_model.errors import RoundError
from phcc_server import keeper as keeper_module
from phcc_server.instance import Instance
from phcc_server.keeper import FRUITLESS, Keeper
from phcc_server.nodes import Node
from phcc_server.run_folder import RunFolder


class Flower:
    """A SuperLink that does what a test says."""

    def __init__(self) -> None:
        self.status: dict[int, str] = {}
        self.stopped: list[int] = []
        self.answers = True

    def __call__(self, _: Instance) -> Flower:
        return self

    def __enter__(self) -> Flower:
        if not self.answers:
            raise RoundError("the SuperLink does not answer")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> tuple[Node, ...]:
        return ()

    def start_run(self, _: str) -> int:
        number = len(self.status) + 1
        self.status[number] = "running"
        return number

    def run_status(self, number: int) -> str:
        return self.status.get(number, "unknown")

    def stop_run(self, number: int) -> None:
        self.stopped.append(number)
        self.status[number] = "finished:stopped"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 2e9

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keeper_module, "time", clock)
    return clock


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Flower:
    flower = Flower()
    monkeypatch.setattr(keeper_module, "Control", flower)
    return flower


@pytest.fixture
def run(instance: Instance) -> RunFolder:
    return RunFolder.create(instance.runs, tiny_study(), ["Alma"])


def look(keeper: Keeper, clock: Clock, seconds: float = 1.0) -> None:
    clock.now += seconds
    keeper.look()


def test_a_run_is_begun_once(instance: Instance, run: RunFolder, flower: Flower, clock: Clock) -> None:
    keeper = Keeper(instance)
    for _ in range(5):
        look(keeper, clock)
    assert [attempt.number for attempt in run.attempts] == [1]
    assert Keeper(instance).look() is None  # another keeper, after a crash, begins nothing anew
    assert len(run.attempts) == 1


@pytest.mark.parametrize("end", ["finished:failed", "finished:stopped", "finished:completed", "unknown"])
def test_a_lost_attempt_is_followed_by_another(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock, end: str
) -> None:
    keeper = Keeper(instance)
    look(keeper, clock)
    if end == "unknown":
        del flower.status[1]
    else:
        flower.status[1] = end
    look(keeper, clock, 10.0)
    assert len(run.attempts) == 2


def test_a_verdict_is_the_end(instance: Instance, run: RunFolder, flower: Flower, clock: Clock) -> None:
    keeper = Keeper(instance)
    look(keeper, clock)
    run.conclude("failed", "too few sites")
    flower.status[1] = "finished:failed"
    look(keeper, clock, 100.0)
    assert len(run.attempts) == 1
    run.ask_to_go_on(True)  # phcc-server resume
    look(keeper, clock, 100.0)
    assert len(run.attempts) == 2


def test_a_run_that_somebody_stops_is_stopped_and_goes_on_when_it_is_resumed(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock
) -> None:
    keeper = Keeper(instance)
    look(keeper, clock)
    run.ask_to_go_on(False)
    for _ in range(3):
        look(keeper, clock, 10.0)
    assert flower.stopped == [1]
    run.ask_to_go_on(True)
    look(keeper, clock, 10.0)
    assert [attempt.number for attempt in run.attempts] == [1, 2]


def test_attempts_that_bring_nothing_wait_longer_and_come_to_an_end(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock
) -> None:
    keeper = Keeper(instance)
    tries: list[float] = []
    for _ in range(2000):
        look(keeper, clock)
        if len(run.attempts) > len(tries):
            tries.append(clock.now)
            flower.status[len(tries)] = "finished:failed"
            line = run.folder / "attempts.jsonl"
            line.write_text(line.read_text().replace(_started(run), _iso(clock.now)))
        if run.verdict is not None:
            break
    assert run.verdict is not None
    assert "without a new round" in run.verdict.text
    assert len(tries) == FRUITLESS + 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)


def _started(run: RunFolder) -> str:
    return (run.folder / "attempts.jsonl").read_text().splitlines()[-1].split('"started":"')[1].rstrip('"}')


def _iso(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat()


def test_a_new_round_makes_up_for_what_was_fruitless(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock
) -> None:
    keeper = Keeper(instance)
    for number in range(1, 3 * FRUITLESS):
        look(keeper, clock, 500.0)
        flower.status[number] = "finished:failed"
        with run.ledger.open("a") as file:
            file.write("a round\n")
    assert run.verdict is None


def test_one_runs_trouble_is_not_the_others(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock, caplog: Any
) -> None:
    (run.folder / "request.json").write_text("{")
    other = RunFolder.create(instance.runs, tiny_study(name="other"), ["Alma"])
    look(Keeper(instance), clock)
    assert len(other.attempts) == 1
    assert "is damaged" in caplog.text


def test_a_superlink_that_does_not_answer_is_waited_for(
    instance: Instance, run: RunFolder, flower: Flower, clock: Clock
) -> None:
    keeper, flower.answers = Keeper(instance), False
    with pytest.raises(RoundError):
        look(keeper, clock)
    flower.answers = True
    look(keeper, clock)
    assert len(run.attempts) == 1
