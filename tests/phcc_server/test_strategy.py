"""Sites over Flower's grid: what comes late, twice, broken or not at all ends in a line that names the site."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from builders import Answer, MemoryGrid, card_order, evaluate_order, tiny_study, train_order
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from flwr.app import Message as FlowerMessage

from phcc_client.records import read_order, write_reply
from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import CardOrder, EvaluateReply, Failure, SiteCard, TrainOrder, TrainReply
from phcc_model.contract.wire import Message
from phcc_model.errors import RoundError
from phcc_server import strategy
from phcc_server.sites import NoReply
from phcc_server.strategy import FlowerSites

STUDY = tiny_study()
STATE = {"w": np.zeros(7, np.float32)}
MANIFEST = Manifest.of(STATE)
SITES = ("Alma", "Berg", "Cork")
NOW = keys.CONTRACT_VERSION
Reaction = Callable[[FlowerMessage], Message | RecordDict | Error | None]


class Clock:
    """A clock that only runs while somebody sleeps."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("phcc_server.strategy.time", clock)
    return clock


def card(site: str) -> SiteCard:
    counts = {"train": 3, "validation": 1, "test": 0}
    return SiteCard(
        package="0.1.0",
        site=site,
        study_digest=STUDY.digest,
        patients=counts,
        cases=counts,
        positives=counts,
        negatives=dict.fromkeys(counts, 0),
    )


def trained(site: str, value: float = 1.0) -> TrainReply:
    order = train_order(STUDY, keys.FINETUNE, site, state=STATE, encoding="fp32")
    delta = np.full(MANIFEST.size, value, np.float32)
    shared = {field.name for field in dataclasses.fields(TrainReply)} & set(vars(order)) - {"arrays"}
    return TrainReply(
        **{name: getattr(order, name) for name in shared},
        patients=3,
        cases=3,
        steps=1,
        seconds=0.1,
        metrics={},
        arrays=codec.encode_change(codec.Change(delta), "fp32"),
    )


def evaluated(site: str) -> EvaluateReply:
    order = evaluate_order(STUDY, keys.PRETRAIN, site)
    shared = {field.name for field in dataclasses.fields(EvaluateReply)} & set(vars(order)) - {"arrays"}
    return EvaluateReply(
        **{name: getattr(order, name) for name in shared},
        patients=1,
        cases=1,
        loss=0.5,
        positives=[],
        negatives=[],
        seconds=0.1,
    )


def failed(site: str) -> Failure:
    return Failure(package="0.1.0", site=site, code="training", line="training failed at this site")


def node(react: Reaction) -> Answer:
    """A node whose content, error or silence a test decides."""

    def answer(message: FlowerMessage) -> FlowerMessage | None:
        reaction = react(message)
        if reaction is None:
            return None
        if isinstance(reaction, Error):
            return FlowerMessage(error=reaction, reply_to=message)
        content = reaction if isinstance(reaction, RecordDict) else write_reply(reaction)
        return FlowerMessage(content=content, reply_to=message)

    return answer


def honest(site: str, value: float = 1.0) -> Answer:
    by_kind: dict[str, Message] = {
        "query": card(site),
        "train": trained(site, value),
        "evaluate": evaluated(site),
    }
    return node(lambda message: by_kind[message.metadata.message_type])


def known_then(site: str, reaction: Message | RecordDict | Error | None) -> Answer:
    """A node that announces its site, and then reacts so to every order."""
    return node(lambda message: card(site) if message.metadata.message_type == "query" else reaction)


def announced(
    nodes: dict[int, Answer], patience_s: float = 30.0
) -> tuple[MemoryGrid, FlowerSites, dict[str, Any]]:
    grid = MemoryGrid(nodes)
    sites = FlowerSites(grid, patience_s)
    return grid, sites, sites.cards(card_order(STUDY), SITES)


def orders(*sites: str) -> list[TrainOrder]:
    return [train_order(STUDY, keys.FINETUNE, site, state=STATE, encoding="fp32") for site in sites]


def test_cards_are_told_by_site_whatever_the_order_of_the_nodes() -> None:
    grid, _, cards = announced({7: honest("Cork"), 3: honest("Alma"), 5: honest("Berg")})
    assert cards == {site: card(site) for site in SITES}
    assert [message.metadata.message_type for message in grid.pushed] == ["query"] * 3
    assert read_order(grid.pushed[0].content, CardOrder) == card_order(STUDY)


def test_replies_come_in_the_order_of_the_orders() -> None:
    numbers = {"Alma": 9, "Berg": 2, "Cork": 4}
    grid, sites, _ = announced({numbers[site]: honest(site, at) for at, site in enumerate(SITES)})
    for named in (SITES, SITES[::-1]):
        asked = orders(*named)
        answers = list(sites.train(asked, 60.0))
        assert [order for order, _ in answers] == asked
        for order, reply in answers:
            assert isinstance(reply, TrainReply)
            assert reply.site == order.site
            assert reply.arrays[keys.CHANGE].tolist() == [SITES.index(order.site)] * MANIFEST.size
    sent = [m for m in grid.pushed if m.metadata.message_type == "train"]
    assert [m.metadata.dst_node_id for m in sent[:3]] == [9, 2, 4]
    assert [m.metadata.ttl for m in sent] == [60.0] * 6


