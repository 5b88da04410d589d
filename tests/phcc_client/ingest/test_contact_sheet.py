from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from phcc_client.imaging.grid import Grid
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_client.ingest.contact_canvas import BLANK, GREYS, OUTLINE
from phcc_client.ingest.contact_sheet import (
    CAPTION,
    GAP,
    LEGEND,
    ROWS_A_PAGE,
    TILE,
    View,
    sheets,
    thumbnail_row,
)
from phcc_model.config import Phase

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
SPACING = (4.0, 1.0, 2.0)


def scene(grid: Grid, radius_mm: float = 20.0) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A bright ball about the origin of the patient's space, and its mask, on any grid."""
    index = np.indices(grid.shape_dhw).reshape(3, -1)
    mm = grid.origin_mm[:, None] + grid.matrix @ index
    inside = (np.linalg.norm(mm, axis=0) <= radius_mm).reshape(grid.shape_dhw)
    bright = 100.0 + 100.0 * inside
    # A gradient towards the left of the patient, to see that left is where it should be.
    return (bright + 0.2 * mm[2].reshape(grid.shape_dhw)).astype(np.float32), inside.astype(np.uint8)


def centred(shape: tuple[int, int, int], matrix: NDArray[np.float64]) -> Grid:
    return Grid(shape, matrix, -matrix @ ((np.array(shape) - 1) / 2))


def tile(png: bytes, column: int = 0) -> NDArray[np.uint8]:
    picture = np.asarray(Image.open(io.BytesIO(png)))
    left = LEGEND + column * (TILE + GAP)
    return picture[CAPTION : CAPTION + TILE, left : left + TILE]


def row(views: dict[Phase, View], mask: NDArray[np.uint8] | None, grid: Grid, label: int = 1) -> bytes:
    return thumbnail_row(views, mask, grid, pseudonym="P-0123456789abcdef", label=label)


GRID = centred((41, 201, 101), np.diag(SPACING))


def outlined(png: bytes, column: int = 0) -> tuple[int, int]:
    """Height and width of the outline, in pixels."""
    at = np.argwhere(tile(png, column) == OUTLINE)
    height, width = at.max(axis=0) - at.min(axis=0)
    return int(height), int(width)


def test_a_ball_is_round_whatever_the_voxels() -> None:
    array, mask = scene(GRID)
    height, width = outlined(row({"arterial": (array, GRID)}, mask, GRID), 1)
    # 40 mm of lesion in a view of four times that, one pixel further out.
    expected = TILE / 4
    assert abs(height - expected) <= 3
    assert abs(width - expected) <= 3


@given(st.tuples(*[st.floats(-0.3, 0.3)] * 3))
@settings(max_examples=8, deadline=None)
def test_a_ball_is_round_on_an_oblique_grid(angles: tuple[float, float, float]) -> None:
    a, b, c = angles
    turn = np.array([[1, -a, b], [a, 1, -c], [-b, c, 1]])
    rotation, _ = np.linalg.qr(turn)
    rotation *= np.sign(np.diag(rotation))
    grid = centred((31, 101, 71), rotation @ np.diag((4.0, 1.5, 2.0)))
    array, mask = scene(grid)
    height, width = outlined(row({"arterial": (array, grid)}, mask, grid), 1)
    assert abs(height - width) <= 3


