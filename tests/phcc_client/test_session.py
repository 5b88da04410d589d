from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    CENTRES,
    Centre,
    card_of,
    card_order,
    evaluate_order,
    open_sessions,
    tiny_study,
    train_order,
)
from sklearn.metrics import log_loss, roc_auc_score

from phcc_client.preparations import open_prepared
from phcc_client.session import Session
from phcc_model.build import build_classifier, first_weights, load_state, state_of
from phcc_model.contract import keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateReply, SiteCard, TrainReply
from phcc_model.errors import (
    ConfigError,
    ContractError,
    DatasetError,
    TrainingError,
    VersionMismatch,
)
from phcc_model.threshold import ScoreHistogram
from phcc_model.training.finetuning import finetune_round
from phcc_model.training.predict import predict

STUDY = tiny_study(pretrain={"rounds": 3})
CPU = torch.device("cpu")


def open_alma(folder: Path) -> Session:
    return open_sessions(folder, STUDY, {"Alma": CENTRES["Alma"]})["Alma"]


@pytest.fixture(scope="module")
def alma(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return open_alma(tmp_path_factory.mktemp("alma"))


def must_be_equal(one: TrainReply, other: TrainReply) -> None:
    """Bit for bit, but for the time it took."""
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


@pytest.mark.parametrize("stage", keys.STAGES)
def test_the_same_order_gives_the_same_reply_bit_for_bit(stage: str, alma: Session, tmp_path: Path) -> None:
    order = train_order(STUDY, stage, "Alma")
    before = {name: array.copy() for name, array in order.arrays.items()}
    first = alma.train(order)
    must_be_equal(first, alma.train(order))
    must_be_equal(first, open_alma(tmp_path).train(order))  # another process, another disk
    assert np.any(first.arrays[keys.CHANGE])
    for name, array in before.items():
        np.testing.assert_array_equal(order.arrays[name], array)  # the order is not written into


@pytest.mark.parametrize("stage", keys.STAGES)
def test_the_same_order_gives_the_same_evaluation(stage: str, alma: Session) -> None:
    order = evaluate_order(STUDY, stage, "Alma")
    one, other = alma.evaluate(order), alma.evaluate(order)
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)


def test_what_is_drawn_differs_from_round_to_round_and_from_site_to_site(tmp_path: Path) -> None:
    twins = open_sessions(tmp_path, STUDY, {"Alma": CENTRES["Alma"], "Berg": CENTRES["Alma"]})
    changes = [
        twins[site].train(train_order(STUDY, keys.FINETUNE, site, round_index)).arrays[keys.CHANGE].tobytes()
        for site, round_index in (("Alma", 0), ("Alma", 1), ("Berg", 1))
    ]
    assert len(set(changes)) == 3


def test_a_reply_is_the_change_that_training_makes(alma: Session) -> None:
    order = train_order(STUDY, keys.FINETUNE, "Alma", encoding="fp32")
    reply = alma.train(order)
    model = build_classifier(STUDY)
    before = first_weights(STUDY, keys.FINETUNE)
    load_state(model, before)
    cases = open_prepared(alma.folder, STUDY, alma.name).load("train")
    result = finetune_round(model, cases, STUDY, round_index=0, site="Alma", device=CPU)
    manifest = Manifest.of(before)
    after = manifest.pack(state_of(model))[keys.FLOAT]
    delta = decode_change(reply.arrays, "fp32", manifest).delta
    np.testing.assert_array_equal(delta, after - order.arrays[keys.FLOAT])
    assert (reply.patients, reply.cases) == (5, 5)  # one of the six has no label
    assert reply.steps == result.steps > 0
    assert reply.metrics == {"loss": result.loss, "auc_training": result.auc_training}


