"""Volumes in space: any order of files, any orientation, and what cannot be trusted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import Place, place, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.dicom_files import scan
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Series

VOLUME = np.arange(6 * 5 * 4, dtype=np.uint16).reshape(6, 5, 4)


def read(folder: Path) -> list[Series]:
    return [series for exam in examinations(scan(folder)) for series in exam.series]


def only(folder: Path) -> Series:
    (series,) = read(folder)
    return series


def voxels_in_space(array: NDArray[np.float32], grid: Grid) -> dict[tuple[float, ...], float]:
    """Millimetres (z, y, x), rounded to a hundredth, to value."""
    return {
        tuple(np.round(grid.to_mm(np.array(index, dtype=float)), 2).tolist()): float(value)
        for index, value in np.ndenumerate(array)
    }


def expected(volume: NDArray[Any], at: Place) -> dict[tuple[float, ...], float]:
    return {
        tuple(np.round(at.origin_mm + at.matrix @ np.array(index, dtype=float), 2).tolist()): float(value)
        for index, value in np.ndenumerate(volume)
    }


def close(found: Mapping[tuple[float, ...], float], want: Mapping[tuple[float, ...], float]) -> bool:
    def ordered(space: Mapping[tuple[float, ...], float]) -> NDArray[np.float64]:
        return np.array([(*key, value) for key, value in sorted(space.items(), key=lambda item: item[1])])

    return len(found) == len(want) and bool(np.abs(ordered(found) - ordered(want)).max() < 0.02)


@pytest.mark.parametrize("axes", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("multiframe", [False, True])
def test_every_voxel_lies_where_it_was_measured(tmp_path: Path, axes: str, multiframe: bool) -> None:
    at = place((2.5, 1.25, 0.75), (-31.0, 12.5, 70.0), axes=axes, turned_deg=(7.0, -12.0, 3.0))
    write_series(tmp_path, VOLUME, at=at, multiframe=multiframe)
    series = only(tmp_path)
    assert series.defect == ""
    assert series.image is not None
    assert close(voxels_in_space(series.image.read(), series.image.grid), expected(VOLUME, at))
    assert sorted(series.image.grid.spacing_mm_dhw.round(6)) == [0.75, 1.25, 2.5]
    assert series.image.grid.matrix.diagonal().min() > 0  # axes turned to the patient's


def test_an_upside_down_series_is_the_same_volume(tmp_path: Path) -> None:
    at = place()
    write_series(tmp_path / "up", VOLUME, at=at, series="1")
    down = Place(at.matrix * [-1.0, 1.0, 1.0], at.origin_mm + at.matrix[:, 0] * 5)
    write_series(tmp_path / "down", VOLUME[::-1], at=down, series="2")
    up, other = read(tmp_path)
    assert up.image is not None
    assert other.image is not None
    np.testing.assert_array_equal(up.image.read(), other.image.read())
    assert up.image.grid.same_as(other.image.grid)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(6)), names=st.sampled_from(["{}", "IM{:03d}", "{}.dcm", "sub/{}", "x y {} ü"])
)
def test_order_and_names_of_files_mean_nothing(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], names: str
) -> None:
    straight, mixed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("mixed")
    write_series(straight, VOLUME)
    (mixed / "sub").mkdir()
    write_series(mixed, VOLUME, names=lambda n: names.format(order[n]), tags={"InstanceNumber": None})
    one, other = only(straight), only(mixed)
    assert one.image is not None
    assert other.image is not None
    np.testing.assert_array_equal(one.image.read(), other.image.read())
    np.testing.assert_array_equal(one.image.grid.matrix, other.image.grid.matrix)
    np.testing.assert_array_equal(one.image.grid.origin_mm, other.image.grid.origin_mm)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spacing=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    origin=st.tuples(*[st.floats(-300.0, 300.0)] * 3),
    turned=st.tuples(*[st.floats(-180.0, 180.0)] * 3),
)
def test_a_random_oblique_affine_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    turned: tuple[float, ...],
) -> None:
    folder = tmp_path_factory.mktemp("oblique")
    at = place(spacing, origin, turned_deg=turned)
    write_series(folder, VOLUME, at=at)
    series = only(folder)
    assert series.image is not None, series.defect
    grid, array = series.image.grid, series.image.read()
    for corner in itertools.product((0, 5), (0, 4), (0, 3)):
        mm = at.origin_mm + at.matrix @ np.array(corner, dtype=float)
        index = grid.to_index(mm)
        np.testing.assert_allclose(grid.to_mm(np.rint(index)), mm, rtol=0, atol=1e-3)
        d, h, w = np.rint(index).astype(int)
        assert array[d, h, w] == VOLUME[corner]


def moved(at: Place, by: Mapping[int, tuple[float, float, float]]) -> Any:
    """ImagePositionPatient of each slice, some moved by (x, y, z) mm."""
    return lambda _time, index: {
        "ImagePositionPatient": [
            a + b for a, b in zip(at.position(index), by.get(index, (0, 0, 0)), strict=True)
        ]
    }


def test_a_gap_is_slices_missing(tmp_path: Path) -> None:
    for file in write_series(tmp_path, VOLUME)[2:4]:
        file.unlink()
    assert "slices are missing: 2 of 6 (a gap of 9.00 mm where others are 3.00 mm)" in only(tmp_path).defect


@pytest.mark.parametrize(("mm", "accepted"), [(0.0, True), (0.04, True), (0.06, False), (1.0, False)])
def test_slices_unequally_spaced_are_refused(tmp_path: Path, mm: float, accepted: bool) -> None:
    write_series(tmp_path, VOLUME, per_slice=moved(place(), {3: (0, 0, mm)}))
    series = only(tmp_path)
    assert (series.image is not None) == accepted
    assert ("unequally spaced" in series.defect) == (not accepted)


def test_slices_that_slide_sideways_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, per_slice=moved(place(), {n: (2.0 * n, 0, 0) for n in range(6)}))
    assert "do not stand behind one another" in only(tmp_path).defect


def test_an_identical_copy_is_dropped_and_told(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "copy").write_bytes(files[2].read_bytes())
    series = only(tmp_path)
    assert series.image is not None
    assert series.image.grid.shape_dhw == VOLUME.shape
    assert any("twice and identical" in remark for remark in series.remarks)


def test_one_place_with_two_different_images_is_a_defect(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME)
    write_series(
        tmp_path / "again",
        VOLUME[2:3] + np.uint16(9),
        at=Place(place().matrix, place().origin_mm + place().matrix[:, 0] * 2),
        tags={"AcquisitionNumber": 1},
    )
    assert "several different images lie at one place" in only(tmp_path).defect


def test_one_slice_is_no_volume_but_an_enhanced_one_is(tmp_path: Path) -> None:
    write_series(tmp_path / "classic", VOLUME[:1])
    assert "single slice" in only(tmp_path / "classic").defect
    write_series(tmp_path / "enhanced", VOLUME[:1], multiframe=True)
    series = only(tmp_path / "enhanced")
    assert series.image is not None
    assert series.image.grid.spacing_mm_dhw[0] == pytest.approx(3.0)


def test_orientations_of_a_localiser_are_parted(tmp_path: Path) -> None:
    for number, axes in enumerate(("axial", "coronal", "sagittal")):
        write_series(tmp_path / axes, VOLUME[: number + 1], at=place(axes=axes))
    found = read(tmp_path)
    assert sorted(series.files for series in found) == [1, 2, 3]
    assert len({series.uid for series in found}) == 1
    assert sum("single slice" in series.defect for series in found) == 1


BROKEN: dict[str, tuple[Mapping[str, Any], str]] = {
    "no position": ({"ImagePositionPatient": None}, "do not say where images lie (ImagePositionPatient"),
    "no orientation": ({"ImageOrientationPatient": None}, "ImageOrientationPatient absent"),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing absent"),
    "zero spacing": ({"PixelSpacing": [0.0, 0.0]}, "pixels of 0 x 0 mm"),
    "no direction": ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "no pair of directions"),
    "not at right angles": ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no pair of directions"),
    "no rows": ({"Rows": 0}, "no pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_geometry_that_cannot_be_is_a_defect(tmp_path: Path, name: str) -> None:
    tags, reason = BROKEN[name]

    def per_slice(_time: int, _index: int) -> Mapping[str, Any]:
        return tags

    write_series(tmp_path, VOLUME, per_slice=per_slice)
    series = only(tmp_path)
    assert series.image is None
    assert reason in series.defect
    assert series.remedy
