"""SW-FCMAE: what the loss counts, targets, missing phases, weights, and that it learns."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import Triple, apart, gradients, grids, in_voxels, largest_gap, model_settings, seeds, stir
from torch import Tensor

from phcc_model.config import ModelSettings, PretrainSettings, WeightingSettings
from phcc_model.masking import patchify
from phcc_model.pretrain import SWFCMAE, PretrainResult, masked_loss
from phcc_model.reference import reference_of
from phcc_model.targets import PatchTargets, patch_targets
from phcc_model.weighting import SampleWeighting

Sharing = Literal["shared", "joint"]
SMALL = ModelSettings(
    size="custom",
    depths=(1, 1),
    dims=(6, 10),
    stem=(1, 2, 2),
    downsample=((2, 1, 2),),
    kernel=(3, 5, 3),
    decoder_width=8,
)
SIZE = (4, 6, 16)
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])


def _model(phases: Sharing = "shared", *, count: int = 3, seed: int = 0, **objective: object) -> SWFCMAE:
    config = SMALL.model_copy(update={"phases": phases})
    model = SWFCMAE(config, count, PretrainSettings().model_copy(update=objective))
    stir(model, seed)
    return model.eval()


def _volumes(seed: int, b: int = 3, p: int = 3, size: Triple = SIZE) -> Tensor:
    return torch.randn(b, p, *size, generator=torch.Generator().manual_seed(seed))


def _source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _outcome(model: SWFCMAE, x: Tensor, seed: int, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss per case and every gradient of a copy of this network in `dtype`."""
    copied = copy.deepcopy(model).to(dtype)
    loss_b = copied(x.to(dtype), PRESENT, _source(seed)).loss_b
    loss_b.sum().backward()
    return loss_b, gradients(copied)


def _three_ways(config: ModelSettings, grid: Triple, seed: int) -> tuple[SWFCMAE, dict[str, SWFCMAE], Tensor]:
    """One network packed; the same masked dense, and of torch's own layers; volumes for them."""
    packed = SWFCMAE(config, 3, PretrainSettings(mask_phases="independent"))
    stir(packed, seed)
    dense = SWFCMAE(config.model_copy(update={"masking": "dense"}), 3, packed.objective)
    others = {"torch's own layers": reference_of(packed, config), "masked dense": dense}
    for model in others.values():
        model.load_state_dict(packed.state_dict())
    d, h, w = (g * p for g, p in zip(grid, config.patch, strict=True))
    return packed, others, _volumes(seed, size=(d, h, w))


@settings(max_examples=6, deadline=None)
@given(config=model_settings(), grid=grids, seed=seeds)
def test_packed_equals_masked_dense_in_loss_and_gradients(
    config: ModelSettings, grid: Triple, seed: int
) -> None:
    packed, others, x = _three_ways(config, grid, seed)
    loss_b, slopes = _outcome(packed, x, seed, torch.float64)
    for model in others.values():
        theirs_b, theirs = _outcome(model, x, seed, torch.float64)
        assert apart(loss_b, theirs_b) < 1e-10
        assert largest_gap(slopes, theirs) < 1e-10


