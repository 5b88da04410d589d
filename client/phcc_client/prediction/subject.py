"""One lesion of one patient, ready to be scored and shown, whatever it was read from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from phcc_client.imaging.case import PreparedCase, RawCase, anchor_phase
from phcc_client.imaging.geometry import bounding_box, frame_of
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.preprocess import prepare
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_client.prediction.result import Caution, InputNote, LesionNote, PhaseNote
from phcc_model.config import CropSettings, DataSettings, Phase
from phcc_model.errors import CaseError, StorageError


@dataclass(frozen=True)
class Subject:
    """What is scored, and what is known of it.

    Attributes:
        patient: as the input names it; identifies.
        case: the lesion's name.
        prepared: the crop as training sees it.
        shown_pdhw: the crop as it was measured, for people.
        grid: where the crop lies; None where the images carry no spacing.
        phases: one for each phase of the study, in its order.
        lesion: the lesion.
        cautions: what was found on the way.
        source: what was read.
        header: of one image that was used, without its pixels; None unless it is DICOM.
    """

    patient: str
    case: str
    prepared: PreparedCase
    shown_pdhw: NDArray[np.float32]
    grid: Grid | None
    phases: tuple[PhaseNote, ...]
    lesion: LesionNote
    cautions: tuple[Caution, ...]
    source: InputNote
    header: Dataset | None = None


@dataclass(frozen=True)
class Lesion:
    """The drawing of a case on its own grid.

    Attributes:
        phase: whose grid it is.
        grid: of that phase's image.
        mask_dhw: True inside; None where nothing is drawn.
    """

    phase: Phase
    grid: Grid
    mask_dhw: NDArray[np.bool_] | None

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """(z, y, x) of the middle of its box, or of the image; the crop is centred there."""
        box = None if self.mask_dhw is None else bounding_box(self.mask_dhw)
        if box is None:
            return self.grid.to_mm((np.array(self.grid.shape_dhw, dtype=np.float64) - 1) / 2)
        return self.grid.to_mm(box.centre_dhw)


def lesion_of(raw: RawCase) -> Lesion:
    """The drawing of a case, read from its mask or its box.

    Raises:
        CaseError: a file cannot be read.
    """
    phase = anchor_phase(raw)
    image = raw.images[phase]
    if image.path is None:
        raise CaseError("its images are not files", where=raw.case, remedy="Give NIfTI or DICOM")
    grid = read_header(image.path, image.spacing_mm_dhw).grid
    if raw.mask is not None:
        return Lesion(phase, grid, np.asarray(read_voxels(read_header(raw.mask, image.spacing_mm_dhw))) != 0)
    if image.box is None:
        return Lesion(phase, grid, None)
    box = grid.turn_box(image.box)
    mask_dhw = np.zeros(grid.shape_dhw, dtype=np.bool_)
    mask_dhw[tuple(slice(low, high) for low, high in zip(box.low_dhw, box.high_dhw, strict=True))] = True
    return Lesion(phase, grid, mask_dhw)


def crop_grid(lesion: Lesion, crop: CropSettings) -> Grid:
    """Where the crop's voxels lie in the patient: centred on the lesion, along the axes of its image."""
    matrix = frame_of(lesion.grid) * np.array(crop.spacing_mm)
    middle = (np.array(crop.size, dtype=np.float64) - 1) / 2
    return Grid(crop.size, matrix, lesion.centre_mm - matrix @ middle)


def lesion_note(lesion: Lesion, crop: CropSettings, number: int = 1) -> LesionNote:
    """Size of a lesion, and how much of it the crop holds; without a drawing it is the crop."""
    if lesion.mask_dhw is None or not lesion.mask_dhw.any():
        d, h, w = (n * s for n, s in zip(crop.size, crop.spacing_mm, strict=True))
        return LesionNote(number=number, volume_ml=d * h * w / 1000.0, extent_mm_dhw=(d, h, w))
    box = bounding_box(lesion.mask_dhw)
    assert box is not None
    spacing = lesion.grid.spacing_mm_dhw
    hit = np.argwhere(lesion.mask_dhw)
    # Along the crop's own axes, which are the image's, so that distances are differences of indices.
    away = np.abs(hit - box.centre_dhw) * spacing
    half = np.array(crop.size) * np.array(crop.spacing_mm) / 2
    d, h, w = (round(float(mm), 1) for mm in box.size_dhw * spacing)
    return LesionNote(
        number=number,
        drawn_on=lesion.phase,
        volume_ml=round(len(hit) * float(abs(np.linalg.det(lesion.grid.matrix))) / 1000.0, 3),
        extent_mm_dhw=(d, h, w),
        inside_crop=round(float(np.mean((away <= half).all(axis=1))), 4),
    )


def crops_of(raw: RawCase, settings: DataSettings) -> tuple[PreparedCase, NDArray[np.float32]]:
    """The crop as training sees it, and for people as it was measured, or else as the model sees it.

    Raises:
        CaseError: the case cannot be used.
    """
    prepared = prepare(raw, settings)
    if settings.normalisation == "signed-distance":
        return prepared, prepared.volumes_pdhw.astype(np.float32)
    try:
        measured = prepare(raw, settings.model_copy(update={"normalisation": "none"}))
    except CaseError:  # voxels too large for 16 bits: the picture then shows what the model sees
        return prepared, prepared.volumes_pdhw.astype(np.float32)
    return prepared, measured.volumes_pdhw.astype(np.float32)


def digest_of(files: Iterable[Path], choices: Mapping[str, object]) -> str:
    """SHA-256 over the contents of files, whatever they are called and wherever they lie, and over choices.

    Raises:
        StorageError: one cannot be read.
    """
    with ThreadPoolExecutor(4, thread_name_prefix="digest") as pool:
        contents = sorted(pool.map(file_digest, sorted(files)))
    plain = {"files": contents, "choices": choices}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            remedy="Check the file and its permissions",
        ) from error
