"""A lesion, however it was drawn, as a mask on the grid of its phase."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.imaging.case import Box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.examination import Drawing
from phcc_client.ingest.lesion import centre_mm, locate, moved, volume_ml, with_boxes_together
from phcc_client.ingest.nifti_image import ArrayImage
from phcc_model.config import Phase
from phcc_model.errors import CaseError

SHAPE = (8, 20, 24)
GRID = Grid(SHAPE, np.diag([3.0, 1.5, 1.5]), np.array([-12.0, 5.0, 7.0]))


def _image(grid: Grid = GRID, value: float = 0.0) -> ArrayImage:
    return ArrayImage(np.full(grid.shape_dhw, value, np.float32), grid, "here")


def _mask(grid: Grid, box: Box) -> ArrayImage:
    array = np.zeros(grid.shape_dhw, np.float32)
    array[tuple(slice(a, b) for a, b in zip(box.low_dhw, box.high_dhw, strict=True))] = 2
    return ArrayImage(array, grid, "mask")


BOX = Box((2, 5, 6), (4, 9, 12))
IMAGES: dict[Phase, ArrayImage] = {"arterial": _image(), "portal-venous": _image(moved(GRID, np.ones(3)))}


def test_a_box_is_filled_on_its_phase() -> None:
    lesion = locate(Drawing(1, box=BOX, phase="arterial"), IMAGES, {})
    assert lesion.phase == "arterial"
    assert lesion.mask_dhw.sum() == 2 * 4 * 6
    assert np.allclose(centre_mm(lesion.mask_dhw, GRID), GRID.to_mm(BOX.centre_dhw))
    assert volume_ml(lesion.mask_dhw, GRID) == pytest.approx(48 * 3 * 1.5 * 1.5 / 1000)


def test_a_box_is_counted_as_stored_and_turned_with_the_image() -> None:
    upside_down = Grid.turned(SHAPE, np.diag([-3.0, 1.5, 1.5]), np.zeros(3))
    lesion = locate(Drawing(1, box=BOX, phase="arterial"), {"arterial": _image(upside_down)}, {})
    assert set(np.flatnonzero(lesion.mask_dhw.any(axis=(1, 2)))) == {8 - 1 - 2, 8 - 1 - 3}


def test_a_mask_finds_the_phase_whose_grid_it_has() -> None:
    mask = _mask(IMAGES["arterial"].grid, BOX)
    lesion = locate(Drawing(1, mask=mask), IMAGES, {})
    assert lesion.phase == "arterial"
    assert np.array_equal(lesion.mask_dhw, mask.array_dhw != 0)


def test_the_series_of_a_segmentation_says_the_phase() -> None:
    drawing = Drawing(1, mask=_mask(GRID, BOX), series="1.2.3")
    assert locate(drawing, IMAGES, {"1.2.3": "portal-venous"}).phase == "portal-venous"


@settings(max_examples=25, deadline=None)
@given(
    shift=st.tuples(*(st.integers(-2, 2) for _ in range(3))),
    finer=st.sampled_from([1, 2]),
)
def test_a_mask_on_another_grid_lands_in_its_place(shift: tuple[int, int, int], finer: int) -> None:
    """Within half a voxel of the coarser grid, whatever the other grid is."""
    shape = (SHAPE[0] * finer, SHAPE[1] * finer, SHAPE[2] * finer)
    matrix = GRID.matrix / finer
    origin = GRID.origin_mm + GRID.matrix @ np.array(shift, dtype=float)
    other = Grid(shape, matrix, origin)
    mask = _mask(other, Box((4, 8, 8), (8, 14, 16)))
    lesion = locate(Drawing(1, mask=mask, phase="arterial"), IMAGES, {})
    expected = other.to_mm(np.array([5.5, 10.5, 11.5]))
    assert np.all(np.abs(centre_mm(lesion.mask_dhw, GRID) - expected) <= GRID.spacing_mm_dhw)


@pytest.mark.parametrize(
    ("drawing", "says"),
    [
        (Drawing(1, mask=_image()), "mask is empty"),
        (Drawing(1, mask=_mask(moved(GRID, np.full(3, 900.0)), BOX)), "outside the image"),
        (Drawing(1, box=BOX, phase="delayed"), "phase delayed, which is not there"),
        (Drawing(1, box=BOX), "nothing says on which phase"),
        (Drawing(1, box=Box((0, 0, 0), (9, 4, 4)), phase="arterial"), "outside the volume"),
    ],
)
def test_a_drawing_that_cannot_be_used(drawing: Drawing, says: str) -> None:
    with pytest.raises(CaseError, match=says):
        locate(drawing, IMAGES, {})


def test_boxes_drawn_in_every_phase_are_brought_together() -> None:
    low = Box((3, 5, 6), (5, 9, 12))
    drawing = Drawing(1, boxes={"arterial": BOX, "portal-venous": low})
    lesion = locate(drawing, IMAGES, {})
    assert lesion.phase == "portal-venous"
    shifts = with_boxes_together([lesion], "portal-venous", IMAGES)
    assert set(shifts) == {"arterial"}
    back = moved(IMAGES["arterial"].grid, shifts["arterial"])
    assert np.allclose(back.to_mm(BOX.centre_dhw), IMAGES["portal-venous"].grid.to_mm(low.centre_dhw))
