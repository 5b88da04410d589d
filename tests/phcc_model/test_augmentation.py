from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phcc_model.augmentation import along_slices, augment, flip, hide_phases, moved
from phcc_model.config import AugmentationSettings

GRID = (4, 12, 16)
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings

NOTHING = AugmentationSettings(
    flip=False, rotation_degrees=0, scale=0, shift_voxels=0, intensity=0, noise=0, phase_dropout=0
)
GEOMETRY = AugmentationSettings(intensity=0, noise=0, phase_dropout=0)

presence = st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=5)
seeds = st.integers(0, 2**62)


def cases(present: list[list[bool]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes, presence and an off-centre lesion; zeros where a phase is missing."""
    present_bp = torch.tensor(present)
    source = torch.Generator().manual_seed(seed)
    volumes = torch.randn((*present_bp.shape, *GRID), generator=source) * present_bp[:, :, None, None, None]
    lesion = torch.zeros((len(present), *GRID))
    lesion[:, 1:3, 2:7, 6:13] = 1.0
    return volumes, present_bp, lesion


@settings(deadline=None, max_examples=40)
@given(present=presence, seed=seeds)
def test_missing_phases_stay_zero_and_one_phase_always_remains(present: list[list[bool]], seed: int) -> None:
    volumes, present_bp, lesion = cases(present)
    hard = AugmentationSettings(phase_dropout=0.7)
    moved, there_bp, mask = augment(volumes, present_bp, lesion, hard, seed)
    assert not (there_bp & ~present_bp).any()
    assert there_bp.any(dim=1).all()
    assert torch.equal(moved.flatten(2).abs().sum(2) > 0, there_bp)
    assert bool(((mask == 0.0) | (mask == 1.0)).all())


@settings(deadline=None, max_examples=40)
@given(seed=seeds)
def test_lesion_stays_aligned_with_the_image_and_with_every_phase(seed: int) -> None:
    _, present_bp, lesion = cases([[True] * 4] * 3)
    volumes = lesion[:, None].expand(-1, 4, -1, -1, -1).contiguous()
    moved, _, mask = augment(volumes, present_bp, lesion, GEOMETRY, seed)
    for phase in range(4):
        assert torch.equal((moved[:, phase] >= 0.5).float(), mask)
    assert mask.sum() > 0


def test_the_same_seed_gives_the_same_bits_and_leaves_the_arguments() -> None:
    volumes, present_bp, lesion = cases([[True] * 4, [True, False, True, False]])
    held = [x.clone() for x in (volumes, present_bp, lesion)]
    first = augment(volumes, present_bp, lesion, AugmentationSettings(), 5)
    torch.manual_seed(99)
    again = augment(volumes, present_bp, lesion, AugmentationSettings(), 5)
    other = augment(volumes, present_bp, lesion, AugmentationSettings(), 6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(torch.equal(a, b) for a, b in zip((volumes, present_bp, lesion), held, strict=True))


def test_nothing_asked_for_nothing_done() -> None:
    volumes, present_bp, lesion = cases([[True, True, False, True]])
    moved, there_bp, mask = augment(volumes, present_bp, lesion, NOTHING, 1)
    assert torch.equal(moved, volumes)
    assert torch.equal(there_bp, present_bp)
    assert torch.equal(mask, lesion)


def test_flips_are_exact_and_every_one_of_eight_occurs() -> None:
    volume = torch.randn(1, 2, *GRID, generator=torch.Generator().manual_seed(0))
    mirrored = [volume[0].flip([axis + 1 for axis in range(3) if code >> axis & 1]) for code in range(8)]
    flipped = flip(volume.expand(64, -1, -1, -1, -1), torch.Generator().manual_seed(1))
    matches = [[torch.equal(case, candidate) for candidate in mirrored] for case in flipped]
    assert all(sum(row) == 1 for row in matches)
    assert all(any(row[code] for row in matches) for code in range(8))


@settings(deadline=None, max_examples=25)
@given(angle=st.floats(-0.5, 0.5), zoom=st.floats(0.8, 1.2), shift=st.floats(-0.3, 0.3))
def test_two_interpolations_in_turn_are_the_three_dimensional_one(
    angle: float, zoom: float, shift: float
) -> None:
    volumes, _, _ = cases([[True] * 4])
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    plane = [[c, -s, shift], [s, c, -shift]]
    theta = torch.tensor([[[*row[:2], 0.0, row[2]] for row in plane] + [[0.0, 0.0, zoom, shift / 2]]])
    whole = F.grid_sample(
        volumes,
        F.affine_grid(theta, list(volumes.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    sliced = along_slices(volumes, torch.tensor([zoom]), torch.tensor([shift / 2]))
    flat = sliced.flatten(1, 2)
    grid = F.affine_grid(torch.tensor([plane]), list(flat.shape), align_corners=False)
    turned = F.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(volumes)
    torch.testing.assert_close(turned, whole, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=30)
@given(seed=seeds)
def test_a_moved_case_is_the_same_case_elsewhere(seed: int) -> None:
    """One whole-voxel move for all channels of a case, drawn case by case; nothing is lost or made."""
    x_bcdhw = torch.arange(6 * 2 * math.prod(GRID), dtype=torch.float32).view(6, 2, *GRID)
    steps = set()
    for before, after in zip(x_bcdhw, moved(x_bcdhw, seed), strict=True):
        by = [int(at) for at in (after[0] == before[0, 0, 0, 0]).nonzero()[0]]
        assert torch.equal(after, before.roll(by, (1, 2, 3)))
        steps.add(tuple(by))
    assert len(steps) > 1
    assert torch.equal(moved(x_bcdhw, seed), moved(x_bcdhw, seed))


def test_moves_reach_every_place_alike() -> None:
    x_bcdhw = torch.zeros(4000, 1, *GRID)
    x_bcdhw[:, 0, 0, 0, 0] = 1.0
    at_n3 = moved(x_bcdhw, 0)[:, 0].nonzero()[:, 1:]
    assert len(at_n3) == 4000
    for axis, size in enumerate(GRID):
        share = torch.bincount(at_n3[:, axis], minlength=size) / len(at_n3)
        assert float((share - 1.0 / size).abs().max()) < 0.03


def test_rotation_keeps_a_disc_round_on_an_oblong_crop() -> None:
    height, width = 24, 48
    y, x = torch.meshgrid(torch.arange(height) - 11.5, torch.arange(width) - 23.5, indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 18.0).expand(1, 1, 2, -1, -1).contiguous()
    turn = NOTHING.model_copy(update={"rotation_degrees": 45.0})
    present = torch.ones(1, 1, dtype=torch.bool)
    for seed in range(4):
        moved, _, _ = augment(disc, present, torch.zeros(1, 2, height, width), turn, seed)
        assert (moved - disc).abs().max() < 0.04


def test_shift_moves_by_no_more_than_asked_for() -> None:
    volumes = torch.zeros(64, 1, 4, 16, 16)
    volumes[:, :, :, 8, 8] = 1.0
    shift = NOTHING.model_copy(update={"shift_voxels": 2.0})
    present = torch.ones(64, 1, dtype=torch.bool)
    moved, _, _ = augment(volumes, present, torch.zeros(64, 4, 16, 16), shift, 3)
    weight = moved.sum(dim=(1, 2))
    at_row = (weight.sum(2) * torch.arange(16)).sum(1) / weight.sum((1, 2))
    distance = (at_row - 8).abs()
    assert distance.max() <= 2.0
    assert distance.max() > 1.5


def test_gain_offset_and_noise_are_drawn_per_phase_in_the_size_asked_for() -> None:
    flat = torch.ones(200, 4, 2, 8, 8)
    present, lesion = torch.ones(200, 4, dtype=torch.bool), torch.zeros(200, 2, 8, 8)
    toned = NOTHING.model_copy(update={"intensity": 0.08})
    moved, _, _ = augment(flat, present, lesion, toned, 0)
    level = moved.mean(dim=(2, 3, 4))
    assert moved.std(dim=(2, 3, 4)).max() < 1e-6
    # Gain and offset on a height of one: two independent draws of sd 0.08.
    assert level.std().item() == pytest.approx(0.08 * math.sqrt(2), rel=0.1)
    assert torch.corrcoef(level.T).triu(1).abs().max() < 0.3
    noisy, _, _ = augment(flat, present, lesion, NOTHING.model_copy(update={"noise": 0.03}), 0)
    assert (noisy - 1).std().item() == pytest.approx(0.03, rel=0.05)


def test_phases_are_hidden_as_often_as_asked_for() -> None:
    present = torch.ones(4000, 4, dtype=torch.bool)
    kept = hide_phases(present, 0.25, torch.Generator().manual_seed(0))
    assert (~kept).float().mean().item() == pytest.approx(0.25, abs=0.02)
    everything = hide_phases(present, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(everything.sum(1), torch.ones(4000, dtype=torch.int64))
