"""The sites of a study, reached over Flower's grid (Message API).

Messages are pushed and pulled here and not by Flower's own `Strategy.start`, which holds every reply in memory
until the last one is in, goes on in silence when one is lost, and aggregates what it cannot read. Replies wait
in the SuperLink until they are pulled, in the order of the orders.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid

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
from phcc_model.errors import ContractError, RoundError
from phcc_server.records import read_reply, write_order
from phcc_server.sites import NoReply

TRAIN = "train"
EVALUATE = "evaluate"
QUERY = "query"
SHORTEST_POLL_S = 0.02
LONGEST_POLL_S = 0.5
GRACE_S = 5.0
"""How long after a message's own end its error is waited for."""

Reply = TypeVar("Reply", bound=Message)
Order = TypeVar("Order", TrainOrder, EvaluateOrder)


class FlowerSites:
    """`phcc_server.sites.Sites` over a grid.

    Args:
        grid: Flower's, of the run.
        patience_s: how long to wait for the expected sites to announce themselves.
    """

    def __init__(self, grid: Grid, patience_s: float) -> None:
        self._grid = grid
        self._patience_s = patience_s
        self._nodes: dict[str, int] = {}

    def cards(self, order: CardOrder, expected: Sequence[str]) -> dict[str, SiteCard | NoReply]:
        """Ask every node that appears until all expected sites have answered, or patience ends.

        A node whose answer cannot be read names no site; what it said is told with the missing sites.
        """
        answers: dict[str, SiteCard | NoReply] = {}
        asked: dict[str, int] = {}
        known: set[int] = set()
        end = time.monotonic() + self._patience_s
        unread: dict[str, None] = {}
        poll = SHORTEST_POLL_S
        while set(expected) - set(answers) and time.monotonic() < end:
            fresh = [node for node in self._grid.get_node_ids() if node not in known]
            known.update(fresh)
            asked |= self._push(dict.fromkeys(fresh, order), QUERY, self._patience_s)
            for reply in self._grid.pull_messages(list(asked)) if asked else ():
                node = asked.pop(reply.metadata.reply_to_message_id)
                answer = _answer(reply, SiteCard)
                if isinstance(answer, NoReply):
                    unread[f"node {node} {answer.status}: {answer.reason}"] = None
                else:
                    self._note(node, answer, answers)
            poll = min(LONGEST_POLL_S, poll * 1.5)
            time.sleep(poll)
        silent = NoReply("missing", "; ".join([f"no answer within {self._patience_s:.0f} s", *unread]))
        return answers | {site: silent for site in expected if site not in answers}

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        """Send the orders side by side; their replies, in the order of the orders."""
        return self._exchange(orders, TrainReply, TRAIN, deadline_s)

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        """Likewise."""
        return self._exchange(orders, EvaluateReply, EVALUATE, deadline_s)

    def _note(self, node: int, answer: SiteCard | Failure, answers: dict[str, SiteCard | NoReply]) -> None:
        if answer.site in answers and isinstance(answers[answer.site], SiteCard):
            raise RoundError(
                f"two nodes say that they are the site {answer.site}",
                remedy="Start one client per site, each with its own site folder",
            )
        if isinstance(answer, Failure):
            answers[answer.site] = NoReply("failed", answer.line)
            return
        answers[answer.site] = answer
        self._nodes[answer.site] = node

    def _push(self, orders: Mapping[int, Message], kind: str, seconds: float) -> dict[str, int]:
        """Push one order to each node; the node by the id of its message, for those that could be pushed."""
        messages = [
            FlowerMessage(content=write_order(order), message_type=kind, dst_node_id=node, ttl=seconds)
            for node, order in orders.items()
        ]
        if not messages:
            return {}
        # Flower gives no id for a node that is gone, and none at all where the orders are too large for it.
        pushed = zip(self._grid.push_messages(messages), orders, strict=False)
        return {message: node for message, node in pushed if message}

    def _exchange(
        self, orders: Sequence[Order], kind: type[Reply], flower_kind: str, deadline_s: float
    ) -> Iterator[tuple[Order, Reply | NoReply]]:
        nodes = {order.site: self._nodes[order.site] for order in orders if order.site in self._nodes}
        by_node = {nodes[order.site]: order for order in orders if order.site in nodes}
        message_of = {node: message for message, node in self._push(by_node, flower_kind, deadline_s).items()}
        end = time.monotonic() + deadline_s + GRACE_S
        for order in orders:
            if order.site not in nodes:
                yield order, NoReply("missing", "the site has not announced itself")
                continue
            if (message := message_of.get(nodes[order.site])) is None:
                yield order, NoReply("missing", "Flower could not take the order for this site's node")
                continue
            yield order, self._wait(message, kind, end, deadline_s)

    def _wait(self, message_id: str, kind: type[Reply], end: float, deadline_s: float) -> Reply | NoReply:
        poll = SHORTEST_POLL_S
        while True:
            for reply in self._grid.pull_messages([message_id]):
                answer = _answer(reply, kind)
                return NoReply("failed", answer.line) if isinstance(answer, Failure) else answer
            if time.monotonic() > end:
                return NoReply("missing", f"no reply within {deadline_s:.0f} s")
            poll = min(LONGEST_POLL_S, poll * 1.5)
            time.sleep(poll)


def _answer(message: FlowerMessage, kind: type[Reply]) -> Reply | Failure | NoReply:
    if message.has_error():
        # An error of Flower's own (the node was lost, the app died): its reason is not ours to print.
        return NoReply("failed", f"Flower reports error {message.error.code} for this site")
    try:
        return read_reply(message.content, kind)
    except ContractError as error:
        return NoReply("refused", str(error))
