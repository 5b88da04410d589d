"""Both ends of the wire: what one side writes, the other reads."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
from builders import card_order, evaluate_order, tiny_study, train_order
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client import records as client
from phcc_model.contract import keys
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
from phcc_model.errors import ContractError, VersionMismatch
from phcc_server import records as server

STUDY = tiny_study()
ORDERS = [
    card_order(STUDY),
    train_order(STUDY, keys.PRETRAIN, "H1"),
    train_order(STUDY, keys.FINETUNE, "H1"),
    evaluate_order(STUDY, keys.FINETUNE, "H1"),
]
COMMON: dict[str, Any] = {
    "package": "0.1.0",
    "study_digest": STUDY.digest,
    "arm": "local:H1",
    "stage": "finetune",
    "round": 0,
    "site": "Hôpital n° 1",
    "manifest_digest": "0" * 64,
}
CHANGE: dict[str, Any] = {"change": np.arange(5, dtype=np.int8), "change.scales": np.ones(1, np.float32)}
REPLIES = [
    TrainReply(
        **COMMON,
        encoding="int8",
        patients=1,
        cases=2,
        steps=3,
        seconds=0.5,
        metrics={"loss": 0.1},
        arrays=CHANGE,
    ),
    EvaluateReply(
        **COMMON, split="test", patients=1, cases=1, loss=0.2, positives=[1, 0], negatives=[0, 0], seconds=0.0
    ),
    EvaluateReply(
        **COMMON, split="test", patients=1, cases=1, loss=0.2, positives=[], negatives=[], seconds=0.0
    ),
    SiteCard(
        package="0.1.0",
        site="H1",
        study_digest=STUDY.digest,
        patients={"train": 3},
        cases={"train": 3},
        positives={},
        negatives={},
    ),
]
FAILURE = Failure(package="0.1.0", site="H1", code="data", line="one line")


def must_be_equal(one: Message, other: Message) -> None:
    assert one == other
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        np.testing.assert_array_equal(array, other.arrays[name])


@pytest.mark.parametrize("order", ORDERS, ids=lambda m: type(m).__name__)
def test_an_order_arrives_as_it_was_sent(order: Message) -> None:
    must_be_equal(client.read_order(server.write_order(order), type(order)), order)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda m: type(m).__name__)
def test_a_reply_arrives_as_it_was_sent(reply: Message) -> None:
    must_be_equal(server.read_reply(client.write_reply(reply), type(reply)), reply)


@pytest.mark.parametrize("kind", [TrainReply, EvaluateReply, SiteCard])
def test_a_failure_arrives_in_place_of_any_reply(kind: type[Message]) -> None:
    assert server.read_reply(client.write_reply(FAILURE), kind) == FAILURE


def test_the_arrays_of_a_kind_travel_as_one() -> None:
    order = train_order(STUDY, keys.PRETRAIN, "H1")
    content = server.write_order(order)
    assert sorted(content) == ["arrays", "fields"]
    assert set(content["arrays"]) == set(order.arrays)  # one per dtype, not one per layer


def fields_of(message: Message, **changed: Any) -> RecordDict:
    plain = {"kind": type(message).__name__, **message.to_fields(), **changed}
    return RecordDict({"fields": ConfigRecord({k: v for k, v in plain.items() if v is not None})})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RecordDict(), "does not hold the records of a"),
        (RecordDict({"fields": MetricRecord({"loss": 1.0})}), "does not hold the records of a"),
        (
            RecordDict({"fields": ConfigRecord({}), "arrays": ConfigRecord({})}),
            "does not hold the records of a",
        ),
        (RecordDict({"fields": ConfigRecord({})}), "the message holds None, expected was"),
        (RecordDict({"fields": ConfigRecord({"kind": 3})}), "the message holds 3, expected was"),
        (fields_of(card_order(STUDY), kind="Failure2"), "the message holds 'Failure2', expected was"),
    ],
)
def test_content_without_the_records_is_refused_at_either_end(content: RecordDict, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        client.read_order(content, TrainOrder)
    with pytest.raises(ContractError, match=words):
        server.read_reply(content, TrainReply)


@pytest.mark.parametrize("order", ORDERS, ids=lambda m: type(m).__name__)
def test_another_order_than_expected_is_refused(order: Message) -> None:
    content = server.write_order(order)
    for kind in {CardOrder, TrainOrder, EvaluateOrder} - {type(order)}:
        with pytest.raises(
            ContractError, match=f"holds '{type(order).__name__}', expected was {kind.__name__}"
        ):
            client.read_order(content, kind)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"contract": 1}, VersionMismatch, "speaks contract 1 .*Install the same version"),
        ({"contract": "1"}, ContractError, "TrainReply.contract: is missing or no whole number"),
        ({"patients": None}, ContractError, "TrainReply.patients: field is missing"),
        ({"patients": 1.0}, ContractError, "patients: must be int, not float"),
        ({"patients": [1]}, ContractError, "patients: must be int, not list"),
        ({"site": b"H1"}, ContractError, "site: must be str, not bytes"),
        ({"seconds": True}, ContractError, "seconds: must be float, not bool"),
        ({"metrics.worst_patient": 0.1}, ContractError, "metrics.worst_patient: this name is not"),
        ({"patient": "Meier"}, ContractError, "TrainReply.patient: unknown field"),
        ({"encoding": "fp8"}, ContractError, "encoding: must be one of fp16, fp32, int8"),
    ],
)
def test_a_reply_that_breaks_the_contract_is_refused_by_field(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        server.read_reply(fields_of(REPLIES[0], **changed), TrainReply)


def with_bytes(data: bytes, stype: str = "numpy.ndarray") -> RecordDict:
    content = fields_of(REPLIES[0])
    content["arrays"] = ArrayRecord({"change": Array("float32", (3,), stype, data)})
    return content


HONEST = Array(np.zeros(3, np.float32)).data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        HONEST[:60],
        HONEST[:-4],
        HONEST.replace(b"(3,), ", b"(9999999999999,), "),
        HONEST.replace(b"(3,), ", b"(-3,), "),
        HONEST.replace(b"{'descr'", b"{(((((((("),
        b"PK\x03\x04 an archive that is none",
        b"\x80\x04\x95 objects of python",
    ],
)
def test_bytes_that_are_no_array_are_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="change: the bytes are no array"):
        server.read_reply(with_bytes(data), TrainReply)


def test_a_serialisation_that_is_not_numpys_is_refused() -> None:
    with pytest.raises(ContractError, match="change: the bytes are no array"):
        server.read_reply(with_bytes(HONEST, "torch.tensor"), TrainReply)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_of_a_site_bring_the_coordinator_down(data: st.DataObject) -> None:
    """Random bytes, and an honest array with some bytes changed: an array comes out, or a refusal."""
    honest = bytearray(HONEST)
    for at in data.draw(st.lists(st.integers(0, len(honest) - 1), max_size=3)):
        honest[at] = data.draw(st.integers(0, 255))
    sent = data.draw(st.sampled_from([bytes(honest), data.draw(st.binary(max_size=200))]))
    try:
        reply = server.read_reply(with_bytes(sent), TrainReply)
    except ContractError:
        return
    assert isinstance(reply, TrainReply)
    assert isinstance(reply.arrays["change"], np.ndarray)


def test_arrays_where_none_belong_are_refused() -> None:
    content = client.write_reply(dataclasses.replace(REPLIES[1]))
    content["arrays"] = ArrayRecord({"image": Array(np.zeros(3))})
    with pytest.raises(ContractError, match=r"EvaluateReply\.image: a EvaluateReply carries no arrays"):
        server.read_reply(content, EvaluateReply)


def test_orders_with_the_same_weights_hold_them_once() -> None:
    """The coordinator held a model for each site: 24 models with 24 sites."""
    arrays = {keys.FLOAT: np.random.default_rng(0).standard_normal(500_000, np.float32)}
    must_be_held_once(arrays, [arrays] * 24)


def test_orders_that_share_weights_and_differ_in_little_hold_the_weights_once() -> None:
    """As under SCAFFOLD, where each site is told the last round that is known of it."""
    arrays = {keys.FLOAT: np.random.default_rng(0).standard_normal(500_000, np.float32)}
    must_be_held_once(arrays, [arrays | {keys.CONTROL_ROUND: np.array([number])} for number in range(24)])


def must_be_held_once(arrays: dict[str, np.ndarray], each: list[dict[str, np.ndarray]]) -> None:
    orders = [dataclasses.replace(ORDERS[1], site=f"S{n}", arrays=own) for n, own in enumerate(each)]
    tracemalloc.start()
    contents = server.write_orders(orders)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * arrays[keys.FLOAT].nbytes
    for order, content in zip(orders, contents, strict=True):
        must_be_equal(client.read_order(content, TrainOrder), order)
        assert content.object_id == server.write_order(order).object_id
    assert server.write_orders([]) == []
