from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from phcc_model import classifier
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.config import AugmentationSettings, StudyConfig
from phcc_model.errors import TrainingError
from phcc_model.pretrain import SWFCMAE
from phcc_model.training import (
    Progress,
    effective_rank,
    finetune_round,
    label_subset,
    positive_weight,
    predict,
    pretrain_loss,
    pretrain_round,
)
from phcc_model.training.batches import shuffled
from phcc_model.training.progress import Place
from phcc_model.training.steps import CLIP_NORM, Recipe, RoundOptimiser

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings

CPU = torch.device("cpu")
GRID = (2, 8, 8)

Stage = Literal["pretrain", "finetune"]
STAGES: tuple[Stage, ...] = ("pretrain", "finetune")


def tiny_study(**sections: dict[str, Any]) -> StudyConfig:
    """Two phases of 2 x 8 x 8 voxels, an encoder of two blocks, every source of chance switched on."""
    plain: dict[str, Any] = {
        "data": {"phases": ["arterial", "delayed"], "crop": {"size": GRID}},
        "model": {
            "size": "custom",
            "depths": [1, 1],
            "dims": [8, 16],
            "downsample": [[1, 2, 2]],
            "kernel": [3, 3, 3],
            "drop_path": 0.2,
            "decoder_width": 8,
            "classifier": {"width": 16, "heads": 2},
        },
        "pretrain": {"rounds": 8, "batch_size": 8},
        "finetune": {
            "rounds": 20,
            "batch_size": 8,
            "learning_rate": 1e-2,
            "augmentation": {"shift_voxels": 0.5},
        },
    }
    for name, changes in sections.items():
        plain[name] = {**plain.get(name, {}), **changes}
    return StudyConfig.model_validate(plain)


def tiny_cases(n: int = 20, *, seed: int = 0, labels: tuple[int, ...] = (0, 1)) -> CaseSet:
    """Sloping volumes, a bright lesion in positives, every fifth lacks a phase, two cases to a patient."""
    rng = np.random.default_rng(seed)
    label = np.array([labels[i % len(labels)] for i in range(n)], np.int8)
    lesion = np.zeros((n, *GRID), np.uint8)
    lesion[:, :, 2:6, 2:6] = 1
    ramp = np.linspace(-1.0, 1.0, 8)
    slope_h, slope_w = rng.normal(size=(2, n, 1, 1, 1, 1))
    volumes = slope_h * ramp[:, None] + slope_w * ramp + 0.2 * rng.normal(size=(n, 2, *GRID))
    volumes[:, 0] += 1.5 * lesion * (label == 1)[:, None, None, None]
    present = np.ones((n, 2), bool)
    present[::5, 1] = False
    return CaseSet(
        case=tuple(f"case-{i}" for i in range(n)),
        patient=tuple(f"patient-{i // 2}" for i in range(n)),
        volumes_npdhw=(volumes * present[:, :, None, None, None]).astype(np.float16),
        present_np=present,
        lesion_ndhw=lesion,
        label_n=label,
        afp_n=np.full(n, np.nan, np.float32),
    )


def start(stage: Stage, study: StudyConfig) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if stage == "pretrain":
            return SWFCMAE(study.model, len(study.data.phases), study.pretrain)
        return Classifier(study.model, study.data.phases)


