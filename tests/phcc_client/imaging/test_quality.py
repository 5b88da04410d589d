from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phcc_client.imaging.case import Box, PhaseImage
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.quality import check_same_way_up, check_slices_differ, check_voxels
from phcc_model.config import Phase
from phcc_model.errors import CaseError


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(bad: float) -> None:
    region = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    check_voxels(region, "a.nii")
    region[0, 1, 1:3] = bad
    with pytest.raises(CaseError, match=r"a\.nii: 2 voxels around the lesion are not numbers"):
        check_voxels(region, "a.nii")


def test_a_region_of_one_value_is_refused() -> None:
    with pytest.raises(CaseError, match="every voxel around the lesion has the value 7"):
        check_voxels(np.full((2, 3, 4), 7, dtype=np.float32), "a.nii")


@pytest.mark.parametrize("second", [2, 5])
def test_a_repeated_slice_is_found_wherever_it_stands(second: int) -> None:
    region = np.random.default_rng(0).integers(0, 50, (7, 9, 9)).astype(np.float32)
    check_slices_differ(region, "a.nii")
    region[second] = region[1]
    with pytest.raises(CaseError, match=rf"a slice is repeated .*\(numbers 2 and {second + 1} read\)"):
        check_slices_differ(region, "a.nii")


def test_empty_slices_may_repeat() -> None:
    region = np.random.default_rng(0).integers(0, 50, (7, 9, 9)).astype(np.float32)
    region[:3] = 0
    check_slices_differ(region, "a.nii")


def at_height(
    phase: Phase, first: int, spacing: tuple[float, float, float] | None
) -> tuple[PhaseImage, Grid, Box]:
    grid = Grid.plain((40, 64, 64), (3.0, 1.5, 1.5))
    image = PhaseImage(phase, Path(f"{phase}.nii.gz"), spacing_mm_dhw=spacing)
    return image, grid, Box((first, 10, 10), (first + 4, 20, 20))


def test_a_phase_stored_upside_down_is_betrayed_by_its_box() -> None:
    told = (3.0, 1.5, 1.5)
    pre = at_height("pre-contrast", 5, told)
    upside_down = at_height("arterial", 40 - 5 - 4, told)
    with pytest.raises(CaseError, match=r"arterial\.nii\.gz: seems to be stored upside down"):
        check_same_way_up([pre, upside_down])
    # A breath of 18 mm, a lesion elsewhere altogether, and a trusted orientation are not that.
    check_same_way_up([pre, at_height("arterial", 11, told)])
    check_same_way_up([pre, at_height("arterial", 22, told)])
    check_same_way_up([at_height("pre-contrast", 5, None), at_height("arterial", 31, None)])
