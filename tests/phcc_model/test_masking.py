"""Masks have exactly the size asked for, are drawn per sample, and patches go back together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Triple, grids, seeds, strides

from phcc_model.errors import ConfigError
from phcc_model.masking import draw_visible, grid_of, patchify, unpatchify, visible_count


@settings(max_examples=50, deadline=None)
@given(grid=grids, ratio=st.floats(0.01, 0.99), n=st.integers(1, 5), seed=seeds)
def test_every_sample_has_exactly_the_same_number_of_visible_cells(
    grid: Triple, ratio: float, n: int, seed: int
) -> None:
    visible = draw_visible(n, grid, ratio, torch.Generator().manual_seed(seed))
    cells = grid[0] * grid[1] * grid[2]
    count = visible_count(grid, ratio)
    assert visible.dtype == torch.bool
    assert visible.shape == (n, *grid)
    assert (visible.flatten(1).sum(1) == count).all()
    assert 1 <= count < cells
    assert (
        abs(count - (1.0 - ratio) * cells)
        <= max(0.5, 1.0 - (1.0 - ratio) * cells, 1.0 - ratio * cells) + 1e-9
    )


def test_masks_differ_between_samples_and_are_a_function_of_the_generator() -> None:
    a = draw_visible(8, (4, 6, 6), 0.6, torch.Generator().manual_seed(1))
    assert torch.equal(a, draw_visible(8, (4, 6, 6), 0.6, torch.Generator().manual_seed(1)))
    assert not torch.equal(a, draw_visible(8, (4, 6, 6), 0.6, torch.Generator().manual_seed(2)))
    assert len({tuple(row) for row in a.flatten(1).int().tolist()}) == 8


def test_every_cell_is_visible_as_often_as_any_other() -> None:
    share = draw_visible(4000, (2, 3, 4), 0.6, torch.Generator().manual_seed(0)).double().mean(0)
    expected = visible_count((2, 3, 4), 0.6) / 24
    assert float((share - expected).abs().max()) < 4.5 * (expected * (1 - expected) / 4000) ** 0.5


@settings(max_examples=30, deadline=None)
@given(grid=grids, patch=strides, b=st.integers(1, 2), c=st.integers(1, 3), seed=seeds)
def test_patches_go_back_together(grid: Triple, patch: Triple, b: int, c: int, seed: int) -> None:
    size = [g * p for g, p in zip(grid, patch, strict=True)]
    x = torch.randn(b, c, *size, generator=torch.Generator().manual_seed(seed))
    patches = patchify(x, patch)
    assert patches.shape == (b, grid[0] * grid[1] * grid[2], c * patch[0] * patch[1] * patch[2])
    assert torch.equal(unpatchify(patches, grid, patch), x)


def test_a_patch_holds_the_voxels_of_its_own_cell() -> None:
    x = torch.arange(2 * 4 * 6 * 8).view(1, 2, 4, 6, 8)
    patches = patchify(x, (2, 3, 4))
    last = patches.view(1, 2, 2, 2, 2, 2, 3, 4)[0, 1, 0, 1]
    assert torch.equal(last, x[0, :, 2:4, 0:3, 4:8])


def test_what_cannot_be_masked_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"12x50x48 voxels.*2x8x8.*multiple of the patch"):
        grid_of((12, 50, 48), (2, 8, 8))
    with pytest.raises(ConfigError, match="single patch"):
        visible_count((1, 1, 1), 0.6)


@given(
    n=st.integers(1, 4),
    blocks=st.tuples(*(st.integers(1, 4) for _ in range(3))).filter(lambda b: b != (1, 1, 1)),
    block=st.tuples(*(st.integers(1, 3) for _ in range(3))),
    seed=st.integers(0, 99),
)
def test_a_block_is_hidden_or_seen_as_a_whole(
    n: int, blocks: tuple[int, int, int], block: tuple[int, int, int], seed: int
) -> None:
    grid = (blocks[0] * block[0], blocks[1] * block[1], blocks[2] * block[2])
    visible = draw_visible(n, grid, 0.6, torch.Generator().manual_seed(seed), block)
    drawn = draw_visible(n, blocks, 0.6, torch.Generator().manual_seed(seed))
    assert visible.shape == (n, *grid)
    for axis, times in enumerate(block, start=1):
        drawn = drawn.repeat_interleave(times, axis)
    assert torch.equal(visible, drawn)


def test_a_block_that_does_not_divide_the_grid_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"mask_block: a grid of 6x12x12 cells cannot be cut into blocks of 1x5x2"
    ):
        draw_visible(1, (6, 12, 12), 0.6, torch.Generator(), (1, 5, 2))
