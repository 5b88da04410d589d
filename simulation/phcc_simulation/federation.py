"""A federation in memory: the same sessions, the same orders and replies, no network and no Flower.

It serves the arms that have one site (pooled, one centre alone) and the test that Flower adds nothing to the
result: the same study gives the same digest either way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from phcc_client.guard import failure_of
from phcc_client.session import Session
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    Failure,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError
from phcc_server.sites import NoReply

log = logging.getLogger("phcc_simulation")

Order = TypeVar("Order", CardOrder, TrainOrder, EvaluateOrder)
Reply = TypeVar("Reply", SiteCard, TrainReply, EvaluateReply)


class MemorySites:
    """`phcc_server.sites.Sites` over sessions in this process.

    Args:
        sessions: by site.
    """

    def __init__(self, sessions: Mapping[str, Session]) -> None:
        self._sessions = dict(sessions)

    def cards(
        self, order: CardOrder, expected: Sequence[str], patience_s: float | None = None
    ) -> dict[str, SiteCard | NoReply]:
        """Ask every expected site who it is; there is nothing to wait for."""
        del patience_s
        return {
            site: self._ask(site, order, SiteCard, lambda session, arrived: session.card(arrived))
            for site in expected
        }

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        """One site after the other; a deadline has no meaning here."""
        del deadline_s
        for order in orders:
            yield (
                order,
                self._ask(order.site, order, TrainReply, lambda session, arrived: session.train(arrived)),
            )

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        """Likewise."""
        del deadline_s
        for order in orders:
            yield (
                order,
                self._ask(
                    order.site, order, EvaluateReply, lambda session, arrived: session.evaluate(arrived)
                ),
            )

    def _ask(
        self, site: str, order: Order, kind: type[Reply], act: Callable[[Session, Order], Message]
    ) -> Reply | NoReply:
        """Through the same fields as on the wire, so that what would not travel does not pass here either."""
        if site not in self._sessions:
            return NoReply("missing", "there is no such site")
        try:
            arrived = type(order).from_fields(order.to_fields(), order.arrays)
            reply = act(self._sessions[site], arrived)
        except Exception as error:
            log.exception("site %s could not carry out the order", site)
            reply = failure_of(error, site)
        if isinstance(reply, Failure):
            return NoReply("failed", reply.line)
        try:
            return kind.from_fields(reply.to_fields(), reply.arrays)
        except ContractError as error:
            return NoReply("refused", str(error))
