"""What a site brings of its own into a round: against a hand calculation, and after restarts and absences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
from phcc_model.contract import control, keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.control import order_arrays
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import TrainOrder, TrainReply
from phcc_model.errors import ContractError
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


def part_of(study: StudyConfig, order: TrainOrder, folder: Path, note: Callable[[str], None] = print) -> Own:
    model = build_autoencoder(study) if order.stage == keys.PRETRAIN else build_classifier(study)
    return own_part(study, order, model, manifest_of(order), folder, note)


def trained(session: Session, order: TrainOrder) -> dict[str, np.ndarray]:
    """The weights with which a site ended an order."""
    reply = session.train(order)
    manifest = manifest_of(order)
    delta = decode_change(control.without_control(reply.arrays), "fp32", manifest).delta
    flats = control.without_control(order.arrays)
    return manifest.unpack({**flats, keys.FLOAT: flats[keys.FLOAT] + delta})


def manifest_of(order: TrainOrder) -> Manifest:
    study = tiny_study()
    return Manifest.of(first_weights(study, order.stage))


def must_be_equal(one: TrainReply, other: TrainReply) -> None:
    assert dataclasses.replace(one, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name


def orders(study: StudyConfig, stage: str, count: int = 3) -> list[TrainOrder]:
    """Rounds whose global weights do not depend on this site."""
    start = first_weights(study, stage)
    return [ordered(study, stage, number, noised(start, number)) for number in range(count)]


def ordered(
    study: StudyConfig, stage: str, number: int, state: State, mean: np.ndarray | None = None, last: int = -2
) -> TrainOrder:
    """A round; under SCAFFOLD with a mean control variate, by default a small one that knows the round before."""
    order = train_order(study, stage, "Alma", number, state, rounds=4)
    if not study.federation.controlled:
        return order
    if mean is None:
        size = order.arrays[keys.FLOAT].size
        mean = 0.01 * np.random.default_rng(number).standard_normal(size, dtype=np.float32)
    along = order_arrays(mean, number - 1 if last == -2 else last)
    return dataclasses.replace(order, arrays=order.arrays | along)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox", "fedadam", "fedyogi"])
def test_the_other_algorithms_bring_nothing(algorithm: str, tmp_path: Path) -> None:
    study = study_with(algorithm)
    for order in orders(study, keys.FINETUNE):
        part = part_of(study, order, tmp_path)
        given = first_weights(study, keys.FINETUNE)
        assert part.begin(given) is given
        assert part.end(given, keep=True) == {}
    assert type(part) is Own
    assert not list(tmp_path.rglob("*.safetensors"))


# ---- Whatever is kept: restarts, absences


OWNERS = [
    ("fedema", keys.PRETRAIN),
    ("fedbn", keys.PRETRAIN),
    ("fedbn", keys.FINETUNE),
    ("scaffold", keys.PRETRAIN),
    ("scaffold", keys.FINETUNE),
]
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
    if study.federation.controlled:  # the coordinator says of which round it knows
        third = dataclasses.replace(third, arrays=third.arrays | {keys.CONTROL_ROUND: np.array([0])})
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
    begun = part_of(study, second, session.folder / "memory").begin(given)
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
    begun = part_of(study, third, session.folder / "memory").begin(far)
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
    begun = part_of(study, second, session.folder / "memory").begin(given)
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


# ---- SCAFFOLD


def control_change(reply: TrainReply, order: TrainOrder) -> np.ndarray:
    return control.decode(reply.arrays, reply.encoding, manifest_of(order).size)


@pytest.mark.parametrize("stage", keys.STAGES)
@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_scaffold_keeps_what_the_coordinator_will_know(stage: str, encoding: str, tmp_path: Path) -> None:
    """The sum of all changes that left is what the site holds, to the bit, in any encoding."""
    study = study_with("scaffold", encoding=encoding)
    session = alma(tmp_path, study)
    known = np.zeros(0, np.float32)
    for number, order in enumerate(orders(study, stage)):
        change = control_change(session.train(order), order)
        known = change if not number else known + change
        kept = own_memory(session, order, f"scaffold/{stage}").of(number)
        assert kept is not None
        np.testing.assert_array_equal(kept[keys.CONTROL], known)
        assert np.linalg.norm(known) > 0


@pytest.mark.parametrize("stage", keys.STAGES)
def test_the_control_variate_is_the_mean_raw_gradient_whatever_the_correction_of_one_step(
    stage: str, tmp_path: Path
) -> None:
    """In a round of one step it is the gradient at the ordered weights; what the step makes of it differs."""
    study = study_with("scaffold")
    study = study.model_copy(update={stage: getattr(study, stage).model_copy(update={"batch_size": 64})})
    start = first_weights(study, stage)
    size = manifest_of(train_order(study, stage, "Alma")).size
    found = []
    for number, scale in enumerate((0.0, 0.5)):
        session = alma(tmp_path / str(number), study)
        mean = np.full(size, scale, np.float32)
        order = ordered(study, stage, 0, start, mean, -1)
        reply = session.train(order)
        assert reply.steps == 1
        found.append((control_change(reply, order), reply.arrays[keys.CHANGE]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1].tobytes() != found[1][1].tobytes()  # and the step was another one


@pytest.mark.parametrize("stage", keys.STAGES)
def test_a_correction_of_zero_is_fedavg_bit_for_bit(stage: str, tmp_path: Path) -> None:
    study, plain = study_with("scaffold"), study_with("fedavg")
    session, other = alma(tmp_path / "a", study), alma(tmp_path / "b", plain)
    start = first_weights(study, stage)
    mean = np.zeros(manifest_of(train_order(study, stage, "Alma")).size, np.float32)
    for number in range(2):  # the mean is what the site holds, as where there is no other one
        order = ordered(study, stage, number, noised(start, number), mean)
        reply = session.train(order)
        mean = mean + control_change(reply, order)
        same = other.train(train_order(plain, stage, "Alma", number, noised(start, number), rounds=4))
        assert reply.arrays[keys.CHANGE].tobytes() == same.arrays[keys.CHANGE].tobytes()


def test_a_site_goes_on_from_the_round_that_the_coordinator_knows(tmp_path: Path) -> None:
    """A reply that was lost counts as never made: the change that leaves next is from what is known."""
    study = study_with("scaffold")
    session = alma(tmp_path, study)
    start = first_weights(study, keys.FINETUNE)
    mean = np.full(manifest_of(train_order(study, keys.FINETUNE, "Alma")).size, 0.01, np.float32)
    one = ordered(study, keys.FINETUNE, 0, start, mean, -1)
    lost = ordered(study, keys.FINETUNE, 1, start, mean, 0)
    after = ordered(study, keys.FINETUNE, 2, start, mean, 0)
    known = control_change(session.train(one), one)
    session.train(lost)
    change = control_change(session.train(after), after)
    kept = own_memory(session, after, "scaffold/finetune").of(2)
    assert kept is not None
    np.testing.assert_array_equal(kept[keys.CONTROL], known + change)


def test_a_control_variate_that_is_gone_is_said(tmp_path: Path) -> None:
    study = study_with("scaffold")
    order = orders(study, keys.FINETUNE)[2]
    said: list[str] = []
    part_of(study, order, tmp_path, said.append).begin(first_weights(study, keys.FINETUNE))
    assert [line.split(":")[0] for line in said] == [
        "this site's control variate of round 2 of finetune is gone"
    ]


BAD: dict[str, tuple[dict[str, np.ndarray | None], str]] = {
    "no mean": ({keys.CONTROL: None}, "array is missing"),
    "no round": ({keys.CONTROL_ROUND: None}, "array is missing"),
    "a round to come": ({keys.CONTROL_ROUND: np.array([1])}, "is 1, in an order of round 1"),
    "a round of no sense": ({keys.CONTROL_ROUND: np.array([-2])}, "is -2"),
    "another length": ({keys.CONTROL: np.zeros(3, np.float32)}, "shape is"),
    "one more": ({"control.more": np.zeros(3, np.float32)}, "not expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_order_without_what_scaffold_needs_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = BAD[case]
    study = study_with("scaffold")
    order = orders(study, keys.FINETUNE)[1]
    arrays = {name: array for name, array in (order.arrays | changes).items() if array is not None}
    with pytest.raises(ContractError, match=message):
        part_of(study, dataclasses.replace(order, arrays=arrays), tmp_path)


def test_another_algorithm_takes_no_control_variate(tmp_path: Path) -> None:
    study = study_with("fedavg")
    order = orders(study, keys.FINETUNE)[0]
    size = manifest_of(order).size
    arrays = order.arrays | order_arrays(np.zeros(size, np.float32), -1)
    with pytest.raises(ContractError, match="array not expected"):
        alma(tmp_path, study).train(dataclasses.replace(order, arrays=arrays))
