"""NIfTI written for a site: the same bytes always, exact voxels, exact geometry, no text."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.nifti_image import NiftiImage, must_be_finite, nifti_bytes, pixel_digest
from phcc_model.errors import CaseError

SHAPE = (3, 4, 5)
NIBABEL: Any = nibabel


def _turn(angles_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        first, second = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _voxels(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(-50, 3000, SHAPE).astype(np.float32)


angles = st.tuples(*(st.floats(-40, 40) for _ in range(3)))
spacings = st.tuples(*(st.floats(0.4, 8) for _ in range(3)))
origins = st.tuples(*(st.floats(-300, 300) for _ in range(3)))


@settings(max_examples=25, deadline=None)
@given(angles=angles, spacing=spacings, origin=origins, seed=st.integers(0, 99))
def test_what_is_written_is_read_back_in_its_place(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    seed: int,
) -> None:
    grid = Grid.turned(SHAPE, _turn(angles) * np.array(spacing), np.array(origin))
    stored = _voxels(seed)
    turned = np.ascontiguousarray(grid.turn(stored).astype(np.float32))
    path = tmp_path_factory.mktemp("written") / "image.nii.gz"
    path.write_bytes(nifti_bytes(turned, grid))
    again = NiftiImage(path)
    assert np.array_equal(again.read(), turned)
    for corner in np.ndindex(2, 2, 2):
        at = np.array(corner) * (np.array(grid.shape_dhw) - 1)
        assert np.allclose(again.grid.to_mm(at), grid.to_mm(at), atol=1e-3)
        theirs = NIBABEL.load(path).affine @ [*at[::-1], 1.0]  # a second reader: RAS, (x, y, z)
        assert np.allclose(theirs[:3] * [-1, -1, 1], grid.to_mm(at)[::-1], atol=1e-3)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([0, -7, 32767], "<i2"), ([0, 1, 65535], "<u2"), ([0, 1, 70000], "<f4"), ([0, 0.25, 1], "<f4")],
)
def test_whole_numbers_are_kept_as_such_and_nothing_is_rounded(
    tmp_path: Path, values: list[float], kind: str
) -> None:
    volume = np.resize(np.array(values, dtype=np.float32), SHAPE)
    path = tmp_path / "image.nii.gz"
    path.write_bytes(nifti_bytes(volume, Grid.plain(SHAPE, (3.0, 1.0, 1.0))))
    image = NiftiImage(path)
    assert np.dtype(image.header.dtype) == np.dtype(kind)
    assert np.array_equal(image.read(), volume)


def test_the_same_image_gives_the_same_bytes_and_no_word_stands_in_them() -> None:
    grid, volume = Grid.plain(SHAPE, (3.0, 1.0, 1.0)), np.zeros(SHAPE, np.float32)
    packed = nifti_bytes(volume, grid)
    assert packed == nifti_bytes(volume.copy(), grid)
    assert packed[4:8] == b"\0\0\0\0"  # no time
    assert not packed[3] & 0b1000  # no file name
    words = {word for word in gzip.decompress(packed)[:348].replace(b"\0", b" ").split() if len(word) > 3}
    assert not {word for word in words if word.isalpha()}


def test_the_digest_of_pixels_knows_neither_name_nor_place() -> None:
    volume = _voxels(1)
    here, there = (
        Grid(SHAPE, np.diag([3.0, 1, 1]), np.array(o, dtype=float)) for o in ((0, 0, 0), (9, 9, 9))
    )
    assert pixel_digest(volume, here) == pixel_digest(volume.copy(), there)
    assert pixel_digest(volume, here) != pixel_digest(volume + 1, here)
    assert pixel_digest(volume, here) != pixel_digest(volume, Grid.plain(SHAPE, (2.0, 1.0, 1.0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(bad: float) -> None:
    volume = _voxels(2)
    must_be_finite(volume, "here")
    volume[1, 2, 3] = bad
    with pytest.raises(CaseError, match="1 voxels are not numbers"):
        must_be_finite(volume, "here")
