"""The site's desk: where an order is checked against what this hospital agreed to, and handed on.

Flower starts a process for every message, and handles one message at a time. So the desk does not train: it puts
the order into the spool, waits for a while, and answers with the reply, or with how far the worker is. The
coordinator then asks again. Neither Flower's node nor this process need live as long as the training does.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from phcc_client.announcement import card_of
from phcc_client.error_log import write_down
from phcc_client.guard import failure_of, may_leave, must_be_announced, must_have_enough, suppressed
from phcc_client.home import Home
from phcc_client.ordered_study import asked_of, study_of
from phcc_client.outbox import Outbox
from phcc_client.policy import Policy
from phcc_client.preparations import open_prepared
from phcc_client.spool import Order, Reply, Spool
from phcc_model.contract import keys
from phcc_model.contract.control import without_control
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    Failure,
    PollOrder,
    SiteCard,
    TrainOrder,
    Working,
)
from phcc_model.contract.wire import Message, check_package
from phcc_model.errors import ContractError, PhccError

POLL_S = 0.1
NOTICES = "notices.jsonl"

Sent = TypeVar("Sent", bound=Message)


class Desk:
    """The desk of one hospital.

    Args:
        home: the hospital's folder.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.name = home.settings.hospital
        self.folder = home.folder
        self._policy = Policy(home.folder)
        self._outbox = Outbox(home.outbox)
        self._spool = Spool(home.spool)

    def card(self, order: CardOrder) -> SiteCard:
        """Announce this site, with small counts left out.

        Raises:
            PolicyError: the study is not approved here.
            PhccError: the data are not prepared for it.
        """
        check_package(order.package, keys.package_version(), where="CardOrder")
        self._policy.check(order.study, order.study_digest, order.arm)
        return self._sent(self._card(order))

    def train(self, order: TrainOrder) -> Reply | Working | Failure:
        """Have an order carried out: its reply, or how far it is.

        Raises:
            PolicyError: the study is not approved here.
            PhccError: the order is not for this site.
        """
        if order.notice:
            self._note(order)
        return self._hand_on(order)

    def evaluate(self, order: EvaluateOrder) -> Reply | Working | Failure:
        """Likewise."""
        return self._hand_on(order)

    def poll(self, order: PollOrder) -> Reply | Working | Failure:
        """The reply to an order that came before, or how far it is.

        Raises:
            PolicyError: the study is not approved here any more.
            PhccError: the order is not for this site.
        """
        self._must_be_for_us(order.site)
        asked = self._spool.order(order.order)
        if asked is None:
            return self._sent(self._spool.working(order.order, self.name))
        self._policy.check(asked.study, asked.study_digest, asked.arm)
        return self._wait(asked, order.order)

    def _card(self, order: CardOrder | Order) -> SiteCard:
        site = open_prepared(self.home.site, study_of(order), self.name, asked_of(order))
        least = self.home.settings.minimum_count
        return suppressed(card_of(site, self.name, order.study_digest, least), least)

    def _hand_on(self, order: Order) -> Reply | Working | Failure:
        check_package(order.package, keys.package_version(), where=type(order).__name__)
        self._must_be_for_us(order.site)
        self._policy.check(order.study, order.study_digest, order.arm)
        split = order.split if isinstance(order, EvaluateOrder) else keys.TRAIN
        must_be_announced(self._card(order), split, order.stage)
        return self._wait(order, self._spool.offer(order))

    def _wait(self, order: Order, digest: str) -> Reply | Working | Failure:
        end = time.monotonic() + self.home.settings.heartbeat_s
        while True:
            if (answer := self._spool.take_answer(digest)) is not None:
                manifest = Manifest.of(without_control(order.arrays))
                return self._sent(answer, manifest, controlled=study_of(order).federation.controlled)
            if time.monotonic() > end:
                return self._sent(self._spool.working(digest, self.name))
            time.sleep(POLL_S)

    def _sent(self, message: Sent, manifest: Manifest | None = None, *, controlled: bool = False) -> Sent:
        """Whatever leaves is checked once more and written down first."""
        may_leave(message, manifest, controlled=controlled)
        must_have_enough(message, self.home.settings.minimum_count)
        self._outbox.record(message)
        return message

    def failed(self, error: Exception) -> Failure:
        """What leaves when something went wrong: a word and a line, written down like all that leaves.

        Where even that cannot be written, they leave all the same: Flower would send the error itself.
        """
        failure = failure_of(error, self.name)
        try:
            self._outbox.record(failure)
        except PhccError as unwritten:
            write_down(self.folder, unwritten)
        return failure

    def _must_be_for_us(self, site: str) -> None:
        if site != self.name:
            raise ContractError(f"the order is for {site}, this is {self.name}", where="order")

    def _note(self, order: TrainOrder) -> None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": at, "stage": order.stage, "round": order.round, "notice": order.notice})
        with (self.folder / NOTICES).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def open_desk(folder: Path) -> Desk:
    """The desk of the hospital whose home this is.

    Raises:
        PhccError: the folder is no hospital's home.
    """
    return Desk(Home.open(folder))
