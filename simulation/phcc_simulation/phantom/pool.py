"""Work on many patients side by side: the same results in the same order whatever the number of processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, repeat
from typing import TypeVar

from threadpoolctl import threadpool_limits

from phcc_model.errors import DataError

Task = TypeVar("Task")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]

_CHUNK = 4  # tasks per message: small enough for even progress, large enough to hide the passing on


def map_ordered(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, progress: Progress | None = None
) -> Iterator[Result]:
    """Results of ``work`` for each task, in the tasks' order, as they become ready.

    One job runs here. More run in fresh interpreters (spawn): a fork would copy the locks of the thread pools
    that numpy, torch and SimpleITK hold in this process. Every process computes on one thread, which keeps
    ``jobs`` processes from fighting over the cores, and the order of floating-point sums the same.

    Args:
        work: a function that can be named from another process.
        tasks: its arguments.
        jobs: processes.
        progress: called with (done, total) after each task.

    Raises:
        DataError: a worker process was killed.
        PhccError: whatever ``work`` raises.
    """
    if jobs <= 1 or len(tasks) <= 1:
        with threadpool_limits(limits=1):
            yield from _counted(map(work, tasks), len(tasks), progress)
        return
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(tasks))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)
    try:
        chunks = [tasks[i : i + _CHUNK] for i in range(0, len(tasks), _CHUNK)]
        results = chain.from_iterable(pool.map(_run_chunk, repeat(work), chunks))
        yield from _counted(results, len(tasks), progress)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process of the phantom was killed (out of memory?)",
            remedy="Run again with fewer jobs; what was written is kept",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_chunk(work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    return [work(task) for task in tasks]


def _counted(results: Iterator[Result], total: int, progress: Progress | None) -> Iterator[Result]:
    for done, result in enumerate(results, start=1):
        if progress is not None:
            progress(done, total)
        yield result


def _one_thread() -> None:
    """Keep a worker to one thread, for as long as it lives."""
    threadpool_limits(limits=1)