def test_all_orders_go_out_before_the_first_reply_is_waited_for() -> None:
    grid, sites, _ = announced({at: honest(site) for at, site in enumerate(SITES)})
    exchange = sites.train(orders(*SITES), 60.0)
    next(exchange)
    assert len([m for m in grid.pushed if m.metadata.message_type == "train"]) == 3


def test_evaluations_travel_as_evaluations() -> None:
    grid, sites, _ = announced({at: honest(site) for at, site in enumerate(SITES)})
    asked = [evaluate_order(STUDY, keys.PRETRAIN, site) for site in SITES]
    assert [reply for _, reply in sites.evaluate(asked, 60.0)] == [evaluated(site) for site in SITES]
    assert [m.metadata.message_type for m in grid.pushed[3:]] == ["evaluate"] * 3


def garbage(**fields: Any) -> RecordDict:
    return RecordDict({"fields": ConfigRecord(fields)})


def with_arrays(reply: Message, data: bytes) -> RecordDict:
    content = write_reply(reply)
    content["arrays"] = ArrayRecord({"change": Array("float32", (7,), "numpy.ndarray", data)})
    return content


@pytest.mark.parametrize(
    ("reaction", "status", "reason"),
    [
        (None, "missing", "no reply within 60 s"),
        (failed("Berg"), "failed", "training failed at this site"),
        (Error(code=3, reason="/srv/patients/Meier"), "failed", "Flower reports error 3 for this site"),
        (RecordDict(), "refused", "TrainReply: the message does not hold the records of a reply."),
        (garbage(), "refused", "TrainReply: the message holds None, expected was TrainReply."),
        (garbage(kind="TrainReply"), "refused", "TrainReply.contract: is missing or no whole number."),
        (
            garbage(kind="TrainReply", contract=NOW),
            "refused",
            "TrainReply.package: field is missing.",
        ),
        (
            garbage(kind="Failure", contract=NOW),
            "refused",
            "Failure.package: field is missing.",
        ),
        (with_arrays(trained("Berg"), b"\x93NUMPY?"), "refused", "change: the bytes are no array."),
        (with_arrays(trained("Berg"), b"PK\x03\x04"), "refused", "change: the bytes are no array."),
        (card("Berg"), "refused", "TrainReply: the message holds 'SiteCard', expected was TrainReply."),
        (
            evaluated("Berg"),
            "refused",
            "TrainReply: the message holds 'EvaluateReply', expected was TrainReply.",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_site_whose_reply_cannot_be_used_is_named_and_the_others_go_on(
    reaction: Message | RecordDict | Error | None, status: str, reason: str
) -> None:
    _, sites, _ = announced({1: honest("Alma"), 2: known_then("Berg", reaction), 3: honest("Cork")})
    answers = {order.site: reply for order, reply in sites.train(orders(*SITES), 60.0)}
    assert answers["Berg"] == NoReply(status, reason)  # type: ignore[arg-type]
    assert isinstance(answers["Alma"], TrainReply)
    assert isinstance(answers["Cork"], TrainReply)


def test_a_contract_of_another_version_says_what_to_install() -> None:
    other = dataclasses.replace(trained("Berg"), contract=99)
    _, sites, _ = announced({1: honest("Alma"), 2: known_then("Berg", other), 3: honest("Cork")})
    answers = {order.site: reply for order, reply in sites.train(orders(*SITES), 60.0)}
    reply = answers["Berg"]
    assert isinstance(reply, NoReply)
    assert reply.status == "refused"
    assert "speaks contract 99" in reply.reason
    assert "Install the same version" in reply.reason


def test_silence_is_waited_for_until_the_deadline_and_no_longer(clock: Clock) -> None:
    _, sites, _ = announced({1: honest("Alma"), 2: known_then("Berg", None), 3: known_then("Cork", None)})
    begin = clock.now
    answers = {order.site: reply for order, reply in sites.train(orders(*SITES), 60.0)}
    # Both wait side by side; Flower's own word on a message that has run out comes a little later.
    assert 60.0 < clock.now - begin <= 60.0 + strategy.GRACE_S + 2 * strategy.LONGEST_POLL_S
    assert isinstance(answers["Alma"], TrainReply)
    assert answers["Berg"] == answers["Cork"] == NoReply("missing", "no reply within 60 s")


def test_a_reply_that_is_late_but_in_time_is_taken(clock: Clock) -> None:
    grid, sites, _ = announced({1: honest("Alma"), 2: honest("Berg"), 3: honest("Cork")})
    pulled = grid.pull_messages
    begin = clock.now

    def later(message_ids: Iterable[str]) -> Iterable[FlowerMessage]:
        return pulled(message_ids) if clock.now - begin > 59.0 else []

    grid.pull_messages = later  # type: ignore[method-assign]
    assert [type(reply) for _, reply in sites.train(orders("Berg"), 60.0)] == [TrainReply]


def test_a_site_that_has_not_announced_itself_is_missing() -> None:
    grid, sites, cards = announced({1: honest("Alma"), 3: honest("Cork")})
    assert cards["Berg"] == NoReply("missing", "no answer within 30 s")
    answers = [reply for _, reply in sites.train(orders(*SITES), 5.0)]
    assert answers[1] == NoReply("missing", "the site has not announced itself")
    assert [type(answers[0]), type(answers[2])] == [TrainReply, TrainReply]
    assert all(m.metadata.dst_node_id in (1, 3) for m in grid.pushed)


def test_a_site_that_appears_later_is_waited_for(clock: Clock) -> None:
    grid = MemoryGrid({1: honest("Alma"), 2: honest("Berg")})
    begin = clock.now

    def ids() -> list[int]:
        if clock.now - begin > 20.0:
            grid.nodes[3] = honest("Cork")
        return list(grid.nodes)

    grid.get_node_ids = ids  # type: ignore[method-assign]
    assert FlowerSites(grid, 30.0).cards(card_order(STUDY), SITES) == {site: card(site) for site in SITES}
    assert len(grid.pushed) == 3  # nobody is asked twice


def test_a_site_that_refuses_the_study_is_named_at_once(clock: Clock) -> None:
    begin = clock.now
    _, _, cards = announced({1: honest("Alma"), 2: node(lambda _: failed("Berg")), 3: honest("Cork")}, 30.0)
    assert cards["Berg"] == NoReply("failed", "training failed at this site")
    assert clock.now - begin < 1.0


def test_nodes_that_are_no_site_of_this_study_are_told_apart() -> None:
    """One more hospital, a node without a task, one that fails in Flower, one that talks nonsense."""
    _, sites, cards = announced(
        {
            1: honest("Alma"),
            2: honest("Dorf"),
            3: node(lambda _: failed("unknown")),
            4: node(lambda _: Error(code=1)),
            5: node(lambda _: garbage(kind="SiteCard")),
            6: honest("Berg"),
            7: honest("Cork"),
        }
    )
    assert {site: cards[site] for site in SITES} == {site: card(site) for site in SITES}
    assert cards["Dorf"] == card("Dorf")
    assert cards["unknown"] == NoReply("failed", "training failed at this site")
    assert set(cards) == {*SITES, "Dorf", "unknown"}
    assert [type(reply) for _, reply in sites.train(orders(*SITES), 5.0)] == [TrainReply] * 3


def test_what_an_unreadable_node_said_is_told_with_the_site_that_is_missing() -> None:
    """A hospital with another version of the contract cannot say its name, but what is wrong can be said."""
    other = node(lambda _: dataclasses.replace(card("Berg"), contract=99))
    _, _, cards = announced({1: honest("Alma"), 2: other, 3: honest("Cork")})
    reply = cards["Berg"]
    assert isinstance(reply, NoReply)
    assert reply.status == "missing"
    assert reply.reason.startswith("no answer within 30 s; node 2 refused: SiteCard: the other side speaks")
    assert "Install the same version" in reply.reason


def test_two_nodes_with_one_name_stop_the_study() -> None:
    with pytest.raises(
        RoundError, match=r"two nodes say that they are the site Alma\. Start one client per site"
    ):
        announced({1: honest("Alma"), 2: honest("Alma"), 3: honest("Berg")})


def test_a_node_that_is_gone_is_missing_and_the_others_go_on() -> None:
    grid, sites, _ = announced({1: honest("Alma"), 2: honest("Berg"), 3: honest("Cork")})
    grid.unreachable = {2}
    answers = {order.site: reply for order, reply in sites.train(orders(*SITES), 5.0)}
    assert answers["Berg"] == NoReply("missing", "Flower could not take the order for this site's node")
    assert [type(answers["Alma"]), type(answers["Cork"])] == [TrainReply, TrainReply]


def test_orders_that_flower_does_not_take_at_all_are_missing_replies() -> None:
    grid, sites, _ = announced({1: honest("Alma"), 2: honest("Berg"), 3: honest("Cork")})
    grid.push_messages = lambda messages: []  # type: ignore[method-assign]
    assert [reply for _, reply in sites.train(orders(*SITES), 5.0)] == [
        NoReply("missing", "Flower could not take the order for this site's node")
    ] * 3


def test_no_order_is_no_message() -> None:
    grid, sites, _ = announced({at: honest(site) for at, site in enumerate(SITES)})
    assert list(sites.train([], 5.0)) == []
    assert len(grid.pushed) == 3
