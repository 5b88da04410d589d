"""Several devices of this machine train one order together: a process for each, started and ended here."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from phcc_client.home import Home
from phcc_client.rank import EXIT_OUT_OF_MEMORY, Task
from phcc_model.contract.messages import Failure, TrainReply
from phcc_model.errors import TrainingError
from phcc_model.machine import fast_environment

POLL_S = 0.2
GRACE_S = 10.0
"""When one rank has failed, the others notice at their next step together; then they are ended."""
MEETINGS = "ranks-"
_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}
"""The ranks are on one machine: nothing of theirs is to be heard on its network."""

Process = subprocess.Popen[bytes]


class Ranks:
    """The ranks of one hospital's machine.

    Args:
        home: the hospital's folder.
        devices: one rank on each; they share the batch as equally as it divides.
    """

    def __init__(self, home: Home, devices: Sequence[str]) -> None:
        self._home = home
        self.devices = tuple(devices)
        self.threads = max(1, (home.settings.threads or os.cpu_count() or 1) // len(self.devices))
        for left in home.spool.glob(f"{MEETINGS}*"):  # by a worker that was killed
            shutil.rmtree(left, ignore_errors=True)

    def train(self, digest: str, at_once: int | None, watch: Callable[[], object]) -> TrainReply | Failure:
        """Carry out an order that is in the spool.

        Args:
            digest: of the order.
            at_once: cases that each rank takes at once, at most; None: all of its own.
            watch: called a few times a second; what it raises ends the ranks.

        Returns:
            The reply of the site, or what went wrong at a rank; it has written the rest into the log.

        Raises:
            MemoryError: one of the ranks ran out of memory.
            TrainingError: one of them ended without a word.
        """
        with tempfile.TemporaryDirectory(prefix=MEETINGS, dir=self._home.spool) as folder:
            tasks = [
                Task(str(self._home.folder), digest, self.devices, rank, self.threads, at_once, folder)
                for rank in range(len(self.devices))
            ]
            with self._started(tasks) as processes:
                while any(process.poll() is None for process in processes):
                    if any(process.poll() for process in processes):
                        _wait(processes, GRACE_S)
                        break
                    watch()
                    time.sleep(POLL_S)
                codes = [process.poll() for process in processes]
            return _outcome(tasks, codes)

    @contextlib.contextmanager
    def _started(self, tasks: Sequence[Task]) -> Iterator[list[Process]]:
        processes: list[Process] = []
        try:
            for task in tasks:
                processes.append(self._start())
                stream = processes[-1].stdin
                assert stream is not None
                # One that has ended already says so by its exit code.
                with contextlib.suppress(BrokenPipeError):
                    stream.write(task.to_json().encode() + b"\n")
            yield processes
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()

    def _start(self) -> Process:
        return subprocess.Popen(
            [sys.executable, "-m", "phcc_client.rank"],
            env={**os.environ, **fast_environment(self.threads), **_ENVIRONMENT},
            stdin=subprocess.PIPE,
            bufsize=0,
        )


def _wait(processes: Sequence[Process], patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(POLL_S)


def _outcome(tasks: Sequence[Task], codes: Sequence[int | None]) -> TrainReply | Failure:
    """What the ranks have to say. One that fails takes others with it: their complaints of it come last."""
    if not any(codes):
        answer = tasks[0].desk.take_answer(tasks[0].digest)
        if isinstance(answer, TrainReply):
            return answer
    if EXIT_OUT_OF_MEMORY in codes:
        raise MemoryError(f"on {tasks[0].devices[codes.index(EXIT_OUT_OF_MEMORY)]}")
    failures = [answer for task in tasks if isinstance(answer := task.desk.take_answer(task.digest), Failure)]
    for failure in sorted(failures, key=lambda failure: failure.code == "internal"):
        return failure
    ends = ", ".join(f"{task.devices[task.rank]}: {code}" for task, code in zip(tasks, codes, strict=True))
    raise TrainingError(
        f"a process ended without a word (exit codes {ends})",
        where="training on several devices",
        remedy="Look into logs/worker.log, and at what else runs on these devices",
    )
