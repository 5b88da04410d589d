"""Desk and worker of one hospital, in this process: what is refused, what waits, what leaves."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import CENTRES, card_order, evaluate_order, tiny_study, train_order, write_centre

from phcc_client import desk as desk_module
from phcc_client.desk import Desk
from phcc_client.home import ClientSettings, Home
from phcc_client.outbox import Outbox
from phcc_client.policy import Policy
from phcc_client.session import Session
from phcc_client.worker import Worker
from phcc_model.contract import keys
from phcc_model.contract.control import order_arrays
from phcc_model.contract.messages import EvaluateReply, Failure, PollOrder, SiteCard, TrainReply, Working
from phcc_model.errors import ContractError, PolicyError, VersionMismatch
from phcc_model.study_file import dump_study

STUDY = tiny_study()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Alma's home, its cases prepared and the study approved."""
    settings = ClientSettings(
        hospital="Alma", server="localhost:1", minimum_count=1, heartbeat_s=0.2, threads=1
    )
    made = Home.make(tmp_path / "home", settings)
    write_centre(made.folder.parent, STUDY, "Alma", CENTRES["Alma"])
    made.site.rmdir()
    made.site.symlink_to(made.folder.parent / "sites" / "Alma")
    policy = Policy(made.folder)
    policy.see(dump_study(STUDY))
    policy.decide(STUDY.digest, "approved")
    return made


@pytest.fixture
def working(home: Home) -> Iterator[Worker]:
    """A worker at its work."""
    worker, stop = Worker(home), threading.Event()

    def serve() -> None:
        while not stop.is_set():
            if not worker.work():
                time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    yield worker
    stop.set()
    thread.join()


def patient(home: Home) -> Desk:
    return Desk(dataclasses.replace(home, settings=home.settings.model_copy(update={"heartbeat_s": 60.0})))


def test_an_order_is_answered_as_a_session_answers_it(home: Home, working: Worker) -> None:
    desk, session = patient(home), Session(home.site, "Alma")
    assert desk.card(card_order(STUDY)) == session.card(card_order(STUDY))
    order = train_order(STUDY, keys.FINETUNE, "Alma")
    reply, direct = desk.train(order), session.train(order)
    assert isinstance(reply, TrainReply)
    for name, array in direct.arrays.items():
        np.testing.assert_array_equal(reply.arrays[name], array)
    scored = desk.evaluate(evaluate_order(STUDY, keys.FINETUNE, "Alma"))
    assert isinstance(scored, EvaluateReply)
    assert scored.loss == session.evaluate(evaluate_order(STUDY, keys.FINETUNE, "Alma")).loss
    kinds = [sent.kind for sent in Outbox(home.outbox).read()]
    assert kinds == ["SiteCard", "TrainReply", "EvaluateReply"]


def test_a_restarted_hospital_goes_on_with_its_control_variate_and_writes_down_what_left(
    home: Home, tmp_path: Path
) -> None:
    """SCAFFOLD through desk, spool and worker, new ones for each round, against a session elsewhere."""
    study = tiny_study(federation={"algorithm": "scaffold"})
    Policy(home.folder).see(dump_study(study))
    Policy(home.folder).decide(study.digest, "approved")
    elsewhere = Session(write_centre(tmp_path / "elsewhere", study, "Alma", CENTRES["Alma"]), "Alma")
    for number in range(2):
        order = train_order(study, keys.FINETUNE, "Alma", number)
        along = order_arrays(np.full(order.arrays[keys.FLOAT].size, 0.01, np.float32), number - 1)
        order = dataclasses.replace(order, arrays=order.arrays | along)
        assert isinstance(Desk(home).train(order), Working)
        Worker(home).work()
        reply, direct = Desk(home).train(order), elsewhere.train(order)
        assert isinstance(reply, TrainReply)
        assert reply.arrays.keys() == direct.arrays.keys()
        for name, array in direct.arrays.items():
            np.testing.assert_array_equal(reply.arrays[name], array)
    (*_, sent) = Outbox(home.outbox).read()
    names = {array.name for array in sent.arrays}
    assert names == {"change", "change.scales", "control.change", "control.change.scales"}


def test_without_a_worker_the_desk_says_that_the_order_waits(home: Home) -> None:
    desk, order = Desk(home), train_order(STUDY, keys.PRETRAIN, "Alma")
    said = desk.train(order)
    assert isinstance(said, Working)
    assert (said.state, said.order, said.site) == (keys.WAITING, order.digest, "Alma")
    again = desk.poll(PollOrder(package="0.1.0", site="Alma", order=order.digest))
    assert isinstance(again, Working)
    Worker(home).work()
    answered = desk.poll(PollOrder(package="0.1.0", site="Alma", order=order.digest))
    assert isinstance(answered, TrainReply)
    assert desk.train(order) == answered


def test_an_order_that_never_came_is_asked_for_again(home: Home) -> None:
    said = Desk(home).poll(PollOrder(package="0.1.0", site="Alma", order="0" * 64))
    assert isinstance(said, Working)
    assert said.state == keys.UNKNOWN