@settings(max_examples=6, deadline=None)
@given(config=model_settings(), grid=grids, seed=seeds)
@example(  # rounding alone sets every way of computing it 1e-5 and more from the truth here
    config=SMALL.model_copy(
        update={"depths": (2, 2), "dims": (7, 4), "stem": (2, 3, 2), "downsample": ((2, 3, 2),)}
        | {"kernel": (5, 5, 1), "phases": "joint", "decoder_width": 4}
    ),
    grid=(3, 3, 3),
    seed=3628801,
)
def test_packed_rounds_no_worse_than_torchs_own_layers(
    config: ModelSettings, grid: Triple, seed: int
) -> None:
    """In float32 a random network may amplify rounding; what counts is the distance to the float64 result."""
    packed, others, x = _three_ways(config, grid, seed)
    true_b, truth = _outcome(others["torch's own layers"], x, seed, torch.float64)
    loss_b, slopes = _outcome(packed, x, seed, torch.float32)
    rough = [_outcome(model, x, seed, torch.float32) for model in others.values()]
    assert apart(loss_b, true_b) < 2e-6 + 4 * max(apart(theirs_b, true_b) for theirs_b, _ in rough)
    assert largest_gap(slopes, truth) < 2e-6 + 4 * max(largest_gap(theirs, truth) for _, theirs in rough)


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_uniform_weights_are_plain_fcmae_bit_for_bit(phases: Sharing) -> None:
    x, present = _volumes(1, b=3), PRESENT
    plain, weighted, bounded = (_model(phases) for _ in range(3))
    plain(x, present, _source()).loss_b.mean().backward()
    for model, chosen in (
        (weighted, WeightingSettings(mode="uniform")),
        (bounded, WeightingSettings(mode="decorrelate", maximum=1.0, uniform_fraction=0.0)),
    ):
        result = model(x, present, _source())
        weights_b = SampleWeighting(chosen, model.encoder.dim, 0).weigh(result.features_bc).weights_b
        (weights_b * result.loss_b).sum().backward()
        assert all(torch.equal(g, gradients(plain)[name]) for name, g in gradients(model).items())


@pytest.mark.parametrize("phases", ["shared", "joint"])
@pytest.mark.parametrize("target", ["norm-pix", "raw", "norm-across-phases", "norm-volume", "enhancement"])
def test_what_a_missing_phase_holds_cannot_matter(phases: Sharing, target: str) -> None:
    model = _model(phases, target=target)
    x = _volumes(2)
    y = torch.where(PRESENT[:, :, None, None, None], x, torch.nan)
    a, b = (model(v, PRESENT, _source(), pictures=True) for v in (x, y))
    assert torch.equal(a.loss_b, b.loss_b)
    assert torch.equal(a.features_bc, b.features_bc)
    assert a.pictures is not None
    assert b.pictures is not None
    assert torch.equal(a.pictures.prediction_bpdhw, b.pictures.prediction_bpdhw)
    assert not a.pictures.prediction_bpdhw[~PRESENT].any()


def test_a_case_does_not_feel_the_others_of_its_batch() -> None:
    model = _model()
    x, y = _volumes(3), _volumes(3)
    y[1:] *= 30.0
    a, b = model(x, PRESENT, _source()), model(y, PRESENT, _source())
    assert apart(a.loss_b[0], b.loss_b[0]) < 1e-6
    assert apart(a.features_bc[0], b.features_bc[0]) < 1e-6


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_any_number_of_phases(phases: Sharing, count: int) -> None:
    model = _model(phases, count=count)
    result = model(_volumes(4, p=count), torch.ones(3, count, dtype=torch.bool), _source())
    assert result.loss_b.shape == (3,)
    assert result.features_bc.shape == (3, model.encoder.dim)
    assert torch.isfinite(result.loss_b).all()
    assert result.pictures is None


def test_parameters_stand_under_encoder_and_decoder() -> None:
    names = [name.split(".")[0] for name, _ in _model().named_parameters()]
    assert set(names) == {"encoder", "decoder"}


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_the_loss_is_the_squared_error_of_masked_patches_in_units_of_their_own_spread(
    phases: Sharing,
) -> None:
    model = _model(phases, mask_phases="independent")
    x = _volumes(5)
    result = model(x, PRESENT, _source(5), pictures=True)
    assert result.pictures is not None
    loss_b = result.loss_b.detach()
    for case in range(3):
        errors = []
        for phase in PRESENT[case].nonzero()[:, 0].tolist():
            truth, drawn, seen = (
                patchify(part[case, phase][None, None], model.encoder.patch)[0]
                for part in (x, result.pictures.prediction_bpdhw, result.pictures.visible_bpdhw)
            )
            assert torch.equal(seen.all(1), seen.any(1))
            std = (truth.var(1, unbiased=False) + 1e-6).sqrt()
            errors.append(((drawn - truth) / std[:, None]).square().mean(1)[~seen.any(1)])
        assert float(loss_b[case]) == pytest.approx(float(torch.cat(errors).mean()), rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, share=st.floats(0.1, 0.9))
