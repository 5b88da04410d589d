from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.contract import codec, keys, ranges
from phcc_model.contract.manifest import Manifest
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
from phcc_model.contract.wire import Message, check_package
from phcc_model.errors import ContractError, VersionMismatch

GOLDEN = Path(__file__).parents[2] / "data" / "contract"
WRITE = "PHCC_WRITE_GOLDEN"
"""Set to 1 to write the golden files that are not there, and those of an older CONTRACT_VERSION."""

STUDY = '{"name":"golden","seed":7}'
PACKAGE = "0.1.0"
ROUND = {"study_digest": "5" * 64, "arm": "full", "site": "H1", "manifest_digest": "a" * 64}
WEIGHTS = {"float32": np.array([0.5, -1.25, 3.0], np.float32), "int64": np.array([4])}

MESSAGES: tuple[Message, ...] = (
    CardOrder(package=PACKAGE, study_digest="5" * 64, study=STUDY, arm="full"),
    SiteCard(
        package=PACKAGE,
        site="H1",
        study_digest="5" * 64,
        patients={"train": 40, "validation": 8, "test": 12},
        cases={"train": 44, "validation": 8, "test": 13},
        positives={"train": 15, "validation": 3, "test": 5},
        negatives={"train": 24, "validation": 5, "test": 7},
        aside={"phases-incomplete": 6, "not-prepared": 5},
        seen={"field.low": 1.5, "field.high": 3.0},
    ),
    TrainOrder(
        **ROUND,
        package=PACKAGE,
        study=STUDY,
        stage="pretrain",
        round=2,
        rounds=10,
        seed=123456789012,
        encoding="fp16",
        arrays=WEIGHTS,
    ),
    TrainReply(
        **ROUND,
        package=PACKAGE,
        stage="pretrain",
        round=2,
        encoding="fp16",
        patients=40,
        cases=44,
        steps=3,
        seconds=12.5,
        metrics={"loss": 0.75, "effective_sample_size": 0.875},
        arrays={
            "change": np.array([1.0, -2.0, 0.5], np.float16),
            "change.scales": np.array([0.0078125], np.float32),
            "replace.int64": np.array([7]),
        },
    ),
    EvaluateOrder(
        **ROUND,
        package=PACKAGE,
        study=STUDY,
        stage="finetune",
        round=0,
        seed=5,
        split="validation",
        arrays=WEIGHTS,
    ),
    EvaluateReply(
        **ROUND,
        package=PACKAGE,
        stage="finetune",
        round=0,
        split="validation",
        patients=8,
        cases=8,
        loss=0.6875,
        positives=[0, 1, 2, 0],
        negatives=[3, 1, 1, 0],
        seconds=0.25,
    ),
    PollOrder(package=PACKAGE, site="H1", order="0" * 64),
    Working(package=PACKAGE, site="H1", order="0" * 64, state="training", step=3, steps=10, seconds=1.5),
    Failure(package=PACKAGE, site="H1", code="training", line="training failed at this site"),
)
each_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


def plain(message: Message) -> dict[str, object]:
    """The wire format as JSON: fields in their order, arrays with their dtype."""
    return {
        "message": type(message).__name__,
        "fields": message.to_fields(),
        "arrays": listed(message.arrays),
    }


def listed(arrays: Mapping[str, np.ndarray]) -> dict[str, list[object]]:
    return {name: [a.dtype.str, list(a.shape), a.tolist()] for name, a in arrays.items()}