def run(
    stage: Stage, model: Any, cases: CaseSet, study: StudyConfig, *, round_index: int = 2, **more: Any
) -> Any:
    work: Callable[..., Any] = pretrain_round if stage == "pretrain" else finetune_round
    return work(model, cases, study, **{"site": "north", "device": CPU, "round_index": round_index, **more})


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: array.clone() for name, array in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def moved(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(sum((a[name] - b[name]).square().sum() for name in a) ** 0.5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_repeated_round_gives_the_same_bits(stage: Stage) -> None:
    study = tiny_study(**{stage: {"batch_size": 8, "local_epochs": 2}})
    model = start(stage, study)
    begin = weights(model)
    torch.manual_seed(1)
    first_result, first = run(stage, model, tiny_cases(), study), weights(model)
    model.load_state_dict(begin)
    torch.manual_seed(2)
    untouched = torch.get_rng_state()
    second_result, second = run(stage, model, tiny_cases(), study), weights(model)
    assert same(first, second)
    assert first_result.loss == second_result.loss
    assert torch.equal(torch.get_rng_state(), untouched)
    for other in ({"round_index": 3}, {"site": "south"}):
        model.load_state_dict(begin)
        run(stage, model, tiny_cases(), study, **other)
        assert not same(first, weights(model))


@pytest.mark.parametrize("stage", STAGES)
def test_every_step_is_reported(stage: Stage) -> None:
    study = tiny_study(**{stage: {"batch_size": 8, "local_epochs": 2}})
    heard: list[Progress] = []
    result = run(stage, start(stage, study), tiny_cases(20), study, progress=heard.append)
    assert result.steps == 6  # 8 + 8 + 4 cases, twice
    assert (result.cases, result.patients) == (20, 10)
    assert [(p.epoch, p.step, p.steps) for p in heard] == [(i // 3, i + 1, 6) for i in range(6)]
    assert {(p.stage, p.site, p.round_index) for p in heard} == {(stage, "north", 2)}


def test_pre_training_lowers_the_loss_on_cases_it_has_not_seen() -> None:
    study = tiny_study(pretrain={"rounds": 12, "batch_size": 8, "learning_rate": 1e-2})
    model, train, held_out = start("pretrain", study), tiny_cases(32), tiny_cases(16, seed=9)
    before = pretrain_loss(model, held_out, study, device=CPU)
    memory = None
    for round_index in range(12):
        result = run("pretrain", model, train, study, round_index=round_index, memory=memory)
        memory = result.memory
    after = pretrain_loss(model, held_out, study, device=CPU)
    assert after < 0.9 * before
    assert result.effective_rank > 1.5
    assert 0.0 < result.effective_fraction <= 1.0


def test_pre_training_loss_is_the_same_however_often_and_in_whatever_batches() -> None:
    study = tiny_study()
    model, cases = start("pretrain", study), tiny_cases(10)
    model.train()
    loss = pretrain_loss(model, cases, study, device=CPU)
    assert loss == pretrain_loss(model, cases, study, device=CPU)
    assert loss == pytest.approx(pretrain_loss(model, cases, study, device=CPU, batch_size=3), rel=1e-5)
    assert model.training


def test_uniform_weights_are_plain_fcmae() -> None:
    plain = tiny_study(pretrain={"batch_size": 8, "rounds": 8, "weighting": {"mode": "uniform"}})
    early = tiny_study(pretrain={"batch_size": 8, "rounds": 8, "weighting": {"uniform_fraction": 1.0}})
    weighted = tiny_study(pretrain={"batch_size": 8, "rounds": 8, "weighting": {"uniform_fraction": 0.0}})
    model = start("pretrain", plain)
    begin, ends = weights(model), []
    for study in (plain, early, weighted):
        model.load_state_dict(begin)
        result = run("pretrain", model, tiny_cases(16), study)
        ends.append((weights(model), result))
    assert same(ends[0][0], ends[1][0])
    assert not same(ends[0][0], ends[2][0])
    assert ends[0][1].loss == pytest.approx(ends[0][1].weighted_loss, rel=1e-5)
    assert ends[0][1].effective_fraction == pytest.approx(1.0)
    assert ends[2][1].effective_fraction < 0.999


def test_the_memory_of_the_weighting_goes_on_from_round_to_round() -> None:
    study = tiny_study()
    model = start("pretrain", study)
    begin = weights(model)
    first = run("pretrain", model, tiny_cases(16), study)
    model.load_state_dict(begin)
    remembering = run("pretrain", model, tiny_cases(16), study, memory=first.memory)
    assert remembering.loss != first.loss
    assert all(isinstance(array, np.ndarray) for array in remembering.memory.values())


def test_the_classifier_learns_sixteen_cases_by_heart() -> None:
    calm = {name: 0 for name in AugmentationSettings.model_fields if name != "flip"}
    study = tiny_study(
        finetune={"rounds": 40, "augmentation": {**calm, "flip": False}},
        model={"drop_path": 0.0, "classifier": {"width": 16, "heads": 2, "dropout": 0.0}},
    )
    model, cases = start("finetune", study), tiny_cases(16)
    rng = np.random.default_rng(5)
    cases = replace(cases, label_n=rng.permutation(cases.label_n))  # nothing but memory helps
    for round_index in range(40):
        run("finetune", model, cases, study, round_index=round_index)
    logit = predict(model, cases, device=CPU)
    assert ((logit > 0) == (cases.label_n == 1)).all()


def test_the_classifier_finds_the_sign_in_new_patients() -> None:
    study = tiny_study(finetune={"rounds": 10})
    model, train, test = start("finetune", study), tiny_cases(48), tiny_cases(40, seed=9)
    for round_index in range(10):
        result = run("finetune", model, train, study, round_index=round_index)
    logit = predict(model, test, device=CPU)
    assert ((logit > 0) == (test.label_n == 1)).mean() > 0.9
    assert result.auc_training > 0.85


@pytest.mark.parametrize("label", [0, 1])
def test_a_site_with_one_class_trains(label: int) -> None:
    study = tiny_study()
    model, cases = start("finetune", study), tiny_cases(8, labels=(label,))
    for round_index in range(4):
        result = run("finetune", model, cases, study, round_index=round_index)
    logit = predict(model, cases, device=CPU)
    assert np.isfinite(result.loss)
    assert np.isnan(result.auc_training)
    assert (logit.mean() > 0) == (label == 1)
    assert result.positives == 8 * label


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_a_site_with_very_few_cases_trains(stage: Stage, n: int) -> None:
    study = tiny_study()
    result = run(stage, start(stage, study), tiny_cases(n), study)
    assert np.isfinite(result.loss)
    assert (result.cases, result.steps) == (n, 1)


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_to_train_on_is_said(stage: Stage) -> None:
    cases = tiny_cases(4, labels=(-1,)) if stage == "finetune" else tiny_cases(4).take([])
    with pytest.raises(TrainingError, match=rf"site north, {stage} round 2: there is nothing to train on"):
        run(stage, start(stage, tiny_study()), cases, tiny_study())


@pytest.mark.parametrize("stage", STAGES)
def test_a_loss_that_is_not_finite_is_said_and_spoils_no_weight(stage: Stage) -> None:
    study, cases = tiny_study(), tiny_cases(8)
    cases.volumes_npdhw[:, 0] = np.nan
    model = start(stage, study)
    begin = weights(model)
    with pytest.raises(TrainingError, match=rf"site north, {stage} round 2, step 1 of 1.*not finite.*lower"):
        run(stage, model, cases, study)
    assert same(begin, weights(model))


def test_a_score_that_is_not_finite_is_said() -> None:
    cases = tiny_cases(8)
    cases.volumes_npdhw[3] = np.nan
    with pytest.raises(TrainingError, match=r"1 of 8 scores.*case-3"):
        predict(start("finetune", tiny_study()), cases, device=CPU)


def test_scores_do_not_depend_on_the_batch_nor_on_the_mode() -> None:
    model, cases = start("finetune", tiny_study()), tiny_cases(11)
    model.train()
    logit = predict(model, cases, device=CPU)
    assert logit.dtype == np.float32
    for batch_size in (1, 3, 64):
        np.testing.assert_allclose(logit, predict(model, cases, device=CPU, batch_size=batch_size), atol=1e-5)
    np.testing.assert_allclose(
        logit[::-1], predict(model, cases.take(range(10, -1, -1)), device=CPU), atol=1e-5
    )
    assert model.training
    assert predict(model, cases.take([]), device=CPU).shape == (0,)


@pytest.mark.parametrize("stage", STAGES)
def test_fedprox_holds_a_site_near_the_global_weights(stage: Stage) -> None:
    many = {stage: {"batch_size": 4, "local_epochs": 3, "rounds": 4}}
    average = tiny_study(**many)
    model = start(stage, average)
    begin = weights(model)

    def distance(mu: float | None) -> tuple[float, dict[str, Tensor]]:
        change = {} if mu is None else {"federation": {"algorithm": "fedprox", "proximal": mu}}
        model.load_state_dict(begin)
        run(stage, model, tiny_cases(), tiny_study(**many, **change))
        return moved(weights(model), begin), weights(model)

    (free, free_weights), (zero, zero_weights) = distance(None), distance(0.0)
    assert free == zero
    assert same(free_weights, zero_weights)
    assert distance(10.0)[0] < 0.9 * free


def test_a_round_whose_rate_climbs_takes_its_first_step_at_half_the_rate() -> None:
    """A round of one step: climbing over all of it, the step is taken at the middle of the way up."""
    cases = tiny_cases(8)
    ways = []
    for share in (0.0, 1.0):
        study = tiny_study(pretrain={"round_warmup": share})
        model = start("pretrain", study)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert run("pretrain", model, cases, study).steps == 1
        ways.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    assert any(float(way.abs().max()) > 1e-4 for way in ways[0].values())
    for name, way in ways[0].items():
        torch.testing.assert_close(ways[1][name], way / 2, rtol=1e-3, atol=1e-7)


def test_fedprox_adds_mu_times_the_way_from_the_reference_to_the_gradient() -> None:
    layer = nn.Linear(2, 1)
    reference = {name: p.detach() - 0.01 for name, p in layer.named_parameters()}
    optimiser = RoundOptimiser(
        layer,
        Recipe(1.0, 0.0, 0.0, 1, proximal=3.0),
        Place(0, "finetune", 0, "north"),
        steps=1,
        reference=reference,
    )
    optimiser.step(0.0 * layer(torch.ones(1, 2)).sum(), epoch=0)
    for parameter in layer.parameters():
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 0.03))
    with pytest.raises(TrainingError, match=r"lack 1 .*'bias'"):
        RoundOptimiser(
            layer,
            Recipe(1.0, 0.0, 0.0, 1, proximal=3.0),
            Place(0, "finetune", 0, "north"),
            steps=1,
            reference={"weight": reference["weight"]},
        )


def test_lower_layers_move_slower_and_only_kernels_decay() -> None:
    study = tiny_study()
    model = start("finetune", study)
    optimiser = RoundOptimiser(
        model,
        Recipe(1e-2, 0.05, 0.1, 20, layer_decay=0.5),
        Place(0, "finetune", 0, "north"),
        steps=1,
        depths=model.parameter_depths(),
    )
    of_parameter = {id(p): group for group in optimiser.optimiser.param_groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert of_parameter.keys() == {id(p) for p in names.values()}
    top = model.encoder.layers
    for name, depth in model.parameter_depths().items():
        assert of_parameter[id(names[name])]["peak"] == pytest.approx(1e-2 * 0.5 ** (top - depth))
    assert of_parameter[id(names["out.weight"])]["weight_decay"] == 0.05
    for name in ("out.bias", "norm.weight", "fusion.phase_embedding", "encoder.stages.0.0.grn.gamma"):
        assert of_parameter[id(names[name])]["weight_decay"] == 0.0


def test_the_gradient_is_clipped_before_the_step() -> None:
    layer = nn.Linear(4, 1)
    optimiser = RoundOptimiser(layer, Recipe(0.1, 0.0, 0.0, 1), Place(0, "finetune", 0, "north"), steps=1)
    optimiser.step(1e4 * layer(torch.ones(1, 4)).sum(), epoch=0)
    total = sum(p.grad.square().sum() for p in layer.parameters() if p.grad is not None)
    assert float(total) ** 0.5 == pytest.approx(CLIP_NORM, rel=1e-4)


def test_a_frozen_encoder_stands_still_and_is_let_go_again() -> None:
    study = tiny_study(finetune={"freeze_encoder_rounds": 3, "rounds": 20, "batch_size": 8})
    model = start("finetune", study)
    begin = weights(model)
    run("finetune", model, tiny_cases(), study, round_index=2)
    frozen = weights(model)
    for name in begin:
        if name.startswith("encoder."):
            assert torch.equal(begin[name], frozen[name]), name
    assert not torch.equal(begin["out.weight"], frozen["out.weight"])
    run("finetune", model, tiny_cases(), study, round_index=3)
    assert not torch.equal(frozen["encoder.stem.weight"], model.state_dict()["encoder.stem.weight"])


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_a_batch_encoded_in_parts_is_the_batch(phases: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = {**tiny_study().model.model_dump(), "phases": phases, "drop_path": 0.0}  # drawn part by part
    study = tiny_study(model=calm)
    model = start("finetune", study)
    begin, losses, gradients = weights(model), [], []
    for volumes in (1, 6, 1000):
        monkeypatch.setattr(classifier, "CPU_VOLUMES", volumes)
        model.load_state_dict(begin)
        losses.append(run("finetune", model, tiny_cases(8), study).loss)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for loss, gradient in zip(losses[:2], gradients[:2], strict=True):
        assert loss == pytest.approx(losses[2], rel=1e-5)
        torch.testing.assert_close(gradient, gradients[2], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_is_near_float32(stage: Stage) -> None:
    plain, short = tiny_study(), tiny_study(**{stage: {"batch_size": 8, "bf16": True}})
    model = start(stage, plain)
    begin = weights(model)
    expected = run(stage, model, tiny_cases(8), plain).loss
    model.load_state_dict(begin)
    loss = run(stage, model, tiny_cases(8), short).loss
    assert loss != expected
    assert loss == pytest.approx(expected, rel=0.05)
    assert all(array.dtype == torch.float32 for array in weights(model).values())


@settings(deadline=None, max_examples=60)
@given(cases=st.integers(1, 70), size=st.integers(1, 20), seed=st.integers(0, 2**62))
def test_an_epoch_takes_every_case_once_and_leaves_none_alone(cases: int, size: int, seed: int) -> None:
    batches = shuffled(cases, size, seed)
    assert sorted(np.concatenate(batches).tolist()) == list(range(cases))
    assert all(len(batch) <= size + 1 for batch in batches)
    if size > 1 and cases > 1:
        assert min(len(batch) for batch in batches) >= 2
    assert [b.tolist() for b in batches] == [b.tolist() for b in shuffled(cases, size, seed)]


@settings(deadline=None, max_examples=60)
@given(
    label=st.lists(st.integers(0, 1), min_size=1, max_size=70),
    size=st.integers(1, 20),
    seed=st.integers(0, 2**62),
)
def test_every_batch_holds_its_share_of_each_class(label: list[int], size: int, seed: int) -> None:
    label_n = np.array(label, np.int8)
    batches = shuffled(len(label), size, seed, label_n)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(label)))
    for batch in batches:
        assert abs(label_n[batch].sum() - label_n.mean() * len(batch)) <= 1.0 + 1e-9


def test_stratified_epochs_differ_in_their_order() -> None:
    label_n = np.array([0, 1] * 20, np.int8)
    first, second = (np.concatenate(shuffled(40, 8, seed, label_n)).tolist() for seed in (1, 2))
    assert first != second


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 40), fraction=st.floats(0.05, 1.0), more=st.floats(0.05, 1.0), seed=st.integers(0, 99)
)
def test_the_label_subset_is_by_patient_stratified_and_nested(
    n: int, fraction: float, more: float, seed: int
) -> None:
    fraction, more = sorted((fraction, more))
    rng = np.random.default_rng(seed)
    cases = replace(tiny_cases(n), label_n=rng.integers(0, 2, n).astype(np.int8))
    kept = label_subset(cases, fraction, 7, "north")
    # By patient: all cases of a patient, or none.
    assert kept.case == tuple(
        c for c, p in zip(cases.case, cases.patient, strict=True) if p in set(kept.patient)
    )
    # Stratified: of each class the nearest number of patients, at least one.
    for positive in (True, False):

        def of_class(part: CaseSet, positive: bool = positive) -> set[str]:
            ill = {p for p, y in zip(cases.patient, cases.label_n, strict=True) if y == 1}
            return {p for p in part.patient if (p in ill) == positive}

        total, found = len(of_class(cases)), len(of_class(kept))
        assert abs(found - fraction * total) <= 0.5 + 1e-9 or (found == 1 and total >= 1)
    assert set(kept.case) <= set(label_subset(cases, more, 7, "north").case)
    turned = cases.take(range(n - 1, -1, -1))
    assert set(label_subset(turned, fraction, 7, "north").case) == set(kept.case)


def test_the_label_fraction_reaches_the_training() -> None:
    study = tiny_study(finetune={"label_fraction": 0.25, "batch_size": 8})
    cases = replace(tiny_cases(40), patient=tuple(f"patient-{i}" for i in range(40)))
    result = run("finetune", start("finetune", study), cases, study)
    assert (result.cases, result.patients, result.positives) == (10, 10, 5)


def test_the_rarer_class_weighs_more_within_bounds() -> None:
    def weight(positives: int, negatives: int, rule: str = "balanced") -> float:
        return positive_weight(np.array([1] * positives + [0] * negatives, np.int8), rule)

    assert weight(10, 30) == 3.0
    assert weight(30, 10) == pytest.approx(1 / 3)
    assert weight(1, 500) == 10.0
    assert weight(500, 1) == pytest.approx(0.1)
    assert weight(5, 0) == weight(0, 5) == weight(10, 30, "none") == 1.0


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    assert effective_rank(rng.normal(size=(4000, 6))) == pytest.approx(6.0, abs=0.05)
    line = rng.normal(size=(50, 1)) * np.array([[1.0, -2.0, 0.5]])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.full((9, 4), 0.3, np.float32)) == 0.0
    assert effective_rank(1e3 * line + 7.0) == pytest.approx(1.0, abs=1e-4)
