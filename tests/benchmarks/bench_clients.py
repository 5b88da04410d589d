"""Two simulated clients on two cores beside one process with two threads (row 9 of the speed table).

Clients are processes of one thread each, as the simulation's launcher starts them; all take the packed step
that row 1 times. In turns, two clients take some steps each at the same time, then one process takes as many as
both together. The figure is how many times more steps a second the two clients take. All start from the same
weights: that their first losses agree is checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from bench import CORES, Run, as_launched, in_turns, options, ratio
from bench_step import ALIKE, packed_step

from phcc_model.machine import fast_environment

CLIENTS = 2
KERNEL = (7, 7, 7)
STEPS = 6
"""Of each client in a turn."""


class Worker:
    """A process that takes steps when told to; its first answer is the loss of a step that it took by itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, steps: int) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Wait until it is done."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: a client ended before its time; what it said stands above")
        return json.loads(line)


@contextmanager
def started(threads: int, tiny: bool) -> Iterator[Worker]:
    """A worker with so many threads, in the launcher's environment."""
    command = [sys.executable, __file__, "--worker", "--threads", str(threads), *(["--tiny"] if tiny else [])]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **fast_environment(threads)},
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def work(threads: int, tiny: bool) -> int:
    """What a worker does: a first step, then as many as each line of its input says."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    step = packed_step(KERNEL, tiny)
    print(step(), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begun, flush=True)
    return 0


def together(workers: list[Worker], steps: int) -> None:
    """So many steps of each worker, all at the same time."""
    for worker in workers:
        worker.ask(steps)
    for worker in workers:
        worker.answer()


def main(words: list[str] | None = None) -> int:
    """One line; 1 where the processes do not compute the same."""
    parser = options(__doc__ or "")
    parser.add_argument("--worker", action="store_true", help="be one of the processes")
    arguments = parser.parse_args(words)
    if arguments.worker:
        return work(arguments.threads, arguments.tiny)
    run = Run.begin(arguments)
    with ExitStack() as stack:
        clients = [stack.enter_context(started(1, run.tiny)) for _ in range(CLIENTS)]
        alone = stack.enter_context(started(CLIENTS, run.tiny))
        expected, *losses = (float(worker.answer()) for worker in (alone, *clients))
        gap = max(abs(loss / expected - 1.0) for loss in losses)
        print(f"clients: their first losses are {gap:.1e} apart from that of the one process", flush=True)
        if gap > ALIKE:
            print("error: the processes do not compute the same: nothing to compare", file=sys.stderr)
            return 1
        steps = 1 if run.tiny else STEPS
        sides = {
            "clients": partial(together, clients, steps),
            "alone": partial(together, [alone], CLIENTS * steps),
        }
        times = in_turns(sides, arguments.repeats)
    rates = {name: CLIENTS * steps / each.wall for name, each in times.items()}
    detail = f"{rates['clients']:.2f} steps/s, one process {rates['alone']:.2f}, on {CORES} cores"
    if CORES < CLIENTS:
        detail += ": too few for this to say anything"
    run.tell("two-clients-against-one-process", ratio(times["alone"], times["clients"]), 1.0, detail)
    return 0


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
