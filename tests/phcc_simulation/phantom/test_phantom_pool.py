"""Work side by side: order, counting, and what a worker's failure looks like."""

from __future__ import annotations

import os
import signal

import pytest

from phcc_model.errors import DataError, StorageError
from phcc_simulation.phantom.pool import map_ordered


def _negative_pid(task: int) -> tuple[int, int]:
    return -task, os.getpid()


def test_work_side_by_side_keeps_the_order() -> None:
    counted: list[tuple[int, int]] = []
    results = list(
        map_ordered(_negative_pid, range(11), 2, lambda done, total: counted.append((done, total)))
    )
    assert [value for value, _ in results] == [-task for task in range(11)]
    assert os.getpid() not in {pid for _, pid in results}
    assert counted == [(i, 11) for i in range(1, 12)]


def _fail_at_three(task: int) -> int:
    if task == 3:
        raise StorageError("no space is left on the disk", where="somewhere")
    return task


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_of_the_work_arrives_as_itself(jobs: int) -> None:
    with pytest.raises(StorageError, match="somewhere: no space is left"):
        list(map_ordered(_fail_at_three, range(8), jobs))


def _die(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_a_killed_worker_is_said_in_one_line() -> None:
    with pytest.raises(DataError, match=r"worker process of the phantom was killed.*fewer jobs"):
        list(map_ordered(_die, range(8), 2))