def test_phases_on_different_grids_show_the_same_place() -> None:
    coarse = centred((21, 61, 91), np.diag((6.0, 3.0, 2.5)))
    array, mask = scene(GRID)
    other, _ = scene(coarse)
    png = row({"arterial": (array, GRID), "portal-venous": (other, coarse)}, mask, GRID)
    one, two = tile(png, 1).astype(int), tile(png, 2).astype(int)
    inner = np.s_[TILE // 2 - 10 : TILE // 2 + 10, TILE // 2 - 10 : TILE // 2 + 10]
    assert np.abs(one[inner] - two[inner]).max() <= 4
    np.testing.assert_array_equal(one == OUTLINE, two == OUTLINE)


def test_the_patients_left_is_on_the_right() -> None:
    array, mask = scene(GRID, 10.0)
    shown = tile(row({"pre-contrast": (array, GRID)}, mask, GRID)).astype(int)
    assert shown[60, 150] > shown[60, 10] + 10


def test_the_outline_lies_outside_and_covers_nothing() -> None:
    array, mask = scene(GRID)
    without = tile(row({"arterial": (array, GRID)}, np.zeros_like(mask), GRID), 1)
    assert not (without == OUTLINE).any()
    shown = tile(row({"arterial": (array, GRID)}, mask, GRID), 1)
    middle = shown[TILE // 2 - 15 : TILE // 2 + 15, TILE // 2 - 15 : TILE // 2 + 15]
    assert not (middle == OUTLINE).any()
    assert (shown == OUTLINE).sum() < 4 * TILE


def test_one_window_for_all_phases_shows_enhancement() -> None:
    array, mask = scene(GRID)
    png = row({"pre-contrast": (array, GRID), "arterial": (array * 2, GRID)}, mask, GRID)
    middle = TILE // 2
    assert tile(png, 1)[middle, middle] > tile(png, 0)[middle, middle] + GREYS // 4


def test_a_phase_in_another_scale_has_its_own_window_and_is_seen() -> None:
    array, mask = scene(GRID)
    png = row({"pre-contrast": (array / 1000, GRID), "arterial": (array, GRID)}, mask, GRID)
    assert np.ptp(tile(png, 0)[60:110, 20:150].astype(int)) > GREYS // 2


def test_missing_phases_are_empty_cells_with_their_names() -> None:
    array, mask = scene(GRID)
    png = row({"arterial": (array, GRID)}, mask, GRID)
    assert Image.open(io.BytesIO(png)).width == LEGEND + 4 * (TILE + GAP)
    assert (tile(png, 0) == BLANK).mean() > 0.9
    caption = np.asarray(Image.open(io.BytesIO(png)))[:CAPTION, LEGEND : LEGEND + TILE]
    assert (caption < GREYS // 2).any()
    single = row({"image": (array, GRID)}, mask, GRID)
    assert Image.open(io.BytesIO(single)).width == LEGEND + TILE + GAP
    five = row({"hepatobiliary": (array, GRID)}, mask, GRID)
    assert Image.open(io.BytesIO(five)).width == LEGEND + 5 * (TILE + GAP)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a * 0,
        lambda a: np.full_like(a, np.nan),
        lambda a: np.where(a > 150, np.inf, a),
        lambda a: a.astype(np.int16),
        lambda a: a * 1e30,
        lambda a: -a,
    ],
)
def test_any_voxels_give_a_picture(spoil: object) -> None:
    array, mask = scene(GRID)
    png = row({"arterial": (spoil(array), GRID)}, mask, GRID)  # type: ignore[operator]
    assert Image.open(io.BytesIO(png)).height == CAPTION + TILE + GAP


def test_a_mask_far_outside_and_none_at_all_give_a_picture() -> None:
    array, _ = scene(GRID)
    far = Grid(GRID.shape_dhw, GRID.matrix, GRID.origin_mm + 9999.0)
    mask = np.ones(GRID.shape_dhw, np.uint8)
    assert (tile(row({"arterial": (array, GRID)}, mask, far), 1) == BLANK).mean() > 0.8
    assert row({"arterial": (array, GRID)}, None, GRID)


def test_the_same_images_give_the_same_bytes_and_nothing_but_a_picture() -> None:
    array, mask = scene(GRID)
    png = row({"arterial": (array, GRID)}, mask, GRID)
    assert row({"arterial": (array.copy(), GRID)}, mask.copy(), GRID) == png
    chunks, at = [], 8
    while at < len(png):
        chunks.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    assert set(chunks) == {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


def test_a_row_takes_a_tenth_of_a_second() -> None:
    grid = centred((72, 320, 320), np.diag((3.0, 1.2, 1.2)))
    array, mask = scene(grid)
    phases: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")
    views: dict[Phase, View] = dict.fromkeys(phases, (array, grid))
    row(views, mask, grid)
    before = time.process_time()
    row(views, mask, grid)
    took = time.process_time() - before
    print(f"\none row of four phases 72 x 320 x 320: {took * 1000:.0f} ms")
    assert took < 0.3


# --- pages


def rows_on_disk(site: Path, number: int) -> list[str]:
    array, mask = scene(GRID)
    png = row({"arterial": (array, GRID)}, mask, GRID)
    (site / "contact").mkdir()
    names = [f"contact/P-{i:04d}.png" for i in range(number)]
    for name in names:
        (site / name).write_bytes(png)
    return names


def test_pages_hold_twenty_rows_and_old_ones_go(tmp_path: Path) -> None:
    names = rows_on_disk(tmp_path, ROWS_A_PAGE * 2 + 1)
    assert sheets(tmp_path, names) == tuple(f"contact-sheet-0{i}.png" for i in (1, 2, 3))
    first = (tmp_path / "contact-sheet-01.png").read_bytes()
    assert sheets(tmp_path, names[:5]) == ("contact-sheet-01.png",)
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["contact-sheet-01.png"]
    assert sheets(tmp_path, []) == ()
    assert list(tmp_path.glob("*.png")) == []
    sheets(tmp_path, names)
    assert (tmp_path / "contact-sheet-01.png").read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", None])
def test_a_damaged_row_costs_its_own_place_only(tmp_path: Path, content: bytes | None) -> None:
    names = rows_on_disk(tmp_path, 3)
    if content is None:
        (tmp_path / names[1]).unlink()
    else:
        (tmp_path / names[1]).write_bytes(content)
    (page,) = sheets(tmp_path, names)
    with Image.open(tmp_path / page) as picture:
        assert picture.height == 24 + 3 * (CAPTION + TILE + GAP + 8)


def test_a_truncated_row_and_a_picture_of_another_kind_are_left_out(tmp_path: Path) -> None:
    names = rows_on_disk(tmp_path, 2)
    whole = (tmp_path / names[0]).read_bytes()
    (tmp_path / names[0]).write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (4000, 4000)).save(tmp_path / names[1])
    (page,) = sheets(tmp_path, names)
    with Image.open(tmp_path / page) as picture:
        assert picture.width < 1000


@pytest.mark.skipif(not (SHARED / "totalsegmentator").is_dir(), reason="shared data are not there")
def test_a_real_abdomen(tmp_path: Path) -> None:
    header = read_header(SHARED / "totalsegmentator" / "example_mr_sm.nii.gz")
    labels = read_header(SHARED / "totalsegmentator" / "example_seg_mr.nii.gz")
    array = header.scaled(read_voxels(header))
    liver = np.asarray(read_voxels(labels) == 5, dtype=np.uint8)
    png = row({"portal-venous": (array, header.grid)}, liver, labels.grid)
    assert outlined(png, 2)[0] > TILE // 5
    (tmp_path / "abdomen.png").write_bytes(png)