def golden(name: str, now: dict[str, object], version: Callable[[dict[str, Any]], int]) -> dict[str, Any]:
    path = GOLDEN / f"{name}.json"
    if os.environ.get(WRITE) == "1" and (
        not path.exists() or version(json.loads(path.read_text("utf-8"))) != keys.CONTRACT_VERSION
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


CHANGED = (
    "the wire format has changed: sites that are installed would not understand it. Take the change back, "
    f"or raise CONTRACT_VERSION and write the golden files anew with {WRITE}=1"
)


@each_message
def test_the_wire_format_is_the_one_that_was_agreed(message) -> None:
    now = plain(message)
    agreed = golden(type(message).__name__, now, lambda file: file["fields"]["contract"])
    assert list(now["fields"]) == list(agreed["fields"]), CHANGED
    assert now == agreed, CHANGED


def test_the_vocabulary_and_the_codes_are_those_that_were_agreed() -> None:
    delta = np.array([0.0, 1.0, -0.3, 1e-3, 7.5], np.float32)
    state = {"b": np.zeros((2, 1), np.float32), "a": np.array(1), "norm": np.zeros(3, np.float32)}
    now = {
        "contract": keys.CONTRACT_VERSION,
        "stages": list(keys.STAGES),
        "splits": list(keys.SPLITS),
        "encodings": list(keys.ENCODINGS),
        "metrics": sorted(keys.METRICS),
        "aside": list(keys.ASIDE),
        "seen": sorted(ranges.ENDS),
        "failures": sorted(keys.FAILURE_CODES),
        "codes": {encoding: listed(codec.encode(delta, encoding)) for encoding in keys.ENCODINGS},
        "manifest": Manifest.of(state, lambda name: name == "norm").to_json(),
    }
    assert now == golden("vocabulary", now, lambda file: file["contract"]), CHANGED


@each_message
def test_a_golden_file_is_still_read(message) -> None:
    agreed = json.loads((GOLDEN / f"{type(message).__name__}.json").read_text(encoding="utf-8"))
    arrays = {
        name: np.array(values, dtype=kind).reshape(shape)
        for name, (kind, shape, values) in agreed["arrays"].items()
    }
    read = type(message).from_fields(agreed["fields"], arrays)
    assert read == message
    assert {name: a.dtype for name, a in read.arrays.items()} == {
        name: a.dtype for name, a in message.arrays.items()
    }


@each_message
def test_fields_are_flat_scalars_and_lists(message) -> None:
    for name, value in message.to_fields().items():
        assert type(value) in (bool, int, float, str, list), name
        assert not isinstance(value, list) or all(type(item) is int for item in value)


@each_message
def test_every_field_is_needed_and_no_other_is_taken(message) -> None:
    fields = message.to_fields()
    for name in fields:
        if "." not in name:  # an entry of a map may be absent
            with pytest.raises(ContractError, match=name):
                type(message).from_fields({n: v for n, v in fields.items() if n != name}, message.arrays)
    with pytest.raises(ContractError, match="patient_name"):
        type(message).from_fields(fields | {"patient_name": "Doe"}, message.arrays)


@each_message
def test_every_field_of_a_wrong_type_is_named(message) -> None:
    fields = message.to_fields()
    others: tuple[object, ...] = (True, 1, 1.0, "1", [1], [1.0], ["x"], b"1", None, {"a": 1})
    for name, good in fields.items():
        accepted = (list, type(good[0]) if good else int) if isinstance(good, list) else None
        for bad in others:
            same = isinstance(bad, list) and type(bad[0]) is int if accepted else type(bad) is type(good)
            if not same:
                with pytest.raises(ContractError, match=name.split(".")[0]):
                    type(message).from_fields(fields | {name: bad}, message.arrays)


@each_message
def test_another_contract_is_told_what_to_install_before_anything_else_is_read(message) -> None:
    with pytest.raises(VersionMismatch, match="Install the same version of phcc-ssl-federated"):
        type(message).from_fields({"contract": keys.CONTRACT_VERSION + 1, "package": "9.9"})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("stage", "warmup"),
        ("encoding", "bf16"),
        ("round", -1),
        ("rounds", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("study_digest", "5" * 63),
        ("manifest_digest", "G" * 64),
        ("site", ""),
        ("site", "H1\nINFO all is well"),
        ("arm", "x" * 129),
    ],
)
def test_values_outside_the_vocabulary_are_named(name, bad) -> None:
    order = MESSAGES[2]
    with pytest.raises(ContractError, match=name):
        TrainOrder.from_fields(order.to_fields() | {name: bad}, order.arrays)
    with pytest.raises(ContractError, match=name):
        dataclasses.replace(order, **{name: bad}).to_fields()


def test_only_the_measures_of_the_contract_leave() -> None:
    with pytest.raises(ContractError, match=r"metrics\.age_of_the_oldest"):
        dataclasses.replace(MESSAGES[3], metrics={"age_of_the_oldest": 91.0}).to_fields()
    with pytest.raises(ContractError, match=r"seen\.age\.low"):
        dataclasses.replace(MESSAGES[1], seen={"age.low": 41.0}).to_fields()
    with pytest.raises(ContractError, match=r"aside\.claustrophobic"):
        dataclasses.replace(MESSAGES[1], aside={"claustrophobic": 1}).to_fields()
    with pytest.raises(ContractError, match=r"patients\.everyone"):
        dataclasses.replace(MESSAGES[1], patients={"everyone": 3}).to_fields()
    with pytest.raises(ContractError, match="code"):
        dataclasses.replace(MESSAGES[8], code="Doe^Jane").to_fields()


def test_arrays_are_numeric_arrays_where_there_are_any() -> None:
    order, card = MESSAGES[2], MESSAGES[1]
    for bad in ([1.0, 2.0], np.array(["a", None], dtype=object), b"\x00"):
        with pytest.raises(ContractError, match=r"TrainOrder\.float32"):
            TrainOrder.from_fields(order.to_fields(), {"float32": bad})
    with pytest.raises(ContractError, match="carries no arrays"):
        SiteCard.from_fields(card.to_fields(), {"image": np.zeros(3)})


@settings(max_examples=60, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from(keys.SPLITS), st.integers(0, 10**6)),
    metrics=st.dictionaries(st.sampled_from(sorted(keys.METRICS)), st.floats(allow_nan=False)),
    site=st.text(min_size=1, max_size=128).filter(str.isprintable),
)
def test_maps_are_flattened_and_built_again(counts, metrics, site) -> None:
    card = dataclasses.replace(
        MESSAGES[1], site=site, patients=counts, cases=counts, positives={}, negatives=counts
    )
    assert SiteCard.from_fields(card.to_fields()) == card
    reply = dataclasses.replace(MESSAGES[3], site=site, metrics=metrics)
    assert TrainReply.from_fields(reply.to_fields(), reply.arrays) == reply


def test_packages_must_agree() -> None:
    check_package("1.2.0", "1.2.0", "TrainOrder")
    with pytest.raises(VersionMismatch, match=r"pip install phcc-ssl-federated==1\.3\.0"):
        check_package("1.3.0", "1.2.0", "TrainOrder")


def test_this_package_knows_its_version() -> None:
    assert keys.package_version()[0].isdigit()


@each_message
def test_equal_messages_have_one_digest_and_a_remark_is_no_part_of_it(message: Message) -> None:
    again = type(message).from_fields(message.to_fields(), message.arrays)
    assert again.digest == message.digest
    if isinstance(message, TrainOrder):
        assert dataclasses.replace(message, notice="your last reply was refused").digest == message.digest
        assert dataclasses.replace(message, round=message.round + 1).digest != message.digest
        weights = {name: array.copy() for name, array in message.arrays.items()}
        weights["float32"][0] += 1
        assert dataclasses.replace(message, arrays=weights).digest != message.digest
