"""The masked encoder: what it may not see; packed equals dense equals torch's own layers; how it starts."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    Triple,
    apart,
    gradients,
    grids,
    in_voxels,
    largest_gap,
    masked_batch,
    model_settings,
    seeds,
    stir,
)
from torch import Tensor

from phcc_model.config import ModelSettings
from phcc_model.encoder import Encoder
from phcc_model.errors import ConfigError
from phcc_model.layers import WEIGHT_STD, Block, DropPath, is_decayed
from phcc_model.masking import draw_visible
from phcc_model.pretrain import SWFCMAE
from phcc_model.reference import ReferenceEncoder

PATHS = {
    "packed": (True, True),
    "dense": (False, False),
    "dense, fast": (False, True),
    "packed, torch": (True, False),
}
SMALL = ModelSettings(
    size="custom", depths=(1, 2), dims=(6, 10), stem=(1, 2, 2), downsample=((2, 1, 2),), kernel=(3, 5, 3)
)


def _encoder(settings: ModelSettings, seed: int, path: str = "packed", channels: int = 1) -> Encoder:
    encoder = Encoder(settings, channels)
    stir(encoder, seed)
    encoder.packed, encoder.fast = PATHS[path]
    return encoder.eval()


@settings(max_examples=15, deadline=None)
@given(config=model_settings(), grid=grids, path=st.sampled_from(list(PATHS)), seed=seeds)
def test_masked_voxels_cannot_matter(config: ModelSettings, grid: Triple, path: str, seed: int) -> None:
    batch = masked_batch(config, grid, seed)
    encoder = _encoder(config, seed, path)
    other = torch.where(batch.visible_voxels, batch.x_bcdhw, torch.full_like(batch.x_bcdhw, 50.0))
    with torch.no_grad():
        a, b = encoder(batch.x_bcdhw, batch.visible_bdhw), encoder(other, batch.visible_bdhw)
    if encoder.packed:
        assert torch.equal(a, b)
    else:
        assert apart(a, b) < 1e-6
    assert not a[~batch.visible_bdhw[:, None].expand_as(a)].any()
    assert a[batch.visible_bdhw[:, None].expand_as(a)].all()


def test_visible_voxels_do_matter_beyond_their_own_cell() -> None:
    batch = masked_batch(SMALL, (2, 4, 3), 1, n=1)
    encoder = _encoder(SMALL, 1)
    at = batch.visible_bdhw.nonzero()[0]
    one_cell = torch.zeros_like(batch.visible_bdhw)
    one_cell[tuple(at)] = True
    x = batch.x_bcdhw + in_voxels(one_cell, SMALL.patch)[:, None]
    with torch.no_grad():
        moved = (encoder(x, batch.visible_bdhw) - encoder(batch.x_bcdhw, batch.visible_bdhw)).abs().amax(1)
    assert int((moved > 1e-4).sum()) > 1


@settings(max_examples=8, deadline=None)
@given(config=model_settings(), grid=grids, channels=st.integers(1, 3), masked=st.booleans(), seed=seeds)
def test_every_path_equals_torchs_own_layers(
    config: ModelSettings, grid: Triple, channels: int, masked: bool, seed: int
) -> None:
    batch = masked_batch(config, grid, seed, channels=channels)
    visible = batch.visible_bdhw if masked else None
    encoder = _encoder(config, seed, channels=channels).double()
    reference = ReferenceEncoder(config, channels).double()
    reference.load_state_dict(encoder.state_dict())
    expected = reference(batch.x_bcdhw.double(), visible)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (expected * pull).sum().backward()
    for packed, fast in PATHS.values():
        path = copy.deepcopy(encoder)
        path.packed, path.fast = packed, fast
        out = path(batch.x_bcdhw.double(), visible)
        (out * pull).sum().backward()
        assert apart(out, expected) < 1e-10
        assert largest_gap(gradients(path), gradients(reference)) < 1e-10


def test_the_gradient_reaches_the_input_of_an_unmasked_encoder() -> None:
    batch = masked_batch(SMALL, (2, 3, 4), 3)
    encoder = _encoder(SMALL, 3).double()
    inputs = [batch.x_bcdhw.double().clone().requires_grad_() for _ in PATHS]
    for x, (packed, fast) in zip(inputs, PATHS.values(), strict=True):
        encoder.packed, encoder.fast = packed, fast
        encoder(x).square().sum().backward()
    assert inputs[0].grad is not None
    for x in inputs[1:]:
        assert x.grad is not None
        assert apart(x.grad, inputs[0].grad) < 1e-10


@pytest.mark.parametrize("path", PATHS)
def test_the_other_samples_of_a_batch_cannot_matter(path: str) -> None:
    batch = masked_batch(SMALL, (2, 4, 3), 4, n=3)
    encoder = _encoder(SMALL, 4, path)
    x = batch.x_bcdhw.clone()
    x[1:] *= 100.0
    with torch.no_grad():
        alone = encoder(batch.x_bcdhw[:1], batch.visible_bdhw[:1])
        among = encoder(batch.x_bcdhw, batch.visible_bdhw)[:1]
        among_loud = encoder(x, batch.visible_bdhw)[:1]
    assert apart(among, alone) < 1e-6
    assert apart(among_loud, alone) < 1e-6


def test_an_anisotropic_map_has_the_shape_of_the_grid() -> None:
    config = ModelSettings(stem=(1, 2, 4), downsample=((2, 2, 1), (1, 2, 2)), kernel=(1, 3, 5))
    encoder = Encoder(config, 2)
    assert encoder.patch == (2, 8, 8)
    assert encoder(torch.zeros(2, 2, 6, 24, 32)).shape == (2, encoder.dim, 3, 3, 4)


def test_depths_cover_every_parameter_and_rise_from_stem_to_last_block() -> None:
    encoder = Encoder(ModelSettings(), 1)
    depths = encoder.parameter_depths()
    assert list(depths) == [name for name, _ in encoder.named_parameters()]
    assert sorted(set(depths.values())) == list(range(encoder.layers))
    assert depths["stem.weight"] == depths["stem_norm.bias"] == 0
    assert depths["stages.0.0.grn.gamma"] == 1
    assert depths["downs.1.conv.weight"] == depths["stages.2.0.norm.weight"] == 3
    assert depths["stages.2.1.expand.bias"] == encoder.layers - 1 == 4


def test_decay_reaches_kernels_and_nothing_else() -> None:
    model = SWFCMAE(ModelSettings(), 4)
    decayed = {name for name, p in model.named_parameters() if is_decayed(name, p)}
    kernels = {n for n, _ in model.named_parameters() if n.endswith("weight") and "norm." not in n}
    assert decayed == kernels
    assert "decoder.mask_token" not in decayed
    assert not is_decayed("phase_embedding.weight", torch.zeros(4, 8))
    assert not is_decayed("cls_token", torch.zeros(1, 1, 8))


def test_every_kernel_starts_at_std_002_and_grn_as_the_identity() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SWFCMAE(ModelSettings(size="atto", downsample=((1, 2, 2), (2, 2, 2), (1, 1, 1))), 4)
    for name, parameter in model.named_parameters():
        if "grn" in name:
            assert not parameter.any(), name
        elif is_decayed(name, parameter):
            assert abs(float(parameter.detach().std()) / WEIGHT_STD - 1.0) < 0.15, name
        elif name.endswith("bias") and name != "encoder.stem.bias":
            assert not parameter.any(), name


def _flat_patches(encoder: Encoder) -> Tensor:
    """The tokens behind the stem's norm for flat volumes of height 0.5, 1 and 2."""
    tokens = [
        encoder.stem_norm(
            encoder.stem.of_patches(torch.full((1, 1, encoder.stem.weight[0].numel()), height), True)
        )
        for height in (0.5, 1.0, 2.0)
    ]
    return torch.cat(tokens)[:, 0].detach()