def test_a_memory_of_the_round_before_is_used_and_a_round_can_be_done_again(tmp_path: Path) -> None:
    session, fresh = open_alma(tmp_path / "one"), open_alma(tmp_path / "other")
    orders = [train_order(STUDY, keys.PRETRAIN, "Alma", r) for r in range(3)]
    replies = [session.train(order) for order in orders]
    for order, reply in reversed(list(zip(orders, replies, strict=True))):
        must_be_equal(session.train(order), reply)  # round 0 again after round 2 was done, and so on
    without = fresh.train(orders[1])  # a site that was not there in round 0
    assert without.metrics["decorrelation_weighted"] != replies[1].metrics["decorrelation_weighted"]
    assert without.arrays[keys.CHANGE].tobytes() != replies[1].arrays[keys.CHANGE].tobytes()


def test_a_memory_never_crosses_arms(tmp_path: Path) -> None:
    session = open_alma(tmp_path)
    second = train_order(STUDY, keys.PRETRAIN, "Alma", 1, arm="mean")
    alone = session.train(second)
    session.train(train_order(STUDY, keys.PRETRAIN, "Alma", 0))
    must_be_equal(session.train(second), alone)


def test_a_classifiers_evaluation_is_the_log_loss_and_the_histogram_of_its_scores(alma: Session) -> None:
    reply = alma.evaluate(evaluate_order(STUDY, keys.FINETUNE, "Alma", "train"))
    model = build_classifier(STUDY)
    load_state(model, first_weights(STUDY, keys.FINETUNE))
    cases = open_prepared(alma.folder, STUDY, alma.name).load("train").labelled
    score = 1 / (1 + np.exp(-predict(model, cases, device=CPU).astype(float)))
    assert reply.loss == pytest.approx(log_loss(cases.label_n, score))
    histogram = ScoreHistogram(np.array(reply.positives), np.array(reply.negatives))
    auc = roc_auc_score(cases.label_n, score)
    assert abs(histogram.auc - auc) <= histogram.auc_error + 1e-12
    assert (histogram.positives, histogram.negatives) == (2, 3)
    assert (reply.patients, reply.cases) == (5, 5)
    assert EvaluateReply.from_fields(reply.to_fields()) == reply


def test_a_masked_autoencoders_evaluation_has_a_loss_and_no_score(alma: Session) -> None:
    reply = alma.evaluate(evaluate_order(STUDY, keys.PRETRAIN, "Alma", "train"))
    assert reply.positives == reply.negatives == []
    assert (reply.patients, reply.cases) == (6, 6)  # labels are not looked at
    assert 0.5 < reply.loss < 2.0  # of targets with variance 1, by weights that know nothing yet


@pytest.mark.parametrize("stage", keys.STAGES)
def test_a_reply_travels_as_fields_and_arrays(stage: str, alma: Session) -> None:
    reply = alma.train(train_order(STUDY, stage, "Alma"))
    assert TrainReply.from_fields(reply.to_fields(), reply.arrays) == reply
    assert set(reply.metrics) <= keys.METRICS
    assert {keys.CHANGE, keys.SCALES} <= set(reply.arrays)
    whole = [name for name in reply.arrays if name.startswith(keys.REPLACE)]  # counters, where there are any
    assert len(reply.arrays) == 2 + len(whole)


def test_a_card_counts_patients_and_not_lesions(tmp_path: Path) -> None:
    # Two lesions of one class; one of each: positive; one without a label: the other tells; none known: neither.
    centre = Centre(((1, 1), (0, 0, 0), (1, 0), (-1, 0), (-1, -1), 1), (0, (0, 1)), ())
    card = card_of(open_sessions(tmp_path, STUDY, {"Alma": centre})["Alma"], STUDY)
    assert card.patients == {"train": 6, "validation": 2, "test": 0}
    assert card.cases == {"train": 12, "validation": 3, "test": 0}
    assert card.positives == {"train": 3, "validation": 1, "test": 0}
    assert card.negatives == {"train": 2, "validation": 1, "test": 0}
    assert SiteCard.from_fields(card.to_fields()) == card


def test_a_patient_with_two_lesions_is_one_patient_in_a_reply(tmp_path: Path) -> None:
    session = open_sessions(tmp_path, STUDY, {"Alma": Centre(((1, 0), 0, (0, -1)))})["Alma"]
    reply = session.train(train_order(STUDY, keys.FINETUNE, "Alma"))
    assert (reply.patients, reply.cases) == (3, 4)
    reply = session.train(train_order(STUDY, keys.PRETRAIN, "Alma"))
    assert (reply.patients, reply.cases) == (3, 5)


