"""The package's own CPU kernels against torch's: same values, same gradients, for every layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Triple, apart, grids, kernels, seeds, strides
from torch import Tensor

from phcc_model import depthwise as depthwise_module
from phcc_model.depthwise import depthwise, weight_gradient
from phcc_model.grn import activate_norm_project, response_norm
from phcc_model.masking import draw_visible
from phcc_model.pointwise import FEWEST_ROWS, pointwise
from phcc_model.sparse import Layout, dense_layout, gather, packed_layout, scatter


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layout(n: int, grid: Triple, cell: Triple, kind: str, fast: bool) -> Layout:
    visible = draw_visible(n, grid, 0.6, torch.Generator().manual_seed(7))
    if kind == "packed":
        return packed_layout(grid, cell, visible, fast)
    return dense_layout(n, grid, cell, visible if kind == "masked" else None, fast)


def _tokens(n: int, layout: Layout) -> int:
    count, d, h, w = layout.bricks
    return count * d * h * w // n


def _both(function: Any, *inputs: Tensor) -> list[Tensor]:
    """The output and the gradient by every input, for one and the same random output gradient."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(_noise(*out.shape, seed=5).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@settings(max_examples=25, deadline=None)
@given(
    grid=grids,
    cell=strides,
    kernel=kernels,
    kind=st.sampled_from(["packed", "dense", "masked"]),
    n=st.integers(1, 3),
    c=st.integers(1, 5),
    double=st.booleans(),
    seed=seeds,
)
def test_depthwise_equals_torchs_convolution(
    grid: Triple, cell: Triple, kernel: Triple, kind: str, n: int, c: int, double: bool, seed: int
) -> None:
    dtype = torch.float64 if double else torch.float32
    layouts = {fast: _layout(n, grid, cell, kind, fast) for fast in (True, False)}
    x = _noise(n, _tokens(n, layouts[True]), c, seed=seed).to(dtype)
    weight = _noise(c, 1, *kernel, seed=seed + 1).to(dtype)
    bias = _noise(c, seed=seed + 2).to(dtype)
    ours, torchs = (
        _both(lambda x, w, b, at=layouts[fast]: depthwise(x, w, b, at), x, weight, bias)
        for fast in (True, False)
    )
    for a, b in zip(ours, torchs, strict=True):
        # Sums over many tokens may cancel, so the error is measured against the size of their terms, one.
        assert float((a - b).abs().max()) < (1e-12 if double else 1e-5) * max(1.0, float(b.abs().max()))


def test_depthwise_passes_gradcheck() -> None:
    layout = _layout(2, (1, 2, 3), (2, 1, 1), "packed", True)
    inputs = [_noise(*shape, seed=3).requires_grad_() for shape in ((2, 4, 2), (2, 1, 3, 1, 3), (2,))]
    assert torch.autograd.gradcheck(lambda x, w, b: depthwise(x, w, b, layout), inputs)


@pytest.mark.parametrize("channels", [5, 8, 16, 24, 40, 48])
@pytest.mark.parametrize("kind", ["packed", "dense"])
def test_channels_convolved_in_groups_are_those_convolved_at_once(
    channels: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = _layout(2, (2, 3, 2), (1, 2, 2), kind, True)
    shapes = ((2, _tokens(2, layout), channels), (channels, 1, 3, 5, 1), (channels,))
    inputs = [_noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    at_once = _both(lambda x, w, b: depthwise(x, w, b, layout), *inputs)
    monkeypatch.setattr(depthwise_module, "SMALL_MAP", 0)
    grouped = _both(lambda x, w, b: depthwise(x, w, b, layout), *inputs)
    for a, b in zip(grouped, at_once, strict=True):
        assert apart(a, b) < 1e-13


def test_the_weights_gradient_is_that_of_autograd() -> None:
    x, g = _noise(5, 3, 2, 4, 3, seed=1), _noise(5, 3, 2, 4, 3, seed=2)
    weight = _noise(3, 1, 3, 5, 1, seed=3).requires_grad_()
    torch.autograd.backward(F.conv3d(x, weight, None, 1, (1, 2, 0), 1, 3), g)
    assert weight.grad is not None
    assert apart(weight_gradient(x, g, weight.shape[2:]), weight.grad) < 1e-13


@settings(max_examples=25, deadline=None)
@given(grid=grids, cell=strides, n=st.integers(1, 3), c=st.integers(1, 4), seed=seeds)
def test_packed_tokens_come_back_from_the_canvas(
    grid: Triple, cell: Triple, n: int, c: int, seed: int
) -> None:
    layout = _layout(n, grid, cell, "packed", True)
    x = _noise(n, _tokens(n, layout), c, seed=seed)
    canvas = scatter(x, layout)
    assert torch.equal(gather(canvas, layout), x)
    assert int((canvas != 0).sum()) == int((x != 0).sum())


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    t=st.integers(1, 7),
    e=st.integers(1, 6),
    c=st.integers(1, 4),
    masked=st.booleans(),
    seed=seeds,
)
def test_activate_norm_project_equals_its_parts(
    n: int, t: int, e: int, c: int, masked: bool, seed: int
) -> None:
    mask = None
    if masked:
        mask = (torch.arange(t)[None, :, None] % 2 == 0).double().expand(n, t, 1)
    shapes = ((n, t, e), (e,), (e,), (c, e), (c,))
    inputs = [_noise(*shape, seed=seed + i) for i, shape in enumerate(shapes)]

    def by_parts(h: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(response_norm(F.gelu(h), gamma, beta, mask), weight, bias)

    ours = _both(partial(activate_norm_project, mask_nt1=mask), *inputs)
    for a, b in zip(ours, _both(by_parts, *inputs), strict=True):
        assert float((a - b).abs().max()) < 1e-9 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
def test_activate_norm_project_passes_gradcheck(masked: bool) -> None:
    mask = (
        torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).view(1, 4, 1).expand(2, 4, 1)
        if masked
        else None
    )
    shapes = ((2, 4, 3), (3,), (3,), (2, 3), (2,))
    inputs = [_noise(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(partial(activate_norm_project, mask_nt1=mask), inputs)


def test_response_norm_is_the_published_formula() -> None:
    y, gamma, beta = _noise(2, 5, 3, seed=1), _noise(3, seed=2), _noise(3, seed=3)
    out = response_norm(y, gamma, beta)
    for i in range(2):
        norm = (y[i] ** 2).sum(0) ** 0.5
        expected = gamma * (y[i] * (norm / (norm.mean() + 1e-6))) + beta + y[i]
        assert apart(out[i], expected) < 1e-14


def test_a_channel_that_is_silent_has_finite_gradients() -> None:
    h = torch.full((1, 4, 3), -40.0, requires_grad=True)
    out = activate_norm_project(h, torch.ones(3), torch.zeros(3), torch.ones(2, 3), torch.zeros(2))
    torch.autograd.backward(out.sum())
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("tokens", [7, FEWEST_ROWS // 4 + 8])
def test_both_routes_of_pointwise_agree(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [_noise(*shape, seed=i).float() for i, shape in enumerate(((4, tokens, 5), (8, 5), (8,)))]
    convolved: list[torch.Size] = []
    conv2d = F.conv2d

    def noted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        convolved.append(x.shape)
        return conv2d(x, weight, bias)

    monkeypatch.setattr(F, "conv2d", noted)
    routes = (
        _both(lambda x, w, b, fast=fast: pointwise(x, w, b, fast=fast), *inputs) for fast in (True, False)
    )
    for a, b in zip(*routes, strict=True):
        assert apart(a, b) < 1e-5
    assert bool(convolved) == (tokens > 7)
