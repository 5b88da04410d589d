"""The site's app as Flower calls it: whatever happens inside, nothing but an agreed message comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    CENTRES,
    MemoryGrid,
    card_order,
    evaluate_order,
    flower_node,
    open_sessions,
    tiny_study,
    train_order,
)
from flwr.app import Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp

from phcc_client.app import HOME_VARIABLE, app, serve
from phcc_client.error_log import ERROR_LOG
from phcc_client.session import Runtime, Session
from phcc_model.contract import keys
from phcc_model.contract.messages import EvaluateReply, Failure, PollOrder, SiteCard, TrainReply, Working
from phcc_model.contract.wire import Message
from phcc_model.errors import ConfigError
from phcc_server.records import read_reply, write_order

STUDY = tiny_study()
SECRET = "/srv/patients/Meier_Anna_1950.nii.gz"


@pytest.fixture(scope="module")
def alma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_sessions(tmp_path_factory.mktemp("alma"), STUDY, {"Alma": CENTRES["Alma"]})["Alma"].folder


def session_of(context: Context) -> Session:
    """A site whose node is told its folder, as a virtual centre's is."""
    folder = context.node_config.get("site-folder")
    if folder is None:
        raise ConfigError("the node is not configured", where=SECRET)
    return Session(Path(str(folder)), "Alma", Runtime(threads=1))


session_app = ClientApp()
serve(session_app, session_of)


def ask(order: Message | RecordDict, flower_kind: str, **configuration: str | int) -> FlowerMessage:
    """Send an order to the app as Flower does, and take what comes back."""
    grid = MemoryGrid({1: flower_node(session_app, 1, **configuration)})
    content = order if isinstance(order, RecordDict) else write_order(order)
    message = FlowerMessage(content=content, message_type=flower_kind, dst_node_id=1)
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    return reply


def configured(folder: Path, **others: str | int) -> dict[str, Any]:
    return {"site": "Alma", "site-folder": str(folder), "threads": 1, **others}


def failure_in(reply: FlowerMessage, kind: type[Message] = TrainReply) -> Failure:
    assert not reply.has_error()  # an error of Flower's would carry the exception's text
    failure = read_reply(reply.content, kind)
    assert isinstance(failure, Failure)
    return failure