@pytest.mark.parametrize("do", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"study_digest": "0" * 64}, VersionMismatch, "study: the study is not the one that the order names"),
        ({"manifest_digest": "0" * 64}, VersionMismatch, "manifest: the weights .* Install the same version"),
        ({"package": "0.0.9"}, VersionMismatch, r"runs phcc-ssl-federated 0\.0\.9.*pip install"),
        ({"site": "Berg"}, ContractError, "order: the order is for Berg, this is Alma"),
        ({"study": "finetune: {round: 3}"}, ConfigError, "finetune.round: unknown key"),
        ({"study": "{"}, ConfigError, "not valid YAML"),
        ({"arrays": {}}, ContractError, "float32: array is missing"),
        ({"arrays": {"float32": np.zeros(1, np.float32)}}, ContractError, r"float32: shape is \(1,\)"),
    ],
)
def test_an_order_that_does_not_fit_is_refused_by_name(
    do: str, changed: dict[str, Any], error: type[Exception], words: str, alma: Session
) -> None:
    make = train_order if do == "train" else evaluate_order
    order = dataclasses.replace(make(STUDY, keys.FINETUNE, "Alma"), **changed)
    with pytest.raises(error, match=words):
        getattr(alma, do)(order)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"study_digest": "f" * 64}, "the study is not the one"),
        ({"package": "9"}, "Install the same version"),
    ],
)
def test_a_card_is_not_shown_for_another_study_or_package(
    changed: dict[str, Any], words: str, alma: Session
) -> None:
    with pytest.raises(VersionMismatch, match=words):
        alma.card(dataclasses.replace(card_order(STUDY), **changed))


@pytest.mark.parametrize(("stage", "rounds"), [(keys.PRETRAIN, 3), (keys.FINETUNE, 2)])
def test_a_round_that_the_study_does_not_have_is_refused(stage: str, rounds: int, alma: Session) -> None:
    with pytest.raises(ContractError, match=f"round {rounds} is ordered, the study has {rounds}"):
        alma.train(train_order(STUDY, stage, "Alma", rounds))


def test_a_study_for_which_the_site_is_not_prepared_is_refused(alma: Session) -> None:
    other = tiny_study(data={"clip": 3.0})
    with pytest.raises(DatasetError, match="there is no prepared site here"):
        alma.card(card_order(other))
    with pytest.raises(DatasetError, match="there is no prepared site here"):
        alma.train(train_order(other, keys.FINETUNE, "Alma"))


def test_a_site_without_labels_pre_trains_only(tmp_path: Path) -> None:
    session = open_sessions(tmp_path, STUDY, {"Alma": Centre((-1, -1, -1), (-1,))})["Alma"]
    assert session.train(train_order(STUDY, keys.PRETRAIN, "Alma")).patients == 3
    assert session.evaluate(evaluate_order(STUDY, keys.PRETRAIN, "Alma")).cases == 1
    with pytest.raises(TrainingError, match="nothing to train on"):
        session.train(train_order(STUDY, keys.FINETUNE, "Alma"))
    with pytest.raises(TrainingError, match="no case with a label to score"):
        session.evaluate(evaluate_order(STUDY, keys.FINETUNE, "Alma"))


@pytest.mark.parametrize("stage", keys.STAGES)
@pytest.mark.parametrize("labels", [(1,), (0,), (1, 1, 1)])
def test_one_patient_or_one_class_gives_a_finite_reply(
    stage: str, labels: tuple[int, ...], tmp_path: Path
) -> None:
    session = open_sessions(tmp_path, STUDY, {"Alma": Centre(labels)})["Alma"]
    reply = session.train(train_order(STUDY, stage, "Alma"))
    assert reply.patients == len(labels)
    assert np.isfinite(reply.arrays[keys.CHANGE]).all()
    assert np.any(reply.arrays[keys.CHANGE])
    assert "auc_training" not in reply.metrics  # not defined, so it is left out
    assert np.isfinite(list(reply.metrics.values())).all()
