"""The federation in memory says and hides what a network would; and Flower's apps give the very same model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
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
from flwr.clientapp import ClientApp

from phcc_client.app import serve
from phcc_client.session import Session
from phcc_client.splits import Place, Splits, write_splits
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.messages import EvaluateReply, Failure, SiteCard, TrainOrder, TrainReply
from phcc_model.errors import ConfigError, DataError, RoundError, TrainingError
from phcc_model.study_file import dump_study
from phcc_server.coordinator import Coordinator
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger
from phcc_server.sites import NoReply, Sites
from phcc_server.standing import ArmResult
from phcc_server.store import RunStore
from phcc_server.strategy import FlowerSites
from phcc_simulation.app import JOURNAL, SPLITS, centre_of, main, request_of
from phcc_simulation.federation import MemorySites
from phcc_simulation.study_run import StudyRun

STUDY = tiny_study()
SITES = tuple(CENTRES)
Hospitals = dict[str, Session]


def train_one(session: Session, order: TrainOrder) -> TrainReply | NoReply:
    ((_, reply),) = MemorySites({order.site: session}).train([order], 60.0)
    return reply


def test_what_is_asked_of_a_site_is_what_its_session_answers(hospitals: Hospitals) -> None:
    sites = MemorySites(hospitals)
    cards = sites.cards(card_order(STUDY), SITES)
    assert cards == {site: session.card(card_order(STUDY)) for site, session in hospitals.items()}
    orders = [train_order(STUDY, keys.FINETUNE, site) for site in reversed(SITES)]
    answers = list(sites.train(orders, 60.0))
    assert [order for order, _ in answers] == orders
    for order, reply in answers:
        assert isinstance(reply, TrainReply)
        assert reply == hospitals[order.site].train(order)
        for name, array in hospitals[order.site].train(order).arrays.items():
            np.testing.assert_array_equal(reply.arrays[name], array)
    evaluations = [evaluate_order(STUDY, keys.FINETUNE, site) for site in SITES]
    for asked, evaluated in sites.evaluate(evaluations, 60.0):
        assert isinstance(evaluated, EvaluateReply)
        assert evaluated == hospitals[asked.site].evaluate(asked)


def test_sites_are_asked_one_after_the_other_as_their_replies_are_taken(hospitals: Hospitals) -> None:
    """No more than one reply is held, whatever the number of sites."""
    asked: list[str] = []

    class Counting(Session):
        def train(self, order: TrainOrder) -> TrainReply:
            asked.append(self.name)
            return hospitals[self.name].train(order)

    sites = MemorySites({site: Counting(hospitals[site].folder, site) for site in SITES})
    exchange = sites.train([train_order(STUDY, keys.FINETUNE, site) for site in SITES], 60.0)
    next(exchange)
    assert asked == ["Alma"]


def test_a_site_that_does_not_exist_is_missing() -> None:
    sites = MemorySites({})
    missing = NoReply("missing", "there is no such site")
    assert sites.cards(card_order(STUDY), ["Alma"]) == {"Alma": missing}
    assert [r for _, r in sites.train([train_order(STUDY, keys.FINETUNE, "Alma")], 1.0)] == [missing]
    assert [r for _, r in sites.evaluate([evaluate_order(STUDY, keys.FINETUNE, "Alma")], 1.0)] == [missing]


class Scripted(Session):
    """A session that answers as a test wants."""

    act: Callable[[TrainOrder], Any]

    def train(self, order: TrainOrder) -> TrainReply:
        answer: TrainReply = self.act(order)
        return answer


def scripted(folder: Path, act: Callable[[TrainOrder], Any]) -> Scripted:
    session = Scripted(folder, "Alma")
    session.act = act
    return session


def test_an_error_at_a_site_stays_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def raises(order: TrainOrder) -> None:
        raise TrainingError("the loss is not finite", where="/srv/patients/Meier_Anna")

    with caplog.at_level(logging.ERROR, "phcc_simulation"):
        reply = train_one(scripted(tmp_path, raises), train_order(STUDY, keys.FINETUNE, "Alma"))
    assert reply == NoReply("failed", "training failed at this site; its own log says more")
    assert "Meier_Anna" in caplog.text  # one's own log, on one's own machine


def test_an_interrupt_is_not_taken_for_a_sites_failure(tmp_path: Path) -> None:
    def stopped(order: TrainOrder) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_one(scripted(tmp_path, stopped), train_order(STUDY, keys.FINETUNE, "Alma"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metrics": {"worst_patient": 0.1}}, "metrics.worst_patient: this name is not in the contract"),
        ({"patients": 3.0}, "patients: must be int, not float"),
        ({"seconds": 1}, "seconds: must be float, not int"),
        ({"arrays": {"change": [1, 2]}}, "TrainReply.change: is no numeric array"),
        ({"arrays": {"change": np.array([{}])}}, "TrainReply.change: is no numeric array"),
    ],
)
def test_what_would_not_travel_does_not_pass_in_memory_either(
    change: dict[str, Any], reason: str, hospitals: Hospitals
) -> None:
    order = train_order(STUDY, keys.FINETUNE, "Alma")
    honest = hospitals["Alma"].train(order)
    session = scripted(hospitals["Alma"].folder, lambda _: dataclasses.replace(honest, **change))
    reply = train_one(session, order)
    assert isinstance(reply, NoReply)
    assert reply.status == "refused"
    assert reply.reason.startswith(reason)


def test_an_order_that_would_not_travel_does_not_arrive_either(hospitals: Hospitals) -> None:
    order = dataclasses.replace(train_order(STUDY, keys.FINETUNE, "Alma"), round=-1)
    assert train_one(hospitals["Alma"], order) == NoReply(
        "failed", "the order does not fit the contract; its own log says more"
    )


def test_a_failure_that_a_session_returns_is_a_failed_site(hospitals: Hospitals) -> None:
    failure = Failure(package="0.1.0", site="Alma", code="policy", line="not agreed")
    reply = train_one(
        scripted(hospitals["Alma"].folder, lambda _: failure), train_order(STUDY, keys.FINETUNE, "Alma")
    )
    assert reply == NoReply("failed", "not agreed")


# ---- The same through Flower's apps, without its network


def run(folder: Path, study: StudyConfig, sites: Sites) -> ArmResult:
    store, ledger = RunStore(folder / "checkpoints", study.digest), Ledger(folder / "ledger.jsonl")
    pretrained = folder / "pretrained.safetensors"
    return Coordinator("full", study, sites, store, ledger, pretrained, lambda record: None).run(SITES)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam", "fedbn", "scaffold"])
def test_flowers_apps_add_nothing_to_the_result(algorithm: str, tmp_path: Path) -> None:
    """Orders and replies as Flower's records, the hospital's own app, nodes in any order: the same digest."""
    study = tiny_study(federation={"algorithm": algorithm})
    hospitals = open_sessions(tmp_path, study)
    nodes = {}
    for number, site in ((17, "Cork"), (4, "Alma"), (9, "Berg")):
        hospital_app = ClientApp()
        serve(hospital_app, lambda _, site=site: hospitals[site])  # type: ignore[misc]
        nodes[number] = flower_node(hospital_app, number)
    through_flower = run(tmp_path / "flower", study, FlowerSites(MemoryGrid(nodes), 30.0))
    in_memory = run(tmp_path / "memory", study, MemorySites(open_sessions(tmp_path / "other", study)))
    assert through_flower.digest == in_memory.digest
    assert through_flower.threshold == in_memory.threshold
    for one, other in zip(through_flower.rounds, in_memory.rounds, strict=True):
        assert (one.digest_after, one.validation) == (other.digest_after, other.validation)
        for site in SITES:
            timeless = {"seconds": None}
            assert one.sites[site].model_copy(update=timeless) == other.sites[site].model_copy(
                update=timeless
            )


@pytest.fixture
def virtual(tmp_path: Path) -> dict[str, Any]:
    """The run's configuration of a prepared folder with three virtual centres."""
    open_sessions(tmp_path, STUDY)
    places = (Place("Berg", "train", "1"), Place("Alma", "train", "2"), Place("Cork", "train", "3"))
    write_splits(Splits((*places, Place("Ende", "external", "4"))), tmp_path / SPLITS)
    (tmp_path / "study.yaml").write_text(dump_study(STUDY), encoding="utf-8")
    return {
        "study": str(tmp_path / "study.yaml"),
        "set": "",
        "out": str(tmp_path),
        "threads": 1,
        "device": "cpu",
    }


