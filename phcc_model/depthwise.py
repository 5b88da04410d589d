"""Depthwise 3-D convolution of tokens, exact and fast on the CPU.

oneDNN has no backward kernel for 3-D depthwise convolutions; torch then falls back to one that is many times
slower than the forward. Both gradients are forward convolutions in disguise, and are written as such here:

- by the input: the output's gradient convolved with the flipped kernel;
- by the weight: the input convolved with the output's gradient *as the kernel*, sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from phcc_model.sparse import Layout, gather, hide, scatter

CHUNK_BYTES = 1 << 20
"""In the weight's gradient, samples are taken together while their maps stay below this: within the cache."""


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
    canvas_ncdhw = scatter(seen_ntc, layout)
    return gather(F.conv3d(canvas_ncdhw, weight, bias_c, padding="same", groups=len(weight)), layout)


class _Depthwise(torch.autograd.Function):
    """Scatter, convolve, gather as one function, so that nothing but the canvas is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x_ntc: Tensor, weight: Tensor, bias_c: Tensor, layout: Layout) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            canvas_ncdhw = scatter(x_ntc.to(weight.dtype), layout)
            ctx.save_for_backward(canvas_ncdhw, weight)
            ctx.layout = layout
            return gather(_convolve(canvas_ncdhw, weight, bias_c), layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        canvas_ncdhw, weight = ctx.saved_tensors
        by_x = by_weight = by_bias = None
        with torch.autocast("cpu", enabled=False):
            g_ncdhw = scatter(grads[0], ctx.layout)
            if ctx.needs_input_grad[0]:
                by_x = gather(_convolve(g_ncdhw, weight.flip(2, 3, 4), None), ctx.layout)
            if ctx.needs_input_grad[1]:
                by_weight = weight_gradient(canvas_ncdhw, g_ncdhw, weight.shape[2:])
            if ctx.needs_input_grad[2]:
                by_bias = grads[0].sum((0, 1))
        return by_x, by_weight, by_bias, None


_fast_depthwise: Callable[..., Tensor] = _Depthwise.apply


def weight_gradient(x_ncdhw: Tensor, g_ncdhw: Tensor, kernel: torch.Size) -> Tensor:
    """The gradient by the depthwise kernel, as depthwise *forward* convolutions whose kernel is `g_ncdhw`.

    The samples of a chunk stand side by side as channels; few enough that their maps stay in the cache.

    Args:
        x_ncdhw: input, channels last in memory.
        g_ncdhw: gradient of the output, same shape.
        kernel: odd sizes (kd, kh, kw).

    Returns:
        [c, 1, kd, kh, kw].
    """
    n, c, d, h, w = x_ncdhw.shape
    chunk = max(1, CHUNK_BYTES // (x_ncdhw[0].numel() * x_ncdhw.element_size()))
    kernels = g_ncdhw.contiguous()
    padding = [size // 2 for size in kernel]
    total = x_ncdhw.new_zeros(c, *kernel)
    for start in range(0, n, chunk):
        part = x_ncdhw[start : start + chunk]
        channels = len(part) * c
        side_by_side = part.permute(2, 3, 4, 0, 1).reshape(1, d, h, w, channels).permute(0, 4, 1, 2, 3)
        taps = kernels[start : start + chunk].view(channels, 1, d, h, w)
        total += F.conv3d(side_by_side, taps, None, 1, padding, 1, channels).view(-1, c, *kernel).sum(0)
    return total[:, None]


def _convolve(x_ncdhw: Tensor, weight: Tensor, bias_c: Tensor | None) -> Tensor:
    padding = [size // 2 for size in weight.shape[2:]]
    return F.conv3d(x_ncdhw, weight, bias_c, 1, padding, 1, len(weight))
