"""The hospital's training process: takes orders from the spool, one at a time, and puts answers back.

It lives as long as the hospital's service does, so torch is imported and the cases are read once, and it does
not notice whether Flower's node comes and goes. Killed in the middle, it begins the same order again and comes
to the same answer: training is a function of the order and the site's data.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path

from phcc_client.devices import devices_of, give_memory_back, must_be_there
from phcc_client.error_log import write_down
from phcc_client.guard import failure_of
from phcc_client.home import Home
from phcc_client.kept_scores import KeptScores
from phcc_client.machine_notes import note
from phcc_client.policy import Policy
from phcc_client.ranks import Ranks
from phcc_client.readiness import Readiness
from phcc_client.session import Runtime, Session
from phcc_client.spool import REPORT_S, Order, Reply, Spool
from phcc_model.contract.messages import EvaluateOrder, Failure
from phcc_model.errors import PhccError
from phcc_model.training.progress import Progress

log = logging.getLogger("phcc_client")

IDLE_S = 0.2


class Superseded(Exception):
    """Another order of the same study and arm has come: this one's answer is not waited for any more."""


class Worker:
    """Carries out orders.

    Args:
        home: the hospital's folder.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._spool = Spool(home.spool)
        self._policy = Policy(home.folder)
        self._readiness = Readiness(home)
        self._current: tuple[str, Order] | None = None
        self._reported = 0.0
        self._devices = devices_of(home.settings)
        self._ranks = Ranks(home, self._devices) if len(self._devices) > 1 else None
        runtime = Runtime(self._devices[0], home.settings.threads)
        scores = KeptScores(home.scores)
        self._session = Session(home.site, home.settings.hospital, runtime, self._listen, self._note, scores)

    def serve(self) -> None:
        """Work until the process is ended."""
        log.info("waiting for orders on %s", ", ".join(self._devices))
        while True:
            if not self.work():
                self._readiness.see_to_it()
                time.sleep(IDLE_S)

    def work(self) -> bool:
        """Carry out one order, if there is one; whether there was."""
        if (found := self._spool.next()) is None:
            return False
        digest, order = found
        self._current, self._reported = found, 0.0
        what = f"{order.arm} {order.stage} round {order.round + 1}"
        log.info("%s: begun", what)
        try:
            self._policy.check(order.study, order.study_digest)
            answer = self._carried_out(digest, order)
            self._spool.answer(digest, answer)
            log.info("%s: %s", what, "failed" if isinstance(answer, Failure) else "done")
        except Superseded:
            log.info("%s: given up, another order has come", what)
        except Exception as error:
            log.exception("%s: failed", what)
            write_down(self._home.folder, error)
            self._give_up(digest, error)
        finally:
            self._current = None
        return True

    def _carried_out(self, digest: str, order: Order) -> Reply | Failure:
        must_be_there(self._devices)
        if isinstance(order, EvaluateOrder):
            return self._session.evaluate(order)
        if self._ranks is None:
            return self._session.train(order)
        give_memory_back()  # what was scored here before was on a device that a rank needs now
        work = partial(self._ranks.train, digest, watch=self._still_counts)
        return self._session.room.fit(order, work, len(self._devices))

    def _give_up(self, digest: str, error: Exception) -> None:
        try:
            self._spool.answer(digest, failure_of(error, self._home.settings.hospital))
        except PhccError:  # not even room for that: wait, then try the order again
            log.exception("the failure cannot be written down")
            time.sleep(10 * REPORT_S)

    def _listen(self, progress: Progress) -> None:
        if self._current is not None and self._still_counts():
            self._spool.report(self._current[0], progress.step, progress.steps)

    def _still_counts(self) -> bool:
        """Look now and then whether the order at work still counts; whether this was a moment to look.

        Raises:
            Superseded: it does not.
        """
        now = time.monotonic()
        if self._current is None or now - self._reported < REPORT_S:
            return False
        self._reported = now
        if not self._spool.counts(*self._current):
            raise Superseded
        return True

    def _note(self, text: str) -> None:
        note(self._home.folder, text)


def main() -> None:
    """``python -m phcc_client.worker HOME``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    Worker(Home.open(Path(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
