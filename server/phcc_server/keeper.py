"""Keeps runs going: asks Flower for a first attempt at each, and for another whenever one was lost.

Flower ends a run with the process that coordinates it. A run of ours ends with its verdict, and everything that
it has finished is on disk: so a lost attempt is followed by another, and the study goes on where it stood. The
keeper also makes the SuperLink's list of nodes equal to the hospitals that are admitted, be its database empty.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from phcc_model.errors import PhccError, RoundError
from phcc_server.hospitals import Register
from phcc_server.instance import Instance
from phcc_server.nodes import reconcile
from phcc_server.run_folder import RunFolder
from phcc_server.superlink import Control
from phcc_server.watchman import Watchman

log = logging.getLogger("phcc_server")

LOOK_S = 1.0
RECONCILE_S = 5.0
FRUITLESS = 8
"""Attempts one after the other that end without a new line in the ledger: then the run is given up."""
LONGEST_PAUSE_S = 120.0


class Keeper:
    """The keeper of one instance.

    Args:
        instance: whose runs and hospitals these are.
    """

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._register = Register(instance.records)
        self._watchman = Watchman(instance)
        self._reconciled = 0.0
        self._stopped: set[int] = set()
        self._fruitless: dict[str, tuple[int, int]] = {}

    def serve(self) -> None:
        """Look after everything until the process is ended."""
        said = ""
        while True:
            try:
                self.look()
                said = ""
            except PhccError as error:
                if str(error) != said:
                    log.warning("%s", error)
                said = str(error)
            time.sleep(LOOK_S)

    def look(self) -> None:
        """Look after everything once.

        Raises:
            PhccError: the SuperLink does not answer, or the disk fails.
        """
        self._watchman.look(time.monotonic())
        runs = [run for run in RunFolder.all(self._instance.runs) if run.verdict is None]
        now = time.monotonic()
        due = now - self._reconciled > RECONCILE_S
        if not runs and not due:
            return
        with Control(self._instance) as control:
            if due:
                for line in reconcile(self._register, control):
                    log.info("%s", line)
                self._reconciled = now
            for run in runs:
                with _named(run):
                    self._look_after(run, control)

    def _look_after(self, run: RunFolder, control: Control) -> None:
        last = run.attempts[-1].number if run.attempts else None
        if not run.request.go_on:
            if last is not None and last not in self._stopped:
                with contextlib.suppress(RoundError):
                    control.stop_run(last)
                self._stopped.add(last)
            return
        if last is not None:
            status = control.run_status(last)
            if not status.startswith("finished") and status != "unknown":
                return
            if run.verdict is not None or not self._may_try_again(run, last, status):
                return
        number = control.start_run(run.name)
        run.tried(number)
        log.info("%s: attempt %d is Flower's run %d", run.name, len(run.attempts), number)

    def _may_try_again(self, run: RunFolder, last: int, status: str) -> bool:
        """Whether it is time for another attempt; each one without a new round waits longer."""
        lines = run.ledger.read_bytes().count(b"\n") if run.ledger.exists() else 0
        before, fruitless = self._fruitless.get(run.name, (lines, 0))
        if lines > before or last in self._stopped:
            fruitless = 0
        pause = min(LONGEST_PAUSE_S, float(2**fruitless))
        began = run.attempts[-1].started.timestamp()
        if time.time() - began < pause:
            return False
        if fruitless >= FRUITLESS:
            run.conclude(
                "failed",
                f"{FRUITLESS} attempts ended without a new round; the last one is {status} in Flower",
            )
            return False
        self._fruitless[run.name] = lines, fruitless + 1
        return True


@contextlib.contextmanager
def _named(run: RunFolder) -> Iterator[None]:
    """One run's trouble is no trouble of the others'."""
    try:
        yield
    except PhccError as error:
        log.warning("%s: %s", run.name, error)


def main() -> None:
    """``python -m phcc_server.keeper INSTANCE``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    Keeper(Instance.open(Path(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
