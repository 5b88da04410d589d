"""Where a case's crops lie in the patient, for what is written on their grid.

Each phase has its own place: its crop is centred on the lesion as it lies in that phase. The places are those of
`phcc_client.imaging.preprocess.prepare`; a test holds both against each other, voxel by voxel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Box, PhaseImage, RawCase, anchor_phase
from phcc_client.imaging.geometry import Placement, TurnedPlacement, bounding_box, frame_of, lay
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError


def crop_affines(raw: RawCase, settings: DataSettings) -> dict[Phase, NDArray[np.float64]]:
    """From an index of the crop to mm of the patient, for each of the study's phases that is there.

    Args:
        raw: where its images are; all of them files.
        settings: the study's phases and crop.

    Returns:
        (4, 4) by phase: columns for the crop's axes d, h, w and its origin; rows x, y, z as NIfTI counts them, to
        the right, the front and the head (RAS).

    Raises:
        CaseError: a file cannot be read, or the images carry no place in the patient.
    """
    anchor = raw.images[anchor_phase(raw)]
    anchor_grid = _grid(anchor)
    box = _mask_box(raw, anchor) if raw.mask is not None else _own_box(anchor, anchor_grid)
    middle = (np.array(anchor_grid.shape_dhw, dtype=np.float64) - 1) / 2
    centre_mm = anchor_grid.to_mm(middle if box is None else box.centre_dhw)
    frame = frame_of(anchor_grid)
    affines: dict[Phase, NDArray[np.float64]] = {}
    for phase in settings.phases:
        if phase not in raw.images:
            continue
        grid = _grid(raw.images[phase])
        own = None if raw.mask is not None else _own_box(raw.images[phase], grid)
        if own is None:
            placement = lay(centre_mm, grid, frame, settings.crop)
        else:
            placement = Placement.around(own.centre_dhw, grid.shape_dhw, grid.spacing_mm_dhw, settings.crop)
        image = raw.images[phase]
        # Where an annotation replaces the file's spacing, a viewer still goes by the file.
        affines[phase] = (
            _affine(grid, placement)
            if image.spacing_mm_dhw is None or image.path is None
            else _file_affine(image.path, placement)
        )
    return affines


def _grid(image: PhaseImage) -> Grid:
    if image.path is None or image.fitted:
        raise CaseError(
            "the image carries no place in the patient",
            where=image.where,
            remedy="Write heat maps as pictures only",
        )
    return read_header(image.path, image.spacing_mm_dhw).grid


def _own_box(image: PhaseImage, grid: Grid) -> Box | None:
    return None if image.box is None else grid.turn_box(image.box)


def _mask_box(raw: RawCase, anchor: PhaseImage) -> Box:
    assert raw.mask is not None
    header = read_header(raw.mask, anchor.spacing_mm_dhw)
    box = bounding_box(np.asarray(read_voxels(header)) != 0)
    if box is None:
        raise CaseError("the lesion's mask is empty", where=str(raw.mask), remedy="Draw the lesion")
    return box


def _affine(grid: Grid, placement: Placement | TurnedPlacement) -> NDArray[np.float64]:
    """The crop's steps and first voxel through the image's grid; LPS (z, y, x) turned to RAS (x, y, z)."""
    steps = placement.steps if isinstance(placement, TurnedPlacement) else np.diag(placement.step_dhw)
    zyx = np.column_stack([grid.matrix @ steps, grid.to_mm(placement.first_dhw)])
    ras = zyx[::-1] * np.array([[-1.0], [-1.0], [1.0]])
    return np.vstack([ras, [0.0, 0.0, 0.0, 1.0]])


def _file_affine(path: Path, placement: Placement | TurnedPlacement) -> NDArray[np.float64]:
    """Through the file's own geometry, axes as stored: (k, j, i) is (d, h, w)."""
    loaded: Any = nib.load(path)
    stored = np.asarray(loaded.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    steps = placement.steps if isinstance(placement, TurnedPlacement) else np.diag(placement.step_dhw)
    inner = np.eye(4)
    inner[:3, :3], inner[:3, 3] = steps, placement.first_dhw
    return np.asarray(stored @ inner)