@pytest.mark.parametrize(
    ("make", "flower_kind", "kind", "act"),
    [
        (lambda: card_order(STUDY), "query", SiteCard, Session.card),
        (lambda: train_order(STUDY, keys.FINETUNE, "Alma"), "train", TrainReply, Session.train),
        (lambda: evaluate_order(STUDY, keys.FINETUNE, "Alma"), "evaluate", EvaluateReply, Session.evaluate),
    ],
)
def test_an_order_through_flower_is_answered_as_the_session_answers(
    make: Callable[[], Message],
    flower_kind: str,
    kind: type[Message],
    act: Callable[..., Message],
    alma: Path,
) -> None:
    reply = read_reply(ask(make(), flower_kind, **configured(alma)).content, kind)
    direct = act(Session(alma, "Alma"), make())
    assert isinstance(reply, kind)
    assert {**vars(reply), "seconds": 0, "arrays": 0} == {**vars(direct), "seconds": 0, "arrays": 0}
    for name, array in direct.arrays.items():
        np.testing.assert_array_equal(reply.arrays[name], array)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        FileNotFoundError(2, "No such file", SECRET),
        ConfigError("cannot be read", where=SECRET, remedy=SECRET),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_client_that_raises_in_the_middle_sends_a_failure_without_the_text(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = open_sessions(tmp_path, STUDY, {"Alma": CENTRES["Alma"]})["Alma"].folder

    def raises(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("phcc_client.session.finetune_round", raises)
    with caplog.at_level(logging.ERROR, "phcc_client"):
        reply = ask(train_order(STUDY, keys.FINETUNE, "Alma"), "train", **configured(folder))
    failure = failure_in(reply)
    assert failure.site == "Alma"
    assert failure.code == ("config" if isinstance(error, ConfigError) else "internal")
    for word in ("Meier", "1950", "srv", "nii", str(tmp_path)):
        assert word not in str(reply.content)
    kept = (folder / ERROR_LOG).read_text(encoding="utf-8")
    assert SECRET in kept  # the hospital's own log has it all
    assert "in raises" in kept
    assert SECRET in caplog.text


def test_a_memory_that_is_full_whatever_is_tried_is_the_trainings_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_sessions(tmp_path, STUDY, {"Alma": CENTRES["Alma"]})["Alma"].folder

    def raises(*args: object, **kwargs: object) -> None:
        raise MemoryError(SECRET)

    monkeypatch.setattr("phcc_client.session.finetune_round", raises)
    reply = ask(train_order(STUDY, keys.FINETUNE, "Alma"), "train", **configured(folder))
    assert failure_in(reply).code == "training"
    assert "Meier" not in str(reply.content)
    assert "out of memory with 1 case at once" in (folder / ERROR_LOG).read_text(encoding="utf-8")


def test_a_log_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ERROR_LOG).mkdir()  # in the log's place: it cannot be opened
    failure = failure_in(ask(card_order(STUDY), "query", **configured(tmp_path)), SiteCard)
    assert (failure.site, failure.code) == ("Alma", "data")


@pytest.mark.parametrize(
    ("order", "flower_kind", "kind", "code"),
    [
        (card_order(STUDY), "train", TrainReply, "contract"),
        (train_order(STUDY, keys.FINETUNE, "Alma"), "query", SiteCard, "contract"),
        (train_order(STUDY, keys.FINETUNE, "Berg"), "train", TrainReply, "contract"),
        (train_order(STUDY, keys.FINETUNE, "Alma", package="0.0.1"), "train", TrainReply, "version"),
        (replace(train_order(STUDY, keys.FINETUNE, "Alma"), study="seed: -1"), "train", TrainReply, "config"),
        (card_order(tiny_study(data={"clip": 9.0})), "query", SiteCard, "data"),
        (RecordDict(), "train", TrainReply, "contract"),
    ],
)
def test_an_order_that_does_not_fit_is_answered_with_one_word(
    order: Message | RecordDict, flower_kind: str, kind: type[Message], code: str, alma: Path
) -> None:
    failure = failure_in(ask(order, flower_kind, **configured(alma)), kind)
    assert (failure.site, failure.code) == ("Alma", code)


def test_a_node_that_is_not_configured_says_so() -> None:
    failure = failure_in(ask(card_order(STUDY), "query"), SiteCard)
    assert (failure.site, failure.code) == ("unknown", "config")


@pytest.mark.parametrize("home", ["", SECRET])
def test_a_hospital_s_node_without_a_home_says_so(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, home)
    grid = MemoryGrid({1: flower_node(app, 1)})
    message = FlowerMessage(content=write_order(card_order(STUDY)), message_type="query", dst_node_id=1)
    (reply,) = grid.pull_messages(grid.push_messages([message]))
    failure = failure_in(reply, SiteCard)
    assert (failure.site, failure.code) == ("unknown", "config")
    assert "Meier" not in failure.line


def test_a_session_keeps_no_order_to_be_asked_for_later(alma: Path) -> None:
    order = PollOrder(package=keys.package_version(), site="Alma", order="0" * 64)
    reply = read_reply(ask(order, "query", **configured(alma)).content, Working)
    assert isinstance(reply, Working)
    assert reply.state == keys.UNKNOWN


def test_a_node_without_a_prepared_folder_says_that_its_data_cannot_serve(tmp_path: Path) -> None:
    failure = failure_in(ask(card_order(STUDY), "query", **configured(tmp_path / "nothing")), SiteCard)
    assert (failure.site, failure.code) == ("Alma", "data")
    assert "nothing" not in failure.line
