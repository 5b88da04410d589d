"""Depthwise 3-D convolution of tokens, exact and fast on the CPU.

oneDNN has no backward kernel for 3-D depthwise convolutions; torch then falls back to one that is many times
slower than the forward. Both gradients are forward convolutions in disguise, and are written as such here:

- by the input: the output's gradient convolved with the flipped kernel;
- by the weight: the input convolved with the output's gradient *as the kernel*, sample by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from phcc_model.sparse import Layout, gather, hide, scatter

GROUPS = (16, 24, 8)
"""Channels convolved together, the first of these that divides all: few, so that neighbours lie close in memory,
and a multiple of the vector's width."""
SMALL_MAP = 1 << 16
"""A sample's map of fewer numbers is in the cache as it is, and is convolved whole."""


def depthwise(x_ntc: Tensor, weight: Tensor, bias_c: Tensor, layout: Layout) -> Tensor:
    """Convolve tokens on their canvas with one kernel per channel, zero padding, zeros at masked cells.

    Args:
        x_ntc: tokens.
        weight: [c, 1, kd, kh, kw], odd kernels.
        bias_c: added to every token.
        layout: where the tokens lie; `layout.fast` chooses this file's kernels, in float32 under autocast.

    Returns:
        Tokens [n, t, c].
    """
    seen_ntc = hide(x_ntc, layout)
    if layout.fast:
        return _fast_depthwise(seen_ntc, weight, bias_c, layout)
    # On a CPU with bfloat16 instructions torch's own kernel gives a wrong weight gradient in bfloat16 (seen with
    # torch 2.13 on AVX512_BF16: off by its whole length), so the CPU stays in float32 here.
    on_cpu = seen_ntc.device.type == "cpu"
    with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not on_cpu):
        canvas_ncdhw = scatter(seen_ntc.to(weight.dtype) if on_cpu else seen_ntc, layout)
        maps = F.conv3d(canvas_ncdhw, weight, bias_c, padding="same", groups=len(weight))
    return gather(maps, layout)


class _Depthwise(torch.autograd.Function):
    """Scatter, convolve, gather as one function, so that nothing but the canvas is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x_ntc: Tensor, weight: Tensor, bias_c: Tensor, layout: Layout) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            canvases = _canvases(x_ntc.to(weight.dtype), layout)
            ctx.save_for_backward(weight, *canvases)
            ctx.layout = layout
            return _convolve(canvases, weight, bias_c, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        weight, *canvases = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        with torch.autocast("cpu", enabled=False):
            pulls = _canvases(grads[0], ctx.layout)
            if ctx.needs_input_grad[0]:
                by_x = _convolve(pulls, weight.flip(2, 3, 4), None, ctx.layout)
            if ctx.needs_input_grad[1]:
                pairs = zip(canvases, pulls, strict=True)
                by_weight = torch.cat([weight_gradient(x, g, weight.shape[2:]) for x, g in pairs])
            if ctx.needs_input_grad[2]:
                by_bias = grads[0].sum((0, 1))
        return by_x, by_weight, by_bias, None


_fast_depthwise: Callable[..., Tensor] = _Depthwise.apply


def weight_gradient(x_ncdhw: Tensor, g_ncdhw: Tensor, kernel: torch.Size) -> Tensor:
    """The gradient by the depthwise kernel: depthwise *forward* convolutions whose kernel is `g_ncdhw`.

    Sample by sample, which is faster than the samples side by side as channels: one sample stays in the cache.

    Args:
        x_ncdhw: input, channels last in memory.
        g_ncdhw: gradient of the output, same shape.
        kernel: odd sizes (kd, kh, kw).

    Returns:
        [c, 1, kd, kh, kw].
    """
    c = x_ncdhw.shape[1]
    padding = [size // 2 for size in kernel]
    taps_nc1dhw = g_ncdhw.contiguous()[:, :, None]
    total = x_ncdhw.new_zeros(1, c, *kernel)
    for x_1cdhw, taps in zip(torch.split(x_ncdhw, 1), taps_nc1dhw, strict=True):
        total += F.conv3d(x_1cdhw, taps, None, 1, padding, 1, c)
    return total.transpose(0, 1)


def _canvases(x_ntc: Tensor, layout: Layout) -> list[Tensor]:
    """The maps of each group of channels, channels last in memory."""
    channels = x_ntc.shape[2]
    group = channels
    if channels * math.prod(layout.canvas) >= SMALL_MAP:
        group = next((size for size in GROUPS if channels % size == 0), channels)
    return [scatter(part.contiguous(), layout) for part in torch.split(x_ntc, group, 2)]


def _convolve(canvases: list[Tensor], weight: Tensor, bias_c: Tensor | None, layout: Layout) -> Tensor:
    """The tokens of the convolved maps."""
    padding = [size // 2 for size in weight.shape[2:]]
    tokens, start = [], 0
    for canvas in canvases:
        part = slice(start, start + canvas.shape[1])
        bias = None if bias_c is None else bias_c[part]
        tokens.append(gather(F.conv3d(canvas, weight[part], bias, 1, padding, 1, canvas.shape[1]), layout))
        start = part.stop
    return torch.cat(tokens, 2)
