"""The sites of a study, reached over Flower's grid (Message API).

Messages are pushed and pulled here and not by Flower's own `Strategy.start`, which holds every reply in memory
until the last one is in, goes on in silence when one is lost, and aggregates what it cannot read.

A site answers within its heartbeat, with the reply or with how far it is, and is then asked again. So a site
that is slow is told from one that is lost; and a message that Flower lost with its node (killed, restarted, cut
off) is sent again once the node is back, until the round's deadline. The same order gives the same reply.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid

from phcc_model.contract import keys
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    Failure,
    PollOrder,
    SiteCard,
    TrainOrder,
    TrainReply,
    Working,
)
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError, RoundError
from phcc_server.errand import Errand, Order
from phcc_server.records import read_reply, write_orders
from phcc_server.sites import Heard, NoReply

TRAIN = "train"
EVALUATE = "evaluate"
QUERY = "query"
SHORTEST_POLL_S = 0.02
LONGEST_POLL_S = 0.5
GRACE_S = 5.0
"""How long after a message's own end its error is waited for."""
AGAIN_S = 3.0
"""Between two attempts to reach a site whose node Flower has lost."""
LEAST_MESSAGE_S = 10.0
QUESTION_S = 60.0
"""How long a deployment waits for one site's card before it asks once more."""
ASK_AGAIN_S = 10.0
"""Before a site that could not take part is asked for its card again."""

Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True)
class Patience:
    """How long a deployment waits for sites that come and go.

    Attributes:
        lost_after_s: a site of which nothing is heard for so long is lost for the round; a message without an
            answer is sent again after half of it.
    """

    lost_after_s: float