def test_visible_and_useless_patches_do_not_count(seed: int, share: float) -> None:
    source = _source(seed)
    shape = (2, 3, 7)
    hidden, useful = (torch.rand(shape, generator=source) < share for _ in range(2))
    values, guess = (torch.randn(*shape, 4, generator=source) for _ in range(2))
    blank = torch.zeros(*shape, 1)
    targets = PatchTargets(values, blank, blank, useful)
    loss = masked_loss(guess, targets, hidden)
    other = torch.where((hidden & useful)[..., None], guess, torch.full_like(guess, 9.0))
    assert torch.equal(masked_loss(other, targets, hidden), loss)
    for case in range(2):
        counted = (hidden & useful)[case]
        error = (guess - values)[case][counted].square()
        assert float(loss[case]) == pytest.approx(float(error.mean()) if counted.any() else 0.0, rel=1e-5)


def test_padding_and_near_constant_patches_are_left_out() -> None:
    x = _volumes(6, b=1, p=2)
    x[0, 0, :2, :2, :4] = 3.0
    x[0, 0, :2, :2, 4:8] = 3.0 + 1e-3 * torch.randn(2, 2, 4, generator=_source())
    useful = patch_targets(x, torch.tensor([[True, True]]), (2, 2, 4), "norm-pix").useful_bpk
    assert not useful[0, 0, :2].any()
    assert useful[0, 0, 2:].all()
    assert useful[0, 1].all()
    assert not patch_targets(x, torch.tensor([[True, False]]), (2, 2, 4), "norm-pix").useful_bpk[0, 1].any()


def test_norm_across_phases_keeps_the_enhancement_that_norm_pix_removes() -> None:
    x = _volumes(7, b=1)
    x[0, 1] = x[0, 0] + 2.0
    present = torch.tensor([[True, True, False]])
    across = patch_targets(x, present, (2, 2, 4), "norm-across-phases")
    alone = patch_targets(x, present, (2, 2, 4), "norm-pix")
    raw = patch_targets(x, present, (2, 2, 4), "raw")
    assert apart(alone.values_bpkv[0, 1], alone.values_bpkv[0, 0]) < 1e-4
    enhancement = (across.values_bpkv[0, 1] - across.values_bpkv[0, 0]) * across.std_bpk1[0, 0]
    assert apart(enhancement, torch.full_like(enhancement, 2.0)) < 1e-5
    pooled = across.values_bpkv[0, :2].transpose(0, 1).flatten(1)
    assert float(pooled.mean(1).abs().max()) < 1e-5
    assert apart(pooled.std(1, unbiased=False), torch.ones(len(pooled))) < 1e-4
    assert torch.equal(raw.values_bpkv[0, 0], patchify(x[:, :1], (2, 2, 4))[0])
    whole = patch_targets(x, present, (2, 2, 4), "norm-volume")
    # One scale for the whole crop: what a place has more than another, in each phase, is kept.
    for phase in (0, 1):
        z = whole.values_bpkv[0, phase]
        assert (
            apart(
                z,
                (x[0, phase] - x[0, phase].mean()).flatten().std(unbiased=False).reciprocal()
                * (raw.values_bpkv[0, phase] - x[0, phase].mean()),
            )
            < 1e-4
        )
    change = patch_targets(x, present, (2, 2, 4), "enhancement")
    assert apart(change.mean_bpk1, across.mean_bpk1) < 1e-6
    shared = change.std_bpk1[0, :2]
    assert float(shared.std()) < 1e-6  # one for the crop, where norm-across-phases has one for each cell
    squares = (raw.values_bpkv[0, :2] - across.mean_bpk1[0, :2]).square().mean()
    assert apart(shared.square(), squares.expand_as(shared)) < 1e-5
    for targets in (across, alone, raw, whole, change):
        back = targets.values_bpkv * targets.std_bpk1 + targets.mean_bpk1
        assert apart(back[0, :2], raw.values_bpkv[0, :2]) < 1e-6


@pytest.mark.parametrize("target", ["norm-pix", "norm-across-phases", "norm-volume", "enhancement"])
def test_targets_do_not_depend_on_a_cases_gain_and_offset(
    target: Literal["norm-pix", "norm-across-phases", "norm-volume", "enhancement"],
) -> None:
    x = _volumes(8, b=1)
    present = torch.ones(1, 3, dtype=torch.bool)
    a, b = (patch_targets(v, present, (2, 2, 4), target).values_bpkv for v in (x, 5.0 * x + 3.0))
    assert apart(a, b) < 1e-4


