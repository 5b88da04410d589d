"""The hospital's training process: takes orders from the spool, one at a time, and puts answers back.

It lives as long as the hospital's service does, so torch is imported and the cases are read once, and it does
not notice whether Flower's node comes and goes. Killed in the middle, it begins the same order again and comes
to the same answer: training is a function of the order and the site's data.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from phcc_client.error_log import write_down
from phcc_client.guard import failure_of
from phcc_client.home import Home
from phcc_client.policy import Policy
from phcc_client.readiness import Readiness
from phcc_client.session import Runtime, Session
from phcc_client.spool import Order, Reply, Spool
from phcc_model.contract.messages import TrainOrder
from phcc_model.errors import PhccError
from phcc_model.training.progress import Progress

log = logging.getLogger("phcc_client")

IDLE_S = 0.2
REPORT_S = 1.0
"""Least time between two reports of how far a training is, and between two looks at whether it still counts."""


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
        device = home.settings.device
        runtime = Runtime(device if isinstance(device, str) else device[0], home.settings.threads)
        self._session = Session(home.site, home.settings.hospital, runtime, self._listen)

    def serve(self) -> None:
        """Work until the process is ended."""
        log.info("waiting for orders on %s", self._session.runtime.device)
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
            self._spool.answer(digest, self._carried_out(order))
            log.info("%s: done", what)
        except Superseded:
            log.info("%s: given up, another order has come", what)
        except Exception as error:
            log.exception("%s: failed", what)
            write_down(self._home.folder, error)
            self._give_up(digest, error)
        finally:
            self._current = None
        return True

    def _carried_out(self, order: Order) -> Reply:
        if isinstance(order, TrainOrder):
            return self._session.train(order)
        return self._session.evaluate(order)

    def _give_up(self, digest: str, error: Exception) -> None:
        try:
            self._spool.answer(digest, failure_of(error, self._home.settings.hospital))
        except PhccError:  # not even room for that: wait, then try the order again
            log.exception("the failure cannot be written down")
            time.sleep(10 * REPORT_S)

    def _listen(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._current is None or now - self._reported < REPORT_S:
            return
        self._reported = now
        digest, order = self._current
        if not self._spool.counts(digest, order):
            raise Superseded
        self._spool.report(digest, progress.step, progress.steps)


def main() -> None:
    """``python -m phcc_client.worker HOME``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    Worker(Home.open(Path(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