@pytest.mark.parametrize("choice", ["refused", "withdrawn"])
def test_what_is_not_approved_does_not_run_whatever_way_it_came(home: Home, choice: str) -> None:
    desk, order = Desk(home), train_order(STUDY, keys.PRETRAIN, "Alma")
    desk.train(order)  # it is in the spool already
    Policy(home.folder).decide(STUDY.digest, choice)  # type: ignore[arg-type]
    for ask in (
        lambda: desk.card(card_order(STUDY)),
        lambda: desk.train(order),
        lambda: desk.evaluate(evaluate_order(STUDY, keys.PRETRAIN, "Alma")),
        lambda: desk.poll(PollOrder(package="0.1.0", site="Alma", order=order.digest)),
    ):
        with pytest.raises(PolicyError):
            ask()
    Worker(home).work()
    assert desk_failure(home, order.digest) == "policy"


def desk_failure(home: Home, digest: str) -> str:
    answer = desk_module.Spool(home.spool).take_answer(digest)
    assert isinstance(answer, Failure)
    return answer.code


def test_an_altered_study_under_an_approved_name_is_asked_about_anew(home: Home) -> None:
    altered = tiny_study(seed=1)
    with pytest.raises(PolicyError, match="has not been approved"):
        Desk(home).train(train_order(altered, keys.PRETRAIN, "Alma"))
    forged = train_order(altered, keys.PRETRAIN, "Alma", study_digest=STUDY.digest)
    with pytest.raises(PolicyError, match="is not the one that the order names"):
        Desk(home).train(forged)
    assert {study.standing for study in Policy(home.folder).studies()} == {"approved", "new"}


def test_an_order_for_another_site_or_package_is_refused(home: Home) -> None:
    desk = Desk(home)
    with pytest.raises(ContractError, match="the order is for Berg"):
        desk.train(train_order(STUDY, keys.PRETRAIN, "Berg"))
    with pytest.raises(ContractError, match="the order is for Berg"):
        desk.poll(PollOrder(package="0.1.0", site="Berg", order="0" * 64))
    with pytest.raises(VersionMismatch):
        desk.train(train_order(STUDY, keys.PRETRAIN, "Alma", package="0.0.1"))


def test_an_arm_that_the_study_does_not_name_is_refused(home: Home) -> None:
    with pytest.raises(PolicyError, match="does not name"):
        Desk(home).train(train_order(STUDY, keys.PRETRAIN, "Alma", arm="uniform"))


def test_small_counts_stay_and_what_they_would_tell_is_not_trained(home: Home) -> None:
    cautious = dataclasses.replace(home, settings=home.settings.model_copy(update={"minimum_count": 5}))
    card = Desk(cautious).card(card_order(STUDY))
    assert isinstance(card, SiteCard)
    assert card.patients == {"train": 6, "validation": 0, "test": 0}
    assert card.positives["train"] == card.negatives["train"] == 0
    with pytest.raises(PolicyError, match="too few patients"):
        Desk(cautious).train(train_order(STUDY, keys.FINETUNE, "Alma"))
    with pytest.raises(PolicyError, match="too few patients"):
        Desk(cautious).evaluate(evaluate_order(STUDY, keys.FINETUNE, "Alma"))


def test_a_failure_of_the_training_leaves_as_a_word_and_is_written_down(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "/srv/patients/Meier_Anna"

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr("phcc_client.session.pretrain_round", fails)
    desk, order = Desk(home), train_order(STUDY, keys.PRETRAIN, "Alma")
    desk.train(order)
    Worker(home).work()
    said = desk.train(order)
    assert isinstance(said, Failure)
    assert said.code == "internal"
    assert secret not in said.line
    assert secret in (home.folder / "errors.log").read_text()
    assert [sent.kind for sent in Outbox(home.outbox).read()][-1] == "Failure"


def test_a_newer_order_ends_the_training_of_the_one_before(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phcc_client.worker.REPORT_S", 0.0)
    desk, spool = Desk(home), desk_module.Spool(home.spool)
    old, new = (train_order(STUDY, keys.PRETRAIN, "Alma", round_index) for round_index in (0, 1))
    desk.train(old)
    worker = Worker(home)
    counted = spool.counts

    def overtaken(digest: str, order: object) -> bool:
        monkeypatch.setattr(type(spool), "counts", lambda _, d, o: counted(d, o))
        spool.offer(new)
        return False

    monkeypatch.setattr(type(spool), "counts", lambda _, digest, order: overtaken(digest, order))
    worker.work()
    assert spool.take_answer(old.digest) is None  # given up: no failure, no answer
    assert spool.next()[0] == new.digest  # type: ignore[index]


def test_what_the_coordinator_says_along_with_an_order_is_kept(home: Home) -> None:
    Desk(home).train(train_order(STUDY, keys.PRETRAIN, "Alma", notice="your reply to round 1 was refused"))
    assert "your reply to round 1 was refused" in (home.folder / "notices.jsonl").read_text()
