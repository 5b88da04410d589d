from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from phcc_client.imaging.geometry import (
    Placement,
    TurnedPlacement,
    bounding_box,
    centred_box,
    frame_of,
    lay,
)
from phcc_client.imaging.grid import Grid
from phcc_model.config import CropSettings

spacings = st.tuples(st.floats(1.0, 6.0), st.floats(0.5, 2.5), st.floats(0.5, 2.5))
shapes = st.tuples(st.integers(3, 14), st.integers(6, 30), st.integers(6, 30))
shares = st.tuples(*[st.floats(0.0, 1.0)] * 3)


def placed(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    share: tuple[float, float, float],
    crop: CropSettings,
) -> Placement:
    """The crop about a place anywhere in the volume, its very edges included."""
    centre = np.array(share) * (np.array(shape) - 1)
    return Placement.around(centre, shape, np.array(spacing), crop)


def millimetres(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """(3, d, h, w): where every voxel of a volume lies."""
    return np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    )


@settings(max_examples=40, deadline=None)
@given(shape=shapes, spacing=spacings, share=shares, target=spacings, axis=st.integers(0, 2))
def test_a_ramp_in_mm_lands_where_it_should(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    share: tuple[float, float, float],
    target: tuple[float, float, float],
    axis: int,
) -> None:
    crop = CropSettings(size=(6, 8, 10), spacing_mm=target)
    at = placed(shape, spacing, share, crop)
    ramp = millimetres(shape, spacing)[axis].astype(np.float32)
    sampled = at.sample(ramp[at.region])
    centre_mm = share[axis] * (shape[axis] - 1) * spacing[axis]
    steps = np.arange(crop.size[axis]) - (crop.size[axis] - 1) / 2
    expected = np.clip(centre_mm + steps * target[axis], 0, (shape[axis] - 1) * spacing[axis])
    along = np.moveaxis(sampled, axis, -1)
    np.testing.assert_allclose(along, np.broadcast_to(expected, along.shape), atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, spacing=spacings, share=shares, target=spacings, seed=st.integers(0, 99))
def test_reading_the_region_only_changes_nothing(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    share: tuple[float, float, float],
    target: tuple[float, float, float],
    seed: int,
) -> None:
    crop = CropSettings(size=(5, 6, 7), spacing_mm=target)
    at = placed(shape, spacing, share, crop)
    volume = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    places = np.stack(np.meshgrid(*[at.at(a) for a in range(3)], indexing="ij"))
    whole = map_coordinates(volume.astype(np.float64), places, order=1, mode="nearest")
    np.testing.assert_allclose(at.sample(volume[at.region]), whole, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    spacing=st.tuples(st.floats(1.0, 4.0), st.floats(0.6, 2.0), st.floats(0.6, 2.0)),
    offset_mm=st.tuples(*[st.floats(-4.0, 4.0)] * 3),
    share=shares,
)
def test_a_blob_off_the_box_s_centre_lands_within_a_tenth_of_a_voxel(
    spacing: tuple[float, float, float],
    offset_mm: tuple[float, float, float],
    share: tuple[float, float, float],
) -> None:
    crop = CropSettings(size=(16, 24, 24), spacing_mm=(2.0, 1.5, 1.5))
    shape = tuple(math.ceil(60 / s) for s in spacing)
    volume_mm = np.array(shape) * np.array(spacing)
    centre_mm = 16 + np.array(share) * (volume_mm - 32)  # the blob is whole, the crop may well be cut off
    places = millimetres((shape[0], shape[1], shape[2]), spacing)
    away = places - (centre_mm + np.array(offset_mm))[:, None, None, None]
    blob = np.exp(-0.5 * (away**2).sum(axis=0) / 2.5**2).astype(np.float32)
    at = Placement.around(
        centre_mm / np.array(spacing), (shape[0], shape[1], shape[2]), np.array(spacing), crop
    )
    sampled = at.sample(blob[at.region]).astype(np.float64)
    weight = sampled / sampled.sum()
    found = [(weight * index).sum() for index in np.indices(crop.size)]
    expected = (np.array(crop.size) - 1) / 2 + np.array(offset_mm) / np.array(crop.spacing_mm)
    np.testing.assert_allclose(found, expected, atol=0.1)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, spacing=spacings, share=shares)
def test_padding_is_told_from_image_and_repeats_its_edge(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], share: tuple[float, float, float]
) -> None:
    at = placed(shape, spacing, share, CropSettings(size=(8, 8, 8), spacing_mm=(4.0, 2.0, 2.0)))
    inside = at.inside_dhw
    volume = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    sampled = at.sample(volume[at.region])
    assert sampled.min() >= volume.min() - 1e-5
    assert sampled.max() <= volume.max() + 1e-5
    for axis in range(3):
        places = at.at(axis)
        within = (places >= -0.5) & (places <= shape[axis] - 0.5)
        others = tuple(a for a in range(3) if a != axis)
        assert np.array_equal(inside.any(axis=others), within & inside.any())
        before = np.flatnonzero(places < 0)
        if len(before) > 1:
            first, last = np.take(sampled, before[0], axis), np.take(sampled, before[-1], axis)
            np.testing.assert_allclose(first, last, atol=1e-5)


def test_a_fitted_image_fills_the_crop_and_an_equal_one_is_left_alone() -> None:
    crop = CropSettings(size=(4, 6, 8), spacing_mm=(1.0, 1.0, 1.0))
    volume = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    at = Placement.fitted((4, 6, 8), crop)
    assert np.array_equal(at.sample(volume[at.region]), volume)
    double = np.repeat(np.repeat(np.repeat(volume, 2, 0), 2, 1), 2, 2)
    at = Placement.fitted((8, 12, 16), crop)
    np.testing.assert_allclose(at.sample(double[at.region]), volume, atol=1e-6)
    assert at.inside_dhw.all()