def test_the_height_of_a_flat_patch_survives_the_stem() -> None:
    encoder = Encoder(ModelSettings(), 1)
    low, middle, high = _flat_patches(encoder)
    assert apart(middle, low) > 0.2
    assert apart(high, middle) > 0.2
    torch.nn.init.zeros_(encoder.stem.bias)
    low, _, high = _flat_patches(encoder)
    assert apart(high, low) < 0.01


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        out = layer(x)
        torch.manual_seed(1)
        assert torch.equal(layer(x), out)
    values = out.flatten(1)
    assert ((values == 0.0).all(1) | torch.isclose(values, torch.tensor(4.0 / 3.0)).all(1)).all()
    assert abs(float(out.mean()) - 1.0) < 0.05
    assert torch.equal(layer.eval()(x), x)
    assert not DropPath(1.0)(x).any()


def test_drop_path_grows_with_depth_and_draws_alike_on_every_path() -> None:
    config = SMALL.model_copy(update={"drop_path": 0.6})
    encoder = _encoder(config, 5).train()
    rates = [module.rate for module in encoder.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.3, 0.6])
    batch = masked_batch(config, (2, 3, 4), 5, n=6)
    outs = []
    for packed, fast in PATHS.values():
        encoder.packed, encoder.fast = packed, fast
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(2)
            outs.append(encoder(batch.x_bcdhw, batch.visible_bdhw))
    assert apart(encoder.eval()(batch.x_bcdhw, batch.visible_bdhw), outs[0]) > 0.1
    assert max(apart(out, outs[0]) for out in outs) < 1e-5


@pytest.mark.parametrize("path", PATHS)
def test_bfloat16_stays_near_float32(path: str) -> None:
    batch = masked_batch(SMALL, (2, 4, 3), 6)
    encoder = _encoder(SMALL, 6, path)
    exact = encoder(batch.x_bcdhw, batch.visible_bdhw)
    exact.square().mean().backward()
    wanted = gradients(encoder)
    encoder.zero_grad()
    stream: set[torch.dtype] = set()
    for module in encoder.modules():
        if isinstance(module, Block):
            module.register_forward_pre_hook(lambda _, inputs: stream.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(batch.x_bcdhw, batch.visible_bdhw)
    out.square().mean().backward()
    assert stream == {torch.float32}
    assert out.dtype == torch.float32
    assert 0.0 < apart(out, exact) < 0.03
    assert largest_gap(gradients(encoder), wanted) < 0.05


def test_the_choice_of_path_follows_the_settings() -> None:
    modes = {m: Encoder(ModelSettings(masking=m), 1) for m in ("auto", "packed", "dense")}
    assert {m: (e.packed, e.fast) for m, e in modes.items()} == {
        "auto": (None, None),
        "packed": (True, None),
        "dense": (False, False),
    }


def test_masks_that_do_not_fit_are_refused() -> None:
    encoder = Encoder(SMALL, 1)
    x = torch.zeros(2, 1, 4, 8, 12)
    visible = draw_visible(2, (2, 4, 3), 0.5, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="expected"):
        encoder(x, visible[:, :1])
    uneven = visible.clone()
    uneven[0, 0, 0, 0] = ~uneven[0, 0, 0, 0]
    with pytest.raises(ValueError, match="same number"):
        encoder(x, uneven)
    with pytest.raises(ValueError, match="at least one"):
        encoder(x, torch.zeros_like(visible))
    with pytest.raises(ConfigError, match="multiple of the patch"):
        encoder(x[..., :10])