class FlowerSites:
    """`phcc_server.sites.Sites` over a grid.

    Args:
        grid: Flower's, of the run.
        patience_s: how long to wait for the expected sites to announce themselves.
        patience: of a deployment: lost messages are sent again, and a node is who it was registered as; None in
            a simulation, where a node that is lost does not come back, and is who it says.
        listen: told of every sign of life.
    """

    def __init__(
        self,
        grid: Grid,
        patience_s: float,
        patience: Patience | None = None,
        listen: Callable[[Heard], None] | None = None,
    ) -> None:
        self._grid = grid
        self._patience_s = patience_s
        self._patience = patience
        self._listen = listen or (lambda _: None)
        self._nodes: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._ask_after: dict[int, float] = {}

    def cards(
        self, order: CardOrder, expected: Sequence[str], patience_s: float | None = None
    ) -> dict[str, SiteCard | NoReply]:
        """Ask every node that appears until all expected sites have answered, or patience ends.

        A node whose answer cannot be read names no site; what it said is told with the missing sites.
        """
        answers: dict[str, SiteCard | NoReply] = {}
        patience_s = self._patience_s if patience_s is None else patience_s
        end = time.monotonic() + patience_s
        unread: dict[str, None] = {}
        poll = SHORTEST_POLL_S
        if self._patience is None:
            self._ask_after.clear()
        while True:
            self._ask(order, self._online(), expected)
            for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
                node = self._asked.pop(reply.metadata.reply_to_message_id)
                answer = _answer(reply, SiteCard)
                if isinstance(answer, SiteCard | Failure):
                    self._note(node, answer, answers)
                elif isinstance(answer, NoReply):
                    unread[f"node {node} {answer.status}: {answer.reason}"] = None
                    if self._patience is not None:  # its node was lost with the question: it will be back
                        self._ask_after[node] = time.monotonic() + AGAIN_S
            if self._all_there(expected, answers) or time.monotonic() >= end:
                break
            poll = min(LONGEST_POLL_S, poll * 1.5)
            time.sleep(poll)
        silent = NoReply("missing", "; ".join([f"no answer within {patience_s:.0f} s", *unread]))
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

    def _online(self) -> dict[int, str]:
        """The nodes that are there, with the names under which they were registered, if they were."""
        if self._patience is None:
            return dict.fromkeys(self._grid.get_node_ids(), "")
        return {node.node_id: node.name for node in self._grid.get_nodes()}

    def _ask(self, order: CardOrder, online: Mapping[int, str], expected: Sequence[str]) -> None:
        """Ask the nodes that were not asked yet, or whose site could not take part a while ago."""
        now = time.monotonic()
        wanted = [
            node
            for node, name in online.items()
            if now >= self._ask_after.get(node, 0.0) and (not name or name in expected)
        ]
        ttl = max(self._patience_s if self._patience is None else min(self._patience_s, QUESTION_S), 1.0)
        again = now + ttl + GRACE_S if self._patience is not None else math.inf
        self._ask_after |= dict.fromkeys(wanted, again)
        self._asked |= self._push(dict.fromkeys(wanted, order), QUERY, ttl)

    def _all_there(self, expected: Sequence[str], answers: Mapping[str, SiteCard | NoReply]) -> bool:
        """In a deployment a site that says no today may be asked again; elsewhere its no is an answer."""
        if self._patience is None:
            return not set(expected) - set(answers)
        return all(isinstance(answers.get(site), SiteCard) for site in expected)

    def _note(self, node: int, answer: SiteCard | Failure, answers: dict[str, SiteCard | NoReply]) -> None:
        registered = self._online().get(node, "") if self._patience is not None else ""
        if registered and answer.site not in (registered, "unknown"):
            answers[registered] = NoReply("refused", f"its node says that it is {answer.site}")
            return
        site = registered or answer.site
        if not registered and isinstance(answers.get(site), SiteCard):
            raise RoundError(
                f"two nodes say that they are the site {site}",
                remedy="Start one client per site, each with its own site folder",
            )
        if isinstance(answer, Failure):
            answers[site] = NoReply("failed", answer.line)
            self._listen(Heard(site, "not ready", reason=answer.line))
            if self._patience is not None:
                self._ask_after[node] = time.monotonic() + ASK_AGAIN_S
            return
        answers[site] = answer
        self._listen(Heard(site, "ready"))
        self._nodes[site] = node
        if self._patience is not None:
            self._ask_after[node] = 0.0  # whoever is asked for again has been lost, and is asked at once

    def _node_of(self, site: str, online: Mapping[int, str]) -> int | None:
        """The node of a site; after a new key or an empty database it is another one than before."""
        if self._patience is not None:
            named = [node for node, name in online.items() if name == site]
            return self._nodes[site] if self._nodes.get(site) in named else (named[-1] if named else None)
        return self._nodes.get(site)

    def _push(self, orders: Mapping[int, Message], kind: str, seconds: float) -> dict[str, int]:
        """Push one order to each node; the node by the id of its message, for those that could be pushed."""
        messages = [
            FlowerMessage(content=content, message_type=kind, dst_node_id=node, ttl=seconds)
            for node, content in zip(orders, write_orders(orders.values()), strict=True)
        ]
        if not messages:
            return {}
        # Flower gives no id for a node that is gone, and none at all where the orders are too large for it.
        pushed = zip(self._grid.push_messages(messages), orders, strict=False)
        return {message: node for message, node in pushed if message}

    def _exchange(
        self, orders: Sequence[Order], kind: type[Reply], flower_kind: str, deadline_s: float
    ) -> Iterator[tuple[Order, Reply | NoReply]]:
        now = time.monotonic()
        errands = [Errand(order, order.digest if self._patience else "", now) for order in orders]
        end = now + deadline_s
        self._send(errands, flower_kind, self._message_s(deadline_s))
        with tempfile.TemporaryDirectory(prefix="phcc-replies-") as aside:
            for place, errand in enumerate(errands):
                poll = SHORTEST_POLL_S
                while not errand.ended:
                    for one in errands[place:] if self._patience is not None else errands[place : place + 1]:
                        if self._advance(one, kind, flower_kind, end, deadline_s):
                            poll = SHORTEST_POLL_S
                        if one is not errand:
                            one.put_aside(Path(aside))
                    if not errand.ended:
                        poll = min(LONGEST_POLL_S, poll * 1.5)
                        time.sleep(poll)
                answer = errand.take()
                assert isinstance(answer, NoReply | kind)
                yield errand.order, answer
                errand.answer = None

    def _send(self, errands: Sequence[Errand[Order]], flower_kind: str, seconds: float) -> None:
        """The first time, all together, so that weights that are the same for all are uploaded once."""
        online = self._online() if self._patience is not None else {}
        to = {node: e for e in errands if (node := self._node_of(e.order.site, online)) is not None}
        sent = self._push({node: errand.order for node, errand in to.items()}, flower_kind, seconds)
        for message, node in sent.items():
            to[node].message = message
        for errand in errands:
            if errand.message is None and self._patience is None:
                known = errand.order.site in self._nodes
                why = "Flower could not take the order for this site's node" if known else _UNKNOWN_SITE
                errand.answer = NoReply("missing", why)

    def _advance(
        self, errand: Errand[Order], kind: type[Reply], flower_kind: str, end: float, deadline_s: float
    ) -> bool:
        """Look after one errand; whether anything was heard."""
        if errand.ended:
            return False
        now = time.monotonic()
        if errand.message is not None:
            for reply in self._grid.pull_messages([errand.message]):
                errand.message = None
                self._hear(errand, _answer(reply, kind), reply, flower_kind, end - now)
                return True
        elif now >= errand.due:
            self._try_again(errand, flower_kind, end - now)
        silent_s = now - errand.heard
        if self._patience is not None and silent_s > self._patience.lost_after_s:
            errand.answer = NoReply("missing", f"lost{errand.how_far}: nothing heard for {silent_s:.0f} s")
        elif now > end + (GRACE_S if self._patience is None else 0.0):
            last = f", late{errand.how_far}, last heard {silent_s:.0f} s ago" if self._patience else ""
            errand.answer = NoReply("missing", f"no reply within {deadline_s:.0f} s{last}")
        return False

    def _hear(
        self,
        errand: Errand[Order],
        answer: Message | NoReply,
        message: FlowerMessage,
        flower_kind: str,
        seconds_left: float,
    ) -> None:
        site, now = errand.order.site, time.monotonic()
        if self._patience is not None and message.has_error():
            self._listen(Heard(site, "silent", errand.step, errand.steps))
            errand.due = now + AGAIN_S
            return
        errand.heard = now
        if not isinstance(answer, Working):
            errand.answer = _final(answer)
            if not isinstance(answer, Failure | NoReply):
                self._listen(Heard(site, "replied", errand.steps, errand.steps))
            return
        if self._patience is None or answer.site != site or answer.order != errand.digest:
            errand.answer = NoReply("refused", "it answers for another site or another order")
            return
        errand.step, errand.steps = answer.step, answer.steps
        self._listen(Heard(site, answer.state, answer.step, answer.steps))
        if answer.state == keys.UNKNOWN:
            self._try_again(errand, flower_kind, seconds_left)
        else:
            poll = PollOrder(package=keys.package_version(), site=site, order=errand.digest)
            self._push_one(errand, poll, QUERY, seconds_left)

    def _try_again(self, errand: Errand[Order], flower_kind: str, seconds_left: float) -> None:
        errand.due = time.monotonic() + AGAIN_S
        self._push_one(errand, errand.order, flower_kind, seconds_left)

    def _message_s(self, seconds_left: float) -> float:
        """How long one message may take there and back.

        Flower's node drops a reply that it cannot push (a cut network, say) without a word. In a deployment a
        message therefore ends before its site is given up, and is sent again; the site has its answer on disk.
        """
        if self._patience is None:
            return seconds_left
        return min(seconds_left, max(LEAST_MESSAGE_S, self._patience.lost_after_s / 2))

    def _push_one(self, errand: Errand[Order], order: Message, kind: str, seconds_left: float) -> None:
        node = self._node_of(errand.order.site, self._online())
        if node is None or seconds_left <= 0:
            return
        sent = self._push({node: order}, kind, self._message_s(seconds_left))
        errand.message = next(iter(sent), None)


_UNKNOWN_SITE = "the site has not announced itself"


def _final(answer: Message | NoReply) -> TrainReply | EvaluateReply | NoReply:
    if isinstance(answer, Failure):
        return NoReply("failed", answer.line)
    assert isinstance(answer, TrainReply | EvaluateReply | NoReply)
    return answer


def _answer(message: FlowerMessage, kind: type[Reply]) -> Reply | Failure | Working | NoReply:
    if message.has_error():
        # An error of Flower's own (the node was lost, the app died): its reason is not ours to print.
        return NoReply("failed", f"Flower reports error {message.error.code} for this site")
    try:
        return read_reply(message.content, kind)
    except ContractError as error:
        return NoReply("refused", str(error))
