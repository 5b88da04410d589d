from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phcc_client.outbox import Outbox
from phcc_model.contract.messages import EvaluateReply, Failure, SiteCard, TrainReply, Working
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError, StorageError

SENT: dict[str, Any] = {
    "package": "0.1.0",
    "study_digest": "a" * 64,
    "arm": "full",
    "stage": "finetune",
    "round": 1,
    "site": "H1",
    "manifest_digest": "b" * 64,
}
CHANGE = np.arange(6, dtype=np.float16)
TRAINED = TrainReply(
    **SENT,
    encoding="fp16",
    patients=40,
    cases=44,
    steps=2,
    seconds=0.5,
    metrics={"loss": 0.25, "auc_training": 0.75},
    arrays={"change": CHANGE},
)
BINS = [0] * 200
EVALUATED = EvaluateReply(
    **SENT,
    split="test",
    patients=12,
    cases=12,
    loss=0.7,
    positives=[*BINS[:2], 5, *BINS[:7], 1, *BINS[:189]],
    negatives=[6, *BINS[:199]],
    seconds=0.1,
)
CARD = SiteCard(
    package="0.1.0",
    site="H1",
    study_digest="a" * 64,
    patients={"train": 40},
    cases={"train": 44},
    positives={"train": 20},
    negatives={"train": 20},
)
FAILED = Failure(package="0.1.0", site="H1", code="data", line="one line")
WORKING = Working(
    package="0.1.0", site="H1", order="c" * 64, state="training", step=3, steps=9, seconds=2.0
)  # fmt: skip
ALL: tuple[Message, ...] = (CARD, TRAINED, WORKING, EVALUATED, FAILED)


def filled(folder: Path) -> Outbox:
    outbox = Outbox(folder / "outbox.jsonl")
    for message in ALL:
        outbox.record(message, study="liver")
    return outbox


def test_a_message_is_written_down_with_all_that_it_held(tmp_path: Path) -> None:
    card, trained, working, evaluated, failed = filled(tmp_path).read()
    assert card.counts == {
        "contract": CARD.contract,
        "patients.train": 40,
        "cases.train": 44,
        "positives.train": 20,
        "negatives.train": 20,
    }
    assert (trained.kind, trained.study, trained.study_digest) == ("TrainReply", "liver", "a" * 64)
    assert (trained.arm, trained.stage, trained.round) == ("full", "finetune", 1)
    assert trained.statistics == {"seconds": 0.5, "metrics.loss": 0.25, "metrics.auc_training": 0.75}
    (array,) = trained.arrays
    assert (array.name, array.dtype, array.elements, array.bytes) == ("change", "float16", 6, 12)
    assert array.sha256 == hashlib.sha256(CHANGE.tobytes()).hexdigest()
    assert trained.bytes == 12
    assert evaluated.histograms == {"positives": {2: 5, 10: 1}, "negatives": {0: 6}}
    assert working.counts["step"] == 3
    assert failed.words["line"] == "one line"
    assert failed.study_digest is None
    assert not any(sent.noised for sent in (card, trained, evaluated))


def test_no_value_of_a_message_is_left_out(tmp_path: Path) -> None:
    for message, sent in zip(ALL, filled(tmp_path).read(), strict=True):
        told = {**sent.counts, **sent.statistics, **sent.words, **sent.histograms, **sent.model_dump()}
        for name, value in message.to_fields().items():
            if isinstance(value, list):
                assert sum(told[name].values()) == sum(value)
            else:
                assert told[name] == value


def test_a_record_holds_and_each_outbox_goes_on_with_it(tmp_path: Path) -> None:
    file = tmp_path / "outbox.jsonl"
    for number in range(5):
        Outbox(file).record(dataclasses.replace(TRAINED, round=number))
    assert Outbox(file).verify() == ()
    assert [sent.round for sent in Outbox(file).read()] == list(range(5))


def test_nothing_sent_leaves_no_file(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    assert outbox.read() == ()
    assert outbox.verify() == ()
    assert list(tmp_path.iterdir()) == []


def test_a_message_against_the_contract_is_not_written_down(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    with pytest.raises(ContractError):
        outbox.record(dataclasses.replace(TRAINED, metrics={"patient": 1.0}))
    assert outbox.read() == ()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_altered_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    if not outbox.file.exists():
        filled(tmp_path)
    content = outbox.file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    try:
        outbox.file.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        assert outbox.verify()
    finally:
        outbox.file.write_bytes(content)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 4), extra=st.integers(0, 4))
def test_a_line_that_is_removed_or_moved_is_found(tmp_path: Path, at: int, extra: int) -> None:
    outbox = Outbox(tmp_path / "outbox.jsonl")
    if not outbox.file.exists():
        filled(tmp_path)
    content = outbox.file.read_bytes()
    lines = content.splitlines(keepends=True)
    moved = [*lines]
    moved.insert(extra, moved.pop(at))
    try:
        for changed in (lines[:at] + lines[at + 1 :], moved if at != extra else lines[::-1]):
            outbox.file.write_bytes(b"".join(changed))
            assert outbox.verify()
    finally:
        outbox.file.write_bytes(content)


def test_nothing_leaves_where_the_record_does_not_hold(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    lines = outbox.file.read_bytes().splitlines(keepends=True)
    outbox.file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(StorageError, match="the record of what left does not hold"):
        outbox.record(TRAINED)


def test_a_line_cut_short_by_a_crash_is_dropped_and_the_record_goes_on(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    with outbox.file.open("ab") as file:
        file.write(b'{"previous": "')
    outbox.record(FAILED)
    assert outbox.verify() == ()
    assert len(outbox.read()) == len(ALL) + 1


def test_a_crash_between_line_and_head_loses_nothing(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    head = outbox.file.with_name("outbox.jsonl.head")
    before = head.read_bytes()
    outbox.record(FAILED)
    head.write_bytes(before)
    outbox.record(CARD)
    assert outbox.verify() == ()
    assert len(outbox.read()) == len(ALL) + 2


def test_to_add_a_line_reads_no_more_of_a_long_record(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    content = outbox.file.read_bytes()
    outbox.file.write_bytes(b"x" + content[1:])  # the first line: only a look at the whole finds it
    outbox.record(FAILED)
    assert outbox.verify()[0] == "line 1 is no line of this record"


def test_a_line_that_is_no_message_is_named(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    outbox.file.write_text(json.dumps({"record": {"kind": "x"}}) + "\n", encoding="utf-8")
    with pytest.raises(StorageError, match="a line that is none of it"):
        outbox.read()


def _record_many(file: Path) -> None:
    for _ in range(20):
        Outbox(file).record(WORKING)


@pytest.mark.process
def test_several_processes_write_one_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record_many, args=(tmp_path / "outbox.jsonl",)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert Outbox(tmp_path / "outbox.jsonl").verify() == ()
    assert len(Outbox(tmp_path / "outbox.jsonl").read()) == 60
