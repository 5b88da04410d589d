"""Seeds side by side, each a process of its own; what one of them tells is passed on while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from phcc_model.marked import MARK, stop_marked
from phcc_model.storage import locked, storage_error
from phcc_server.journal import Event, Journal
from phcc_simulation.commands import JOURNAL

LOG = "terminal.log"
"""What a seed's process wrote on its terminal, in the seed's folder."""
PROGRAM = "import sys; from phcc_simulation.cli import main; main(sys.argv[1:])"
POLL_S = 0.25
_ERROR = "error: "


@dataclass(frozen=True)
class SeedPlan:
    """One seed to be run: its folder, and the words of ``phcc-simulate`` that do it."""

    seed: int
    folder: Path
    words: tuple[str, ...]


def run_side_by_side(
    plans: Sequence[SeedPlan],
    at_once: int,
    out: Path,
    started: Callable[[int], None],
    tell: Callable[[int, Event], None],
    ended: Callable[[int, str | None], None],
) -> dict[int, str]:
    """Run all plans, so many at a time; one that fails leaves the others alone.

    Whatever ends this function, an interrupt too, ends the processes that it started; those of an earlier start
    that was killed are ended first.

    Args:
        plans: in the order of their start.
        at_once: at most so many at a time.
        out: of all seeds; held by a lock meanwhile.
        started: takes a seed whose process was started.
        tell: takes every event of a seed's journal.
        ended: takes a seed whose process is gone, and why it failed or None.

    Returns:
        The seeds that failed, with the last line of the error.

    Raises:
        StorageError: a folder cannot be written.
    """
    failed: dict[int, str] = {}
    waiting, running = list(plans), list[_Child]()
    with locked(out / "seeds"), _terminated_is_interrupted():
        stop_marked(out)
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Child.start(waiting.pop(0), out))
                    started(running[-1].plan.seed)
                time.sleep(POLL_S)
                for child in list(running):
                    over = child.process.poll() is not None  # asked first: what it wrote last is read below
                    for event in child.journal.new_events():
                        tell(child.plan.seed, event)
                    if over:
                        running.remove(child)
                        if (failure := child.failure) is not None:
                            failed[child.plan.seed] = failure
                        ended(child.plan.seed, failure)
        finally:
            if running:
                stop_marked(out)
                for child in running:
                    child.process.wait()
    return failed


@dataclass(frozen=True)
class _Child:
    plan: SeedPlan
    process: subprocess.Popen[bytes]
    journal: Journal

    @staticmethod
    def start(plan: SeedPlan, out: Path) -> _Child:
        journal = plan.folder / JOURNAL
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            journal.unlink(missing_ok=True)  # of an earlier start: its events are no news
            with (plan.folder / LOG).open("wb") as log:
                process = subprocess.Popen(  # noqa: S603 - our own program
                    [sys.executable, "-c", PROGRAM, *plan.words],
                    env=_environment(out),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            raise storage_error(plan.folder, error) from error
        return _Child(plan, process, Journal(journal))

    @property
    def failure(self) -> str | None:
        """Why it ended badly: its last line of error; None where it ended well."""
        code = self.process.returncode
        if code == 0:
            return None
        text = (self.plan.folder / LOG).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(_ERROR)] or lines
        how = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
        return said[-1].removeprefix(_ERROR) if said and code > 0 else how


def _environment(out: Path) -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", MARK: str(out)}


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends this program as Ctrl-C does, so that it ends what it started."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
