"""Where the tokens of a stage lie: on a dense map, or packed, the visible cells only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """Where the tokens `x_ntc` of one stage lie on each sample's canvas.

    Attributes:
        canvas: tokens of the dense map along D, H, W.
        bricks: number and size (D, H, W) of the bricks in which the tokens stand in memory: one per sample
            when dense, one per visible cell when packed. Strided layers (kernel = stride) work by bricks.
        rows: packed only: the row of each token in the dense maps of all samples, [n * t] int64.
        mask_nt1: masked dense only: 1 at tokens of visible cells, 0 elsewhere.
        fast: whether to use this package's CPU kernels instead of torch's own.
    """

    canvas: Triple
    bricks: tuple[int, int, int, int]
    rows: Tensor | None
    mask_nt1: Tensor | None
    fast: bool


def dense_layout(samples: int, grid: Triple, cell: Triple, visible_ndhw: Tensor | None, fast: bool) -> Layout:
    """Every token of the map, row by row; masked cells, if there are any, by a mask.

    Args:
        samples: n.
        grid: cells along D, H, W.
        cell: tokens of a cell along D, H, W.
        visible_ndhw: True at the visible cells, or None if all are.
        fast: whether to use this package's CPU kernels.
    """
    d, h, w = (g * c for g, c in zip(grid, cell, strict=True))
    mask = None
    if visible_ndhw is not None:
        mask = visible_ndhw.to(torch.get_default_dtype())
        for axis, times in enumerate(cell, start=1):
            mask = mask.repeat_interleave(times, axis)
        mask = mask.reshape(samples, d * h * w, 1)
    return Layout((d, h, w), (samples, d, h, w), None, mask, fast)


def packed_layout(grid: Triple, cell: Triple, visible_ndhw: Tensor, fast: bool) -> Layout:
    """The tokens of visible cells only, cell after cell (cells in row order, so are the tokens of each).

    Args:
        grid: cells along D, H, W.
        cell: tokens of a cell along D, H, W.
        visible_ndhw: True at the visible cells, the same number for each sample.
        fast: whether to use this package's CPU kernels.
    """
    d, h, w = (g * c for g, c in zip(grid, cell, strict=True))
    at = visible_ndhw.nonzero()
    steps = [torch.arange(c, device=at.device) for c in cell]
    dd = (at[:, 1, None] * cell[0] + steps[0])[:, :, None, None]
    hh = (at[:, 2, None] * cell[1] + steps[1])[:, None, :, None]
    ww = (at[:, 3, None] * cell[2] + steps[2])[:, None, None, :]
    rows = ((at[:, 0, None, None, None] * d + dd) * h + hh) * w + ww
    return Layout((d, h, w), (len(at), *cell), rows.reshape(-1), None, fast)


def hide(x_ntc: Tensor, layout: Layout) -> Tensor:
    """The tokens with those of masked cells set to zero, where there are any."""
    return x_ntc if layout.mask_nt1 is None else x_ntc * layout.mask_nt1


def scatter(x_ntc: Tensor, layout: Layout) -> Tensor:
    """Tokens as dense maps [n, c, D, H, W], channels last in memory; zero where there is no token."""
    n, _, c = x_ntc.shape
    d, h, w = layout.canvas
    if layout.rows is not None:
        x_ntc = x_ntc.new_zeros(n * d * h * w, c).index_copy(0, layout.rows, x_ntc.reshape(-1, c))
    return x_ntc.reshape(n, d, h, w, c).permute(0, 4, 1, 2, 3)


def gather(x_ncdhw: Tensor, layout: Layout) -> Tensor:
    """The tokens [n, t, c] of dense maps; the way back from `scatter`."""
    n, c = x_ncdhw.shape[:2]
    x_rc = x_ncdhw.permute(0, 2, 3, 4, 1).reshape(-1, c)
    if layout.rows is not None:
        x_rc = x_rc.index_select(0, layout.rows)
    return x_rc.view(n, -1, c)


def spread(x_n: Tensor, present_bp: Tensor) -> Tensor:
    """Rows of the present phases, put back to [b, p, ...], zero elsewhere."""
    out = x_n.new_zeros(present_bp.numel(), *x_n.shape[1:])
    placed = out.index_copy(0, present_bp.flatten().nonzero()[:, 0], x_n)
    return placed.view(*present_bp.shape, *x_n.shape[1:])
