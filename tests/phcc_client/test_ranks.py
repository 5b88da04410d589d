"""Two processes that train together are one site: its reply, its memory, its errors. On the CPU, through gloo."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from builders import CENTRES, Centre, tiny_study, train_order, write_centre

from phcc_client.guard import failure_of
from phcc_client.home import ClientSettings, Home
from phcc_client.memory import SiteMemory
from phcc_client.rank import EXIT_FAILED, EXIT_LEFT_ALONE, EXIT_OUT_OF_MEMORY, Task
from phcc_client.ranks import MEETINGS, Ranks, _outcome
from phcc_client.session import Runtime, Session
from phcc_client.spool import Spool
from phcc_model.build import first_weights
from phcc_model.contract import keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import Failure, TrainOrder, TrainReply
from phcc_model.errors import TrainingError

STUDY = tiny_study(
    model={"drop_path": 0.3},
    pretrain={"rounds": 3, "batch_size": 5, "local_epochs": 2},
    finetune={"batch_size": 5, "local_epochs": 2},
)
ALMA = Centre((1, 0, 1, 0, 0, -1, (1, 0), 0, 1, 0))
PAIR = ("cpu", "cpu")
ROUND = {keys.PRETRAIN: 1, keys.FINETUNE: 0}


def hospital(folder: Path, centre: Centre = ALMA) -> Home:
    """A hospital whose two processes have one thread each."""
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "site").symlink_to(write_centre(folder, STUDY, "Alma", centre))
    return Home.make(folder / "home", ClientSettings(hospital="Alma", server="a:1", threads=2))


def together(home: Home, order: TrainOrder, at_once: int | None = None) -> TrainReply | Failure:
    return Ranks(home, PAIR).train(Spool(home.spool).offer(order), at_once, lambda: None)


def alone(home: Home, order: TrainOrder) -> TrainReply:
    return Session(home.site, "Alma", Runtime(threads=1)).train(order)


def memory_of(home: Home, order: TrainOrder) -> dict[str, np.ndarray]:
    kept = SiteMemory(home.site / "memory", order.study_digest, order.arm).before(order.round + 1)
    return kept or {}


def after(order: TrainOrder, reply: TrainReply) -> np.ndarray:
    """The weights that a reply stands for."""
    manifest = Manifest.of(first_weights(STUDY, order.stage))
    return order.arrays[keys.FLOAT] + decode_change(reply.arrays, "fp32", manifest).delta


def order_of(stage: str) -> TrainOrder:
    return train_order(STUDY, stage, "Alma", ROUND[stage], encoding="fp32")


def must_be_the_site_of_one_process(home: Home, order: TrainOrder, found: TrainReply | Failure) -> None:
    """Sampling order, chance, sample weights, norm over cases and AUC are those of one process."""
    assert isinstance(found, TrainReply)
    expected = alone(home, order)
    wanted, weights = after(order, expected), after(order, found)
    apart = np.linalg.norm(weights - wanted)
    assert apart < 1e-5 * np.linalg.norm(wanted)
    assert apart < 1e-2 * np.linalg.norm(wanted - order.arrays[keys.FLOAT])
    assert (found.patients, found.cases, found.steps) == (expected.patients, expected.cases, expected.steps)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-3)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, TrainOrder, TrainReply | Failure]:
    home, order = hospital(tmp_path_factory.mktemp("finetuned")), order_of(keys.FINETUNE)
    return home, order, together(home, order)


@pytest.mark.process
def test_two_ranks_pre_train_as_one_site_with_one_memory(tmp_path: Path) -> None:
    """Of five cases one rank takes two, the other two and one: memory is short as well."""
    home, order = hospital(tmp_path), order_of(keys.PRETRAIN)
    alone(home, dataclasses.replace(order, round=0))  # so that there is a memory to begin with
    reply = together(home, order, at_once=2)
    kept = memory_of(home, order)
    must_be_the_site_of_one_process(home, order, reply)
    wanted = memory_of(home, order)
    assert kept.keys() == wanted.keys() != set()
    for name, array in kept.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-3, atol=1e-5)
    assert not list(home.spool.glob(f"{MEETINGS}*"))


@pytest.mark.process
def test_two_ranks_fine_tune_as_one_site(finetuned: tuple[Home, TrainOrder, TrainReply | Failure]) -> None:
    must_be_the_site_of_one_process(*finetuned)


@pytest.mark.process
def test_the_same_order_gives_the_same_bits(
    finetuned: tuple[Home, TrainOrder, TrainReply | Failure],
) -> None:
    home, order, first = finetuned
    second = together(home, order)
    assert isinstance(first, TrainReply)
    assert isinstance(second, TrainReply)
    assert first.arrays[keys.CHANGE].tobytes() == second.arrays[keys.CHANGE].tobytes()


@pytest.mark.process
def test_a_rank_may_have_no_case(tmp_path: Path) -> None:
    home, order = hospital(tmp_path, Centre((1,))), order_of(keys.FINETUNE)
    must_be_the_site_of_one_process(home, order, together(home, order))


@pytest.mark.process
def test_what_goes_wrong_at_a_rank_is_said_as_by_a_site(tmp_path: Path) -> None:
    home = hospital(tmp_path)
    order = dataclasses.replace(order_of(keys.FINETUNE), round=7)
    answer = together(home, order)
    assert isinstance(answer, Failure)
    assert answer.code == "contract"
    assert "round 7 is ordered" in (home.folder / "errors.log").read_text(encoding="utf-8")


@pytest.mark.process
def test_a_rank_ends_with_the_worker_that_started_it(tmp_path: Path) -> None:
    home = hospital(tmp_path)
    ranks = Ranks(home, PAIR)
    task = Task(
        str(home.folder), Spool(home.spool).offer(order_of(keys.FINETUNE)), PAIR, 0, 1, None, str(tmp_path)
    )
    with ranks._started([task]) as processes:  # it waits for the other one
        (process,) = processes
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3.0)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10.0) == EXIT_LEFT_ALONE


@pytest.mark.process
def test_an_order_that_counts_no_more_ends_the_ranks(tmp_path: Path) -> None:
    home = hospital(tmp_path)

    class Superseded(Exception):
        pass

    def watch() -> None:
        raise Superseded

    begin = time.monotonic()
    with pytest.raises(Superseded):
        Ranks(home, PAIR).train(Spool(home.spool).offer(order_of(keys.FINETUNE)), None, watch)
    assert time.monotonic() - begin < 5.0


def outcome(tmp_path: Path, codes: list[int], failures: dict[int, Exception]) -> TrainReply | Failure:
    tasks = [Task("", "a" * 64, ("cuda:0", "cuda:1"), rank, 1, None, str(tmp_path)) for rank in range(2)]
    for rank, error in failures.items():
        tasks[rank].desk.answer("a" * 64, failure_of(error, "Alma"))
    return _outcome(tasks, codes)


def test_the_rank_that_failed_first_is_heard_before_those_it_took_along(tmp_path: Path) -> None:
    lost, own = RuntimeError("connection closed by peer"), TrainingError("the loss is not finite")
    with pytest.raises(MemoryError, match="cuda:1"):
        outcome(tmp_path / "memory", [EXIT_FAILED, EXIT_OUT_OF_MEMORY], {0: lost})
    both = outcome(tmp_path / "both", [EXIT_FAILED, EXIT_FAILED], {0: lost, 1: own})
    assert isinstance(both, Failure)
    assert both.code == "training"
    with pytest.raises(TrainingError, match=r"cuda:0: 0, cuda:1: -11.*worker\.log"):
        outcome(tmp_path / "silent", [0, -11], {})
    with pytest.raises(TrainingError, match="without a word"):
        outcome(tmp_path / "nothing", [0, 0], {})


def test_threads_are_shared_and_what_a_killed_worker_left_is_taken_away(tmp_path: Path) -> None:
    home = hospital(tmp_path, CENTRES["Alma"])
    (home.spool / f"{MEETINGS}left").mkdir()
    assert Ranks(home, PAIR).threads == 1
    assert not list(home.spool.glob(f"{MEETINGS}*"))


def test_a_task_travels_as_a_line() -> None:
    task = Task("/h", "a" * 64, ("cuda:0", "cuda:1"), 1, 4, 8, "/h/spool/ranks-x")
    line = task.to_json().encode()
    assert Task.from_json(line + b"\n") == task
    assert b"\n" not in line
    assert json.loads(line)["devices"] == ["cuda:0", "cuda:1"]
