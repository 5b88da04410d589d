"""Which cells of a volume the encoder sees, and volumes cut into patches."""

from __future__ import annotations

import torch
from torch import Tensor

from phcc_model.errors import ConfigError
from phcc_model.sparse import Triple


def grid_of(size: Triple, patch: Triple) -> Triple:
    """Cells along D, H, W of a volume of `size` voxels.

    Raises:
        ConfigError: the size is not a multiple of the patch.
    """
    grid = _whole(size, patch)
    if grid is None:
        raise ConfigError(
            f"a volume of {'x'.join(map(str, size))} voxels cannot be cut into patches of "
            f"{'x'.join(map(str, patch))}",
            where="model",
            remedy="choose a crop whose size is a multiple of the patch (stem times all downsample steps)",
        )
    return grid


def _whole(size: Triple, unit: Triple) -> Triple | None:
    """How many units along D, H, W; None where they do not fit."""
    if any(s % u for s, u in zip(size, unit, strict=True)):
        return None
    d, h, w = (s // u for s, u in zip(size, unit, strict=True))
    return d, h, w


def visible_count(grid: Triple, ratio: float) -> int:
    """Cells that stay visible: (1 - ratio) of them, to the nearest, never none and never all.

    Raises:
        ConfigError: the grid has one cell only.
    """
    cells = grid[0] * grid[1] * grid[2]
    if cells < 2:
        raise ConfigError(
            "the volume is a single patch, nothing can be masked",
            where="model",
            remedy="choose a smaller stem or downsample step, or a larger crop",
        )
    return min(max(round(cells * (1.0 - ratio)), 1), cells - 1)


def draw_visible(
    n: int, grid: Triple, ratio: float, generator: torch.Generator, block: Triple = (1, 1, 1)
) -> Tensor:
    """Random masks, drawn per sample, with exactly the same number of visible cells in each [F: FCMAE].

    Args:
        n: samples.
        grid: cells along D, H, W.
        ratio: share of the cells to hide.
        generator: a CPU generator; the same state gives the same masks.
        block: cells along D, H, W that are hidden or seen together [R]: where cells are small, a hidden one
            is guessed from its neighbours.

    Returns:
        bool [n, d, h, w], True where a cell is visible.

    Raises:
        ConfigError: the grid has one cell or block only, or is not a multiple of the block.
    """
    if block != (1, 1, 1):
        visible = draw_visible(n, _blocks(grid, block), ratio, generator)
        for axis, times in enumerate(block, start=1):
            visible = visible.repeat_interleave(times, axis)
        return visible
    count = visible_count(grid, ratio)
    cells = grid[0] * grid[1] * grid[2]
    order_nk = torch.rand(n, cells, generator=generator).argsort(dim=1, stable=True)[:, :count]
    visible_nk = torch.zeros(n, cells, dtype=torch.bool).scatter_(1, order_nk, True)
    return visible_nk.view(n, *grid)


def _blocks(grid: Triple, block: Triple) -> Triple:
    counts = _whole(grid, block)
    if counts is None:
        raise ConfigError(
            f"a grid of {'x'.join(map(str, grid))} cells cannot be cut into blocks of "
            f"{'x'.join(map(str, block))}",
            where="pretrain.mask_block",
            remedy="choose numbers that divide the grid (the crop by the patch)",
        )
    return counts


def patchify(x_bcdhw: Tensor, patch: Triple) -> Tensor:
    """Cut volumes into patches: [B, C, D, H, W] to [B, cells, C * voxels], cells in row order.

    Raises:
        ConfigError: the size is not a multiple of the patch.
    """
    b, c = x_bcdhw.shape[:2]
    gd, gh, gw = grid_of((x_bcdhw.shape[2], x_bcdhw.shape[3], x_bcdhw.shape[4]), patch)
    pd, ph, pw = patch
    cut = x_bcdhw.reshape(b, c, gd, pd, gh, ph, gw, pw).permute(0, 2, 4, 6, 1, 3, 5, 7)
    return cut.reshape(b, gd * gh * gw, c * pd * ph * pw)


def unpatchify(patches_bkv: Tensor, grid: Triple, patch: Triple) -> Tensor:
    """Put patches back: [B, cells, C * voxels] to [B, C, D, H, W]; the inverse of `patchify`."""
    b = len(patches_bkv)
    (gd, gh, gw), (pd, ph, pw) = grid, patch
    laid = patches_bkv.reshape(b, gd, gh, gw, -1, pd, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return laid.reshape(b, -1, gd * pd, gh * ph, gw * pw)