def node_context(configuration: dict[str, Any], partition: int) -> Context:
    return Context(
        run_id=1,
        node_id=partition,
        node_config={"partition-id": partition, "num-partitions": 3},
        state=RecordDict(),
        run_config=configuration,
    )


def test_every_node_of_the_simulation_is_one_training_centre(virtual: dict[str, Any]) -> None:
    sessions = [centre_of(node_context(virtual, partition)) for partition in range(3)]
    assert [session.name for session in sessions] == ["Alma", "Berg", "Cork"]
    assert [session.folder for session in sessions] == [Path(virtual["out"]) / "sites" / s for s in SITES]
    assert [session.card(card_order(STUDY)).patients["train"] for session in sessions] == [6, 4, 3]


def test_a_node_too_many_has_nothing_to_do_and_the_others_go_on(
    virtual: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="this node is number 4, the study has 3 centres"):
        centre_of(node_context(virtual, 3))
    app = ClientApp()
    serve(app, centre_of)
    contexts = {number: node_context(virtual, number) for number in range(5)}
    nodes = {
        number: (lambda message, context=context: app(message, context))
        for number, context in contexts.items()
    }
    cards = FlowerSites(MemoryGrid(nodes), 30.0).cards(card_order(STUDY), SITES)
    assert {site: type(cards[site]) for site in SITES} == dict.fromkeys(SITES, SiteCard)


def test_a_runs_configuration_names_study_overrides_folder_and_machine(
    virtual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of({**virtual, "set": " finetune.rounds=7 ; seed=3;"})
    assert (request.study.finetune.rounds, request.study.seed) == (7, 3)
    assert request.out == tmp_path
    assert (request.runtime.device, request.runtime.threads) == ("cpu", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert request_of({**virtual, "out": ""}).out.parent == tmp_path / "cache" / "phcc-ssl-federated"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"study": "dmo"}, "dmo: is neither a study file nor a shipped study"),
        ({"set": "finetune.round=3"}, "finetune.round: unknown key .did you mean finetune.rounds"),
        ({"set": "seed"}, "is not of the form key.path=value"),
    ],
)
def test_a_wrong_configuration_of_a_run_is_told_by_key(
    changed: dict[str, Any], words: str, virtual: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=words):
        request_of({**virtual, **changed})


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RoundError("too few replies", where="arm full", remedy="Wait"), "arm full: too few replies. Wait."),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
    ids=["ours", "foreign"],
)
def test_a_run_that_fails_says_so_in_the_journals_last_line_and_ends_as_failed(
    error: Exception, text: str, virtual: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise error

    monkeypatch.setattr(StudyRun, "run", fails)
    with pytest.raises(type(error)):
        main(MemoryGrid({}), node_context(virtual, 0))
    assert [(e.kind, e.fields) for e in Journal(tmp_path / JOURNAL).new_events()] == [
        ("failed", {"text": text})
    ]