def test_masks_are_the_same_for_all_phases_or_one_each() -> None:
    same = _model().draw_mask(4, SIZE, _source())
    assert all(torch.equal(same[:, 0], same[:, phase]) for phase in range(3))
    each = _model(mask_phases="independent").draw_mask(4, SIZE, _source())
    assert not torch.equal(each[:, 0], each[:, 1])
    assert (each.flatten(2).sum(2) == same.flatten(2).sum(2)).all()
    joint = _model("joint", mask_phases="independent").draw_mask(4, SIZE, _source())
    assert torch.equal(joint[:, 0], joint[:, 2])


def test_features_are_the_mean_over_visible_cells_and_present_phases() -> None:
    model = _model(mask_phases="independent")
    x = _volumes(9)
    result = model(x, PRESENT, _source())
    visible = model.draw_mask(3, SIZE, _source())
    for case in range(3):
        means = []
        for phase in PRESENT[case].nonzero()[:, 0].tolist():
            z = model.encoder(x[case, phase][None, None], visible[case, phase][None])[0]
            means.append(z[:, visible[case, phase]].mean(1))
        assert apart(result.features_bc[case], torch.stack(means).mean(0)) < 1e-5
    assert not result.features_bc.requires_grad


def test_what_the_encoder_did_not_see_cannot_reach_features_or_prediction() -> None:
    model = _model()
    x = _volumes(10)
    visible = in_voxels(model.draw_mask(3, SIZE, _source())[:, 0], model.encoder.patch)[:, None]
    patches = [2.0 * patchify(x, model.encoder.patch), patchify(x, model.encoder.patch)]
    assert apart(patches[0], patches[1]) > 0.5
    hidden_scaled = torch.where(visible, x, 2.0 * x)
    a, b = (model(v, PRESENT, _source()) for v in (x, hidden_scaled))
    assert torch.equal(a.features_bc, b.features_bc)
    # norm-pix takes the factor out of the target as well, so even the loss is the same.
    assert apart(a.loss_b, b.loss_b) < 1e-4


def test_it_is_a_function_of_weights_data_and_generator() -> None:
    model, x = _model(), _volumes(11)

    def run(seed: int) -> PretrainResult:
        result: PretrainResult = model(x, PRESENT, _source(seed))
        return result

    assert torch.equal(run(1).loss_b, run(1).loss_b)
    assert not torch.equal(run(1).loss_b, run(2).loss_b)


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_bfloat16_stays_near_float32_and_the_loss_is_float32(phases: Sharing) -> None:
    model, x = _model(phases), _volumes(12)
    exact = model(x, PRESENT, _source())
    exact.loss_b.sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        result = model(x, PRESENT, _source())
    result.loss_b.sum().backward()
    assert result.loss_b.dtype == result.features_bc.dtype == torch.float32
    assert 0.0 < apart(result.loss_b, exact.loss_b) < 0.02
    assert largest_gap(gradients(model), wanted) < 0.05


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_a_few_steps_bring_the_loss_well_below_that_of_the_mean(phases: Sharing) -> None:
    rows = torch.linspace(0.0, 12.0, 16)
    waves = torch.stack([torch.sin(rows + shift) for shift in torch.linspace(0.0, 6.0, 12)])
    x = waves.view(4, 3, 1, 1, 16).expand(4, 3, 4, 6, 16).contiguous()
    present = torch.ones(4, 3, dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SWFCMAE(SMALL.model_copy(update={"phases": phases}), 3)
    before = copy.deepcopy(model)(x, present, _source(99)).loss_b.mean().detach()
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3, betas=(0.9, 0.95))
    for step in range(50):
        optimiser.zero_grad()
        model(x, present, _source(step)).loss_b.mean().backward()
        optimiser.step()
    after = model(x, present, _source(99)).loss_b.mean().detach()
    assert float(before) == pytest.approx(1.0, abs=0.1)
    assert float(after) < 0.5 * float(before)
