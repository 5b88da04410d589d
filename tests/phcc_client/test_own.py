"""What a site brings of its own into a round: against a hand calculation, and after restarts and absences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CENTRES, open_sessions, tiny_study, train_order

from phcc_client.memory import SiteMemory
from phcc_client.own import Own, own_part
from phcc_client.session import Session
from phcc_model.build import build_autoencoder, build_classifier, first_weights
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import TrainOrder, TrainReply
from phcc_model.mixing import divergence
from phcc_model.parts import norm_names

State = Mapping[str, np.ndarray]


def study_with(algorithm: str, **federation: Any) -> StudyConfig:
    settings = {"algorithm": algorithm, "encoding": "fp32"} | federation
    return tiny_study(pretrain={"rounds": 4}, finetune={"rounds": 4}, federation=settings)


def alma(folder: Path, study: StudyConfig) -> Session:
    return open_sessions(folder, study, {"Alma": CENTRES["Alma"]})["Alma"]


def noised(state: State, seed: int) -> dict[str, np.ndarray]:
    """Global weights some way off, as other sites would move them."""
    draw = np.random.default_rng(seed)
    return {
        name: array + 0.01 * draw.standard_normal(array.shape, dtype=np.float32)
        if array.dtype == np.float32
        else array
        for name, array in state.items()
    }


def trained(session: Session, order: TrainOrder) -> dict[str, np.ndarray]:
    """The weights with which a site ended an order."""
    reply = session.train(order)
    manifest = manifest_of(order)
    delta = decode_change(
        {name: a for name, a in reply.arrays.items() if not name.startswith("control")}, "fp32", manifest
    ).delta
    return manifest.unpack({**weights_of(order), keys.FLOAT: order.arrays[keys.FLOAT] + delta})


def manifest_of(order: TrainOrder) -> Manifest:
    study = tiny_study()
    return Manifest.of(first_weights(study, order.stage))


def weights_of(order: TrainOrder) -> dict[str, np.ndarray]:
    return {name: array for name, array in order.arrays.items() if not name.startswith("control")}


def must_be_equal(one: TrainReply, other: TrainReply) -> None:
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


def orders(study: StudyConfig, stage: str, count: int = 3) -> list[TrainOrder]:
    """Rounds whose global weights do not depend on this site."""
    start = first_weights(study, stage)
    return [
        train_order(study, stage, "Alma", number, noised(start, number), rounds=4) for number in range(count)
    ]


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "fedadam", "fedyogi"])
def test_the_other_algorithms_bring_nothing(algorithm: str, tmp_path: Path) -> None:
    study = study_with(algorithm)
    for order in orders(study, keys.FINETUNE):
        part = own_part(study, order, build_classifier(study), tmp_path)
        given = first_weights(study, keys.FINETUNE)
        assert part.begin(given) is given
        part.keep(given)
    assert type(part) is Own
    assert not list(tmp_path.rglob("*.safetensors"))


# ---- Whatever is kept: restarts, absences


OWNERS = [("fedema", keys.PRETRAIN), ("fedbn", keys.PRETRAIN), ("fedbn", keys.FINETUNE)]
each_owner = pytest.mark.parametrize(("algorithm", "stage"), OWNERS)


@each_owner
def test_a_restarted_site_gives_the_same_bit_for_bit_and_one_without_its_memory_does_not(
    algorithm: str, stage: str, tmp_path: Path
) -> None:
    study = study_with(algorithm)
    asked = orders(study, stage)
    session = alma(tmp_path / "one", study)
    replies = [session.train(order) for order in asked]
    for order, reply in zip(asked, replies, strict=True):
        must_be_equal(alma(tmp_path / "other", study).train(order), reply)  # a new process for each round
    must_be_equal(alma(tmp_path / "one", study).train(asked[2]), replies[2])  # the last round again
    lost = alma(tmp_path / "lost", study).train(asked[2])
    assert lost.arrays[keys.CHANGE].tobytes() != replies[2].arrays[keys.CHANGE].tobytes()


@each_owner
def test_a_site_that_was_away_goes_on_from_its_last_round(algorithm: str, stage: str, tmp_path: Path) -> None:
    study = study_with(algorithm)
    first, _, third = orders(study, stage)
    away, once = alma(tmp_path / "away", study), alma(tmp_path / "once", study)
    away.train(first)
    assert away.train(third).arrays[keys.CHANGE].tobytes() != once.train(third).arrays[keys.CHANGE].tobytes()
    must_be_equal(away.train(third), away.train(third))


# ---- FedEMA


def own_memory(session: Session, order: TrainOrder, kind: str) -> SiteMemory:
    return SiteMemory(session.folder / "memory", order.study_digest, order.arm, kind)


def test_fedema_begins_with_the_mixture_and_its_share_is_tau_at_first(tmp_path: Path) -> None:
    study = study_with("fedema", ema_tau=0.6)
    session = alma(tmp_path, study)
    first, second, third = orders(study, keys.PRETRAIN)
    ended = trained(session, first)
    memory = own_memory(session, first, "fedema/pretrain")
    kept = memory.of(0)
    assert kept is not None
    assert "lambda" not in kept  # there was nothing to compare
    for name, array in ended.items():
        np.testing.assert_allclose(kept[f"own.{name}"], array, rtol=0, atol=1e-7)
    own = {name.removeprefix("own."): array for name, array in kept.items()}
    given = manifest_of(second).unpack(second.arrays)
    begun = own_part(study, second, build_autoencoder(study), session.folder / "memory").begin(given)
    for name, array in given.items():
        wanted = 0.6 * own[name].astype(float) + 0.4 * array.astype(float)
        np.testing.assert_allclose(begun[name], wanted, rtol=0, atol=1e-6)
    session.train(second)
    kept = memory.of(1)
    assert kept is not None
    scale = float(kept["lambda"])
    assert scale == pytest.approx(0.6 / divergence(given, own))
    session.train(third)
    assert float((memory.of(2) or {})["lambda"]) == scale  # once and for all


def test_fedema_far_away_keeps_its_own_and_never_more(tmp_path: Path) -> None:
    study = study_with("fedema", ema_tau=1.0)
    session = alma(tmp_path, study)
    first, second, third = orders(study, keys.PRETRAIN)
    for order in (first, second):
        session.train(order)
    kept = own_memory(session, first, "fedema/pretrain").of(1)
    assert kept is not None
    far = {name: array + 1.0 for name, array in manifest_of(third).unpack(third.arrays).items()}
    begun = own_part(study, third, build_autoencoder(study), session.folder / "memory").begin(far)
    for name, array in begun.items():
        np.testing.assert_array_equal(array, kept[f"own.{name}"])


def test_fedema_is_fedavg_in_stage_2(tmp_path: Path) -> None:
    study, plain = study_with("fedema"), study_with("fedavg")
    session, other = alma(tmp_path / "a", study), alma(tmp_path / "b", plain)
    for order, same in zip(orders(study, keys.FINETUNE), orders(plain, keys.FINETUNE), strict=True):
        one, two = session.train(order), other.train(same)
        assert one.arrays[keys.CHANGE].tobytes() == two.arrays[keys.CHANGE].tobytes()
    assert not own_memory(session, order, "fedema/finetune").folder.exists()


def test_fedema_with_tau_zero_is_fedavg(tmp_path: Path) -> None:
    study, plain = study_with("fedema", ema_tau=0.0), study_with("fedavg")
    session, other = alma(tmp_path / "a", study), alma(tmp_path / "b", plain)
    for order, same in zip(orders(study, keys.PRETRAIN), orders(plain, keys.PRETRAIN), strict=True):
        one, two = session.train(order), other.train(same)
        assert one.arrays[keys.CHANGE].tobytes() == two.arrays[keys.CHANGE].tobytes()


# ---- FedBN


@pytest.mark.parametrize("stage", keys.STAGES)
def test_fedbn_goes_on_from_its_own_norms_and_from_the_ordered_rest(stage: str, tmp_path: Path) -> None:
    study = study_with("fedbn")
    session = alma(tmp_path, study)
    first, second, _ = orders(study, stage)
    ended = trained(session, first)
    model = build_autoencoder(study) if stage == keys.PRETRAIN else build_classifier(study)
    names = norm_names(model)
    given = manifest_of(second).unpack(second.arrays)
    begun = own_part(study, second, model, session.folder / "memory").begin(given)
    assert begun.keys() == given.keys()
    for name, array in begun.items():
        if name in names:
            np.testing.assert_allclose(array, ended[name], rtol=0, atol=1e-6)
            assert array.tobytes() != given[name].tobytes()
        else:
            assert array is given[name]


def test_what_a_fedbn_site_sends_makes_its_norms_the_others_can_average(tmp_path: Path) -> None:
    """The change is from the ordered norms, so that the mean of changes gives the mean of norms."""
    study = study_with("fedbn")
    session = alma(tmp_path, study)
    first, second, _ = orders(study, keys.FINETUNE)
    session.train(first)
    ended = trained(session, second)
    kept = own_memory(session, second, "fedbn/finetune").of(1)
    assert kept is not None
    assert kept.keys() == norm_names(build_classifier(study))
    for name, array in kept.items():
        np.testing.assert_allclose(ended[name], array, rtol=0, atol=1e-6)


def test_fedbn_alone_is_fedavg_to_rounding(tmp_path: Path) -> None:
    """With one site the averaged norms are its own."""
    ends = []
    for algorithm in ("fedbn", "fedavg"):
        study = study_with(algorithm)
        session = alma(tmp_path / algorithm, study)
        state: State = first_weights(study, keys.FINETUNE)
        for number in range(3):
            state = trained(session, train_order(study, keys.FINETUNE, "Alma", number, state, rounds=4))
        ends.append(state)
    moved = max(float(np.abs(ends[1][n] - a).max()) for n, a in first_weights(study, keys.FINETUNE).items())
    for name, array in ends[0].items():
        np.testing.assert_allclose(array, ends[1][name], rtol=0, atol=2e-3 * moved, err_msg=name)
