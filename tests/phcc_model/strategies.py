"""Hypothesis strategies and builders for the network's tests: small, never square, strides of every kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from phcc_model.config import ModelSettings
from phcc_model.masking import draw_visible

Triple = tuple[int, int, int]

seeds = st.integers(0, 2**31 - 1)
strides = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2))
stems = st.tuples(st.integers(1, 2), st.integers(2, 3), st.integers(1, 2))
kernels = st.tuples(*(st.sampled_from([1, 3, 5]) for _ in range(3)))
grids = st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3))


@st.composite
def model_settings(draw: st.DrawFn) -> ModelSettings:
    """Encoders of one to three stages with any strides and kernel."""
    stages = draw(st.integers(1, 3))
    return ModelSettings(
        size="custom",
        depths=tuple(draw(st.integers(1, 2)) for _ in range(stages)),
        dims=tuple(draw(st.integers(4, 9)) for _ in range(stages)),
        stem=draw(stems),
        downsample=tuple(draw(strides) for _ in range(stages - 1)),
        kernel=draw(kernels),
        phases=draw(st.sampled_from(["shared", "joint"])),
        decoder_width=draw(st.integers(4, 9)),
    )


@dataclass(frozen=True)
class Masked:
    """A batch of volumes with a mask on their grid of cells."""

    x_bcdhw: Tensor
    visible_bdhw: Tensor
    patch: Triple

    @property
    def visible_voxels(self) -> Tensor:
        """The mask at the resolution of the volumes, [B, 1, D, H, W]."""
        return in_voxels(self.visible_bdhw, self.patch)[:, None]


def in_voxels(cells_bdhw: Tensor, patch: Triple) -> Tensor:
    """A map of cells, repeated over the voxels of each."""
    for axis, times in enumerate(patch, start=1):
        cells_bdhw = cells_bdhw.repeat_interleave(times, axis)
    return cells_bdhw


def masked_batch(
    settings: ModelSettings, grid: Triple, seed: int, *, channels: int = 1, n: int = 3
) -> Masked:
    """Random volumes for these settings, 60 % of the cells hidden."""
    source = torch.Generator().manual_seed(seed)
    size = [g * p for g, p in zip(grid, settings.patch, strict=True)]
    x = torch.randn(n, channels, *size, generator=source)
    return Masked(x, draw_visible(n, grid, 0.6, source), settings.patch)


def stir(module: nn.Module, seed: int) -> nn.Module:
    """Random parameters in place of the start values, so that no gain is one and no offset zero.

    Weights are scaled to keep the size of what passes through them; otherwise every output would be near zero
    and any two networks would agree.
    """
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64).to(parameter.dtype)
            if parameter.ndim >= 2:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name.endswith("norm.weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return module


def apart(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradient of each parameter by name."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any parameter's gradient, over the length of the longest gradient."""
    assert a.keys() == b.keys()
    longest = max(float(g.double().norm()) for g in b.values())
    return max(float((a[name].double() - b[name].double()).norm()) for name in b) / longest
