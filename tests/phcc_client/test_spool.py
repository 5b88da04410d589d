"""The spool between desk and worker: whole files, one answer to one order, the newest order counts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from builders import evaluate_order, tiny_study, train_order

from phcc_client.guard import failure_of
from phcc_client.spool import KEPT, Spool
from phcc_model.contract import codec, keys
from phcc_model.contract.messages import Failure, TrainOrder, TrainReply
from phcc_model.errors import TrainingError

STUDY = tiny_study()
STATE = {"w": np.arange(5, dtype=np.float32), "seen": np.array(3)}


def order(round_index: int = 0, **others: object) -> TrainOrder:
    return train_order(STUDY, keys.PRETRAIN, "Alma", round_index, state=STATE, **others)


def reply(asked: TrainOrder) -> TrainReply:
    arrays = codec.encode_change(codec.Change(np.ones(5, np.float32), {"int64": np.array([4])}), "fp32")
    return TrainReply(
        package=asked.package,
        study_digest=asked.study_digest,
        arm=asked.arm,
        stage=asked.stage,
        round=asked.round,
        site=asked.site,
        manifest_digest=asked.manifest_digest,
        encoding="fp32",
        patients=3,
        cases=4,
        steps=5,
        seconds=0.25,
        metrics={"loss": 1 / 3},
        arrays=arrays,
    )


def test_an_order_goes_through_unchanged_and_so_does_its_answer(tmp_path: Path) -> None:
    spool, asked = Spool(tmp_path), order()
    digest = spool.offer(asked)
    assert digest == asked.digest
    found = spool.next()
    assert found is not None
    assert found[0] == digest
    assert found[1].digest == digest
    np.testing.assert_array_equal(found[1].arrays["float32"], asked.arrays["float32"])
    spool.answer(digest, reply(asked))
    assert spool.next() is None
    answered = spool.take_answer(digest)
    assert isinstance(answered, TrainReply)
    assert answered == reply(asked)
    np.testing.assert_array_equal(answered.arrays[keys.CHANGE], np.ones(5, np.float32))


def test_an_order_that_comes_again_is_answered_from_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    digest = spool.offer(order())
    spool.answer(digest, reply(order()))
    again = Spool(tmp_path)  # another process, after a crash
    assert again.offer(order(notice="your last reply was refused")) == digest
    assert again.next() is None
    assert again.take_answer(digest) == reply(order())


def test_a_failure_is_told_once_and_the_order_may_be_tried_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    digest = spool.offer(order())
    spool.answer(digest, failure_of(TrainingError("no"), "Alma"))
    assert spool.next() is None
    assert isinstance(spool.take_answer(digest), Failure)
    assert spool.take_answer(digest) is None
    assert spool.next() is not None


def test_the_next_round_takes_the_place_of_the_one_before_and_another_study_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.offer(order(0))
    other = train_order(tiny_study(name="other"), keys.PRETRAIN, "Alma", state=STATE)
    waiting = spool.offer(other)
    second = spool.offer(order(1))
    assert not spool.counts(first, order(0))
    assert spool.counts(second, order(1))
    assert spool.counts(waiting, other)
    os.utime(tmp_path / "orders" / waiting / "order.safetensors", (1, 1))
    assert spool.next()[0] == waiting  # type: ignore[index]
    spool.answer(waiting, reply(other))
    assert spool.next()[0] == second  # type: ignore[index]


def test_how_far_the_worker_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.working("0" * 64, "Alma").state == keys.UNKNOWN
    digest = spool.offer(order())
    assert spool.working(digest, "Alma").state == keys.WAITING
    spool.report(digest, 3, 10)
    working = spool.working(digest, "Alma")
    assert (working.state, working.step, working.steps, working.order) == (keys.TRAINING, 3, 10, digest)
    spool.answer(digest, reply(order()))
    assert spool.working(digest, "Alma").state == keys.WAITING


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"not safetensors at all", b"\xff" * 64])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    spool = Spool(tmp_path)
    digest = spool.offer(order())
    (tmp_path / "orders" / digest / "order.safetensors").write_bytes(content)
    assert spool.next() is None
    assert spool.order(digest) is None
    spool.answer(digest, reply(order()))
    (tmp_path / "orders" / digest / "reply.safetensors").write_bytes(content)
    assert spool.take_answer(digest) is None


def test_a_full_disk_does_not_stop_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    digest = spool.offer(order())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("phcc_model.storage.os.fsync", full)
    spool.report(digest, 1, 2)
    assert spool.working(digest, "Alma").state == keys.WAITING


def test_old_answers_are_forgotten_and_the_last_rounds_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    digests = []
    for index in range(KEPT + 5):
        digest = spool.offer(order(index))
        os.utime(tmp_path / "orders" / digest, (index, index))
        digests.append(digest)
    kept = {path.name for path in (tmp_path / "orders").iterdir()}
    assert len(kept) == KEPT
    assert set(digests[-3:]) <= kept
    assert digests[0] not in kept


def test_evaluation_and_training_of_one_round_are_two_orders(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    trained = spool.offer(train_order(STUDY, keys.FINETUNE, "Alma"))
    scored = spool.offer(evaluate_order(STUDY, keys.FINETUNE, "Alma"))
    assert trained != scored
    assert spool.next()[0] == scored  # type: ignore[index]
