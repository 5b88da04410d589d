"""A deployment's sites over the grid: slow, lost, restarted, renamed; each told from the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import Answer, MemoryGrid, card_order, tiny_study
from flwr.app import Error
from flwr.app import Message as FlowerMessage
from test_strategy import Clock, card, failed, orders, trained

from phcc_client.records import kind_of, read_order, write_reply
from phcc_model.contract import keys
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    PollOrder,
    SiteCard,
    TrainOrder,
    TrainReply,
    Working,
)
from phcc_model.contract.wire import Message
from phcc_server.sites import Heard, NoReply
from phcc_server.strategy import FlowerSites, Patience

STUDY = tiny_study()
KINDS = (TrainOrder, PollOrder, EvaluateOrder, CardOrder)
Say = Callable[[Message], Message | Error | None]


class NamedGrid(MemoryGrid):
    """A grid whose nodes were registered under names; those in `offline` are not there now."""

    def __init__(self, nodes: Mapping[int, Answer], names: Mapping[int, str]) -> None:
        super().__init__(nodes)
        self.names = dict(names)
        self.offline: set[int] = set()

    def get_nodes(self) -> Iterable[Any]:
        return [
            SimpleNamespace(node_id=node, name=self.names[node])
            for node in self.nodes
            if node not in self.offline
        ]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("phcc_server.strategy.time", clock)
    return clock


def site(say: Say) -> Answer:
    def answer(message: FlowerMessage) -> FlowerMessage | None:
        order = read_order(message.content, kind_of(message.content, KINDS))
        said = say(order)
        if said is None:
            return None
        if isinstance(said, Error):
            return FlowerMessage(error=said, reply_to=message)
        return FlowerMessage(content=write_reply(said), reply_to=message)

    return answer


def working(name: str, order: Message, step: int, state: str = keys.TRAINING) -> Working:
    digest = order.order if isinstance(order, PollOrder) else order.digest
    return Working(
        package="0.1.0", site=name, order=digest, state=state, step=step, steps=10, seconds=float(step)
    )


class Slow:
    """A site that needs so many polls, and then replies."""

    def __init__(self, name: str, polls: int) -> None:
        self.name, self.polls = name, polls
        self.asked: list[str] = []

    def __call__(self, order: Message) -> Message:
        self.asked.append(type(order).__name__)
        if isinstance(order, CardOrder):
            return card(self.name)
        self.polls -= 1
        return working(self.name, order, max(0, 10 - self.polls)) if self.polls >= 0 else trained(self.name)


def reached(
    says: Mapping[str, Say], lost_after_s: float = 60.0
) -> tuple[NamedGrid, FlowerSites, list[Heard], dict[str, Any]]:
    names = dict(enumerate(says, 11))
    heard: list[Heard] = []
    grid = NamedGrid({node: site(says[name]) for node, name in names.items()}, names)
    sites = FlowerSites(grid, 30.0, Patience(lost_after_s), heard.append)
    cards = sites.cards(card_order(STUDY), tuple(says), 30.0)
    return grid, sites, heard, cards


def test_a_slow_site_is_asked_again_and_its_steps_are_heard() -> None:
    slow, quick = Slow("Berg", 4), Slow("Alma", 0)
    _, sites, heard, cards = reached({"Alma": quick, "Berg": slow})
    assert all(isinstance(answer, SiteCard) for answer in cards.values())
    answers = {order.site: reply for order, reply in sites.train(orders("Alma", "Berg"), 600.0)}
    assert isinstance(answers["Alma"], TrainReply)
    assert isinstance(answers["Berg"], TrainReply)
    assert slow.asked == ["CardOrder", "TrainOrder", *["PollOrder"] * 4]
    assert [h.step for h in heard if h.site == "Berg" and h.state == keys.TRAINING] == [7, 8, 9, 10]


def test_replies_come_in_the_order_of_the_orders_whoever_was_first() -> None:
    _, sites, _, _ = reached({"Alma": Slow("Alma", 9), "Berg": Slow("Berg", 0), "Cork": Slow("Cork", 1)})
    got = list(sites.train(orders("Alma", "Berg", "Cork"), 600.0))
    assert [order.site for order, _ in got] == ["Alma", "Berg", "Cork"]
    for _, reply in got:  # those that waited for their turn on disk are what they were
        assert isinstance(reply, TrainReply)
        np.testing.assert_array_equal(reply.arrays[keys.CHANGE], np.ones(7, np.float32))


def test_an_order_that_flower_lost_with_its_node_is_sent_again() -> None:
    asked: list[Message] = []

    def crashing(order: Message) -> Message | Error | None:
        if isinstance(order, CardOrder):
            return card("Alma")
        asked.append(order)
        return Error(code=5, reason="node unavailable") if len(asked) == 1 else trained("Alma")

    _, sites, heard, _ = reached({"Alma": crashing})
    ((_, reply),) = sites.train(orders("Alma"), 600.0)
    assert isinstance(reply, TrainReply)
    assert [type(order).__name__ for order in asked] == ["TrainOrder", "TrainOrder"]
    assert "silent" in [h.state for h in heard]


def test_a_message_ends_before_its_site_is_given_up() -> None:
    """Flower's node drops a reply that it cannot push: only the message's own end tells of it."""
    grid, sites, _, _ = reached({"Alma": Slow("Alma", 2)}, lost_after_s=90.0)
    list(sites.train(orders("Alma"), 3600.0))
    assert {message.metadata.ttl for message in grid.pushed[1:]} == {45.0}


def test_a_site_that_forgot_the_order_is_sent_it_again() -> None:
    asked: list[Message] = []

    def forgetful(order: Message) -> Message:
        if isinstance(order, CardOrder):
            return card("Alma")
        asked.append(order)
        if isinstance(order, PollOrder):
            return working("Alma", order, 0, keys.UNKNOWN)
        return working("Alma", order, 1) if len(asked) == 1 else trained("Alma")

    _, sites, _, _ = reached({"Alma": forgetful})
    ((_, reply),) = sites.train(orders("Alma"), 600.0)
    assert isinstance(reply, TrainReply)
    assert [type(order).__name__ for order in asked] == ["TrainOrder", "PollOrder", "TrainOrder"]


def test_a_lost_site_is_told_from_a_late_one(clock: Clock) -> None:
    def silent(order: Message) -> Message | None:
        if isinstance(order, CardOrder):
            return card("Alma")
        return working("Alma", order, 3) if isinstance(order, TrainOrder) else None

    _, sites, _, _ = reached({"Alma": silent, "Berg": Slow("Berg", 10**9)})
    begin = clock.now
    answers = {order.site: reply for order, reply in sites.train(orders("Alma", "Berg"), 300.0)}
    assert answers["Alma"].status == "missing"  # type: ignore[union-attr]
    assert answers["Alma"].reason.startswith("lost at step 3 of 10: nothing heard for 6")  # type: ignore[union-attr]
    assert "no reply within 300 s, late at step" in answers["Berg"].reason  # type: ignore[union-attr]
    assert 300.0 <= clock.now - begin < 302.0


def test_a_node_that_says_that_it_is_another_site_is_refused() -> None:
    _, _, _, cards = reached({"Alma": Slow("Alma", 0), "Berg": Slow("Alma", 0)})
    assert isinstance(cards["Alma"], SiteCard)
    assert cards["Berg"] == NoReply("refused", "its node says that it is Alma")


def test_a_node_whose_site_is_not_expected_is_not_asked() -> None:
    stranger = Slow("Dorf", 0)
    names = {11: "Alma", 12: "Dorf"}
    grid = NamedGrid({11: site(Slow("Alma", 0)), 12: site(stranger)}, names)
    FlowerSites(grid, 30.0, Patience(60.0)).cards(card_order(STUDY), ("Alma",), 5.0)
    assert stranger.asked == []


def test_a_site_that_says_no_is_asked_again_after_a_while(clock: Clock) -> None:
    asked: list[float] = []

    def undecided(order: Message) -> Message:
        asked.append(clock.now)
        return failed("Alma") if len(asked) < 3 else card("Alma")

    _, _, heard, cards = reached({"Alma": undecided})
    assert isinstance(cards["Alma"], SiteCard)
    assert all(later - earlier >= 10.0 for earlier, later in itertools.pairwise(asked))
    assert [h.state for h in heard] == ["not ready", "not ready", "ready"]


@pytest.mark.parametrize("lost", [Error(code=5, reason="node unavailable"), None])
def test_a_question_that_was_lost_with_its_node_is_asked_again(lost: Error | None, clock: Clock) -> None:
    """After a reboot Flower takes a dead node for a living one, and the first question goes to nobody."""
    asked: list[float] = []

    def rebooted(order: Message) -> Message | Error | None:
        asked.append(clock.now)
        return lost if len(asked) == 1 else card("Alma")

    grid = NamedGrid({11: site(rebooted)}, {11: "Alma"})
    cards = FlowerSites(grid, 240.0, Patience(60.0)).cards(card_order(STUDY), ("Alma",))
    assert isinstance(cards["Alma"], SiteCard)
    assert asked[1] - asked[0] < 70.0


def test_a_site_with_a_new_key_is_found_under_its_name() -> None:
    """While a key is rotated, two nodes bear one name; the order goes to the one that is there."""
    grid, sites, _, _ = reached({"Alma": Slow("Alma", 0)})
    grid.nodes[99], grid.names[99] = site(Slow("Alma", 0)), "Alma"
    grid.offline.add(11)
    ((_, reply),) = sites.train(orders("Alma"), 60.0)
    assert isinstance(reply, TrainReply)
    assert grid.pushed[-1].metadata.dst_node_id == 99


@pytest.mark.parametrize("change", [{"site": "Berg"}, {"order": "1" * 64}])
def test_a_report_about_another_order_is_refused(change: dict[str, str]) -> None:
    def confused(order: Message) -> Message:
        if isinstance(order, CardOrder):
            return card("Alma")
        said = working("Alma", order, 1)
        return Working(**{**{k: getattr(said, k) for k in vars(said) if k != "arrays"}, **change})

    _, sites, _, _ = reached({"Alma": confused})
    ((_, reply),) = sites.train(orders("Alma"), 60.0)
    assert reply == NoReply("refused", "it answers for another site or another order")


def test_nobody_there_is_not_waited_for_longer_than_it_takes_to_be_lost(clock: Clock) -> None:
    grid, sites, _, _ = reached({"Alma": Slow("Alma", 0)}, lost_after_s=45.0)
    grid.offline.add(11)
    begin = clock.now
    ((_, reply),) = sites.train(orders("Alma"), 3600.0)
    assert isinstance(reply, NoReply)
    assert "lost" in reply.reason
    assert 45.0 <= clock.now - begin < 47.0