angles = st.tuples(*[st.floats(-180.0, 180.0)] * 3)


def turned_by(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.asarray(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), dtype=np.float64)


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    spacing=spacings,
    share=shares,
    target=spacings,
    turn=angles,
    frame=angles,
    seed=st.integers(0, 99),
)
def test_a_crop_lies_along_its_frame_in_an_image_of_any_orientation(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    share: tuple[float, float, float],
    target: tuple[float, float, float],
    turn: tuple[float, float, float],
    frame: tuple[float, float, float],
    seed: int,
) -> None:
    crop = CropSettings(size=(5, 6, 7), spacing_mm=target)
    rng = np.random.default_rng(seed)
    grid = Grid(shape, turned_by(turn) * np.array(spacing), rng.uniform(-100, 100, 3))
    centre_mm = grid.to_mm(np.array(share) * (np.array(shape) - 1))
    at = lay(centre_mm, grid, turned_by(frame), crop)
    volume = rng.standard_normal(shape).astype(np.float32)
    # Every voxel of the crop by itself: frame, then millimetres, then the image's voxels.
    steps = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in crop.size], indexing="ij"), axis=-1)
    places_mm = centre_mm + (steps * np.array(target)) @ turned_by(frame).T
    places = (places_mm - grid.origin_mm) @ np.linalg.inv(grid.matrix).T
    expected = map_coordinates(volume, np.moveaxis(places, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(at.sample(volume[at.region]), expected, atol=2e-3)
    within = ((places >= -0.5) & (places <= np.array(shape) - 0.5)).all(axis=-1)
    border = np.abs(np.minimum(places + 0.5, np.array(shape) - 0.5 - places)).min(axis=-1) < 1e-6
    assert np.array_equal(at.inside_dhw[~border], within[~border])


@settings(max_examples=40, deadline=None)
@given(shape=shapes, spacing=spacings, share=shares, target=spacings, turn=angles)
def test_parallel_axes_are_sampled_one_by_one_as_ever(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    share: tuple[float, float, float],
    target: tuple[float, float, float],
    turn: tuple[float, float, float],
) -> None:
    crop = CropSettings(size=(5, 6, 7), spacing_mm=target)
    grid = Grid(shape, turned_by(turn) * np.array(spacing), np.array([5.0, -7.0, 11.0]))
    centre_mm = grid.to_mm(np.array(share) * (np.array(shape) - 1))
    # Cosines that went through a file are not the last bit the same.
    frame = turned_by((turn[0], turn[1], turn[2] + 1e-3))
    at = lay(centre_mm, grid, frame, crop)
    assert isinstance(at, Placement)
    own = Placement.around(grid.to_index(centre_mm), shape, grid.spacing_mm_dhw, crop)
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.array_equal(at.sample(volume[at.region]), own.sample(volume[own.region]))
    assert isinstance(
        lay(centre_mm, grid, turned_by((turn[0], turn[1], turn[2] + 0.2)), crop), TurnedPlacement
    )


def test_axes_that_changed_places_are_sampled_exactly() -> None:
    crop = CropSettings(size=(3, 4, 5), spacing_mm=(2.0, 1.0, 1.5))
    volume = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    grid = Grid((3, 4, 5), np.diag([2.0, 1.0, 1.5]), np.zeros(3))
    # The same voxels, their axes permuted and one of them flipped.
    other = volume.transpose(2, 0, 1)[:, ::-1]
    matrix = np.array([[0.0, -2.0, 0.0], [0.0, 0.0, 1.0], [1.5, 0.0, 0.0]])
    moved = Grid((5, 3, 4), matrix, np.array([4.0, 0.0, 0.0]))
    at = lay(grid.to_mm(np.array([1.0, 1.5, 2.0])), moved, frame_of(grid), crop)
    assert isinstance(at, TurnedPlacement)
    np.testing.assert_allclose(at.sample(np.ascontiguousarray(other[at.region])), volume, atol=1e-6)
    assert np.array_equal(at.sample(np.ascontiguousarray(other[at.region]), nearest=True), volume)
    assert at.inside_dhw.all()


def test_a_turned_crop_beyond_the_image_still_reads_something() -> None:
    grid = Grid((4, 5, 6), turned_by((30.0, 10.0, 0.0)), np.zeros(3))
    at = lay(grid.to_mm(np.array([90.0, -80.0, 70.0])), grid, np.eye(3), CropSettings(size=(4, 4, 4)))
    volume = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    assert volume[at.region].size
    assert np.isfinite(at.sample(volume[at.region])).all()
    assert not at.inside_dhw.any()


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.floats(0.0, 40.0)] * 3))
def test_a_centred_box_has_its_size_to_a_voxel_and_is_symmetric(sizes: tuple[float, float, float]) -> None:
    crop = CropSettings(size=(12, 15, 16), spacing_mm=(3.0, 1.6, 1.5))
    box = centred_box(np.array(sizes), crop)
    assert np.array_equal(box, box[::-1, ::-1, ::-1])
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        voxels = int(box.any(axis=others).sum())
        expected = min(max(sizes[axis] / crop.spacing_mm[axis], 1), crop.size[axis])
        assert voxels >= 1
        assert abs(voxels - expected) <= 1 + 1e-9


@pytest.mark.parametrize("empty", [True, False])
def test_the_bounding_box_of_a_mask(empty: bool) -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    if empty:
        assert bounding_box(mask) is None
        return
    mask[1, 2, 3] = mask[3, 2, 6] = True
    box = bounding_box(mask)
    assert box is not None
    assert (box.low_dhw, box.high_dhw) == ((1, 2, 3), (4, 3, 7))
