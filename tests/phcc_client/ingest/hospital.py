"""A hospital's export for tests: liver examinations that enhance as they should, and much that goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dicom_maker
import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.nifti_image import nifti_bytes

SHAPE = (16, 48, 56)
PLACE = dicom_maker.place((4.0, 2.5, 2.5), (-30.0, -60.0, -70.0))
GRID = Grid(SHAPE, PLACE.matrix, PLACE.origin_mm)
NAMES = ("t1_vibe_fs_tra_nativ", "t1_vibe_fs_tra_art", "t1_vibe_fs_tra_pv", "t1_vibe_fs_tra_delayed")
LIVER = (1.0, 1.25, 1.9, 1.75)
TUMOUR = (0.8, 1.7, 1.35, 1.15)

Volumes = dict[str, NDArray[np.uint16]]


def examination(number: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Volumes, NDArray[np.bool_]]:
    """Four phases of one patient's liver and where the lesion is: unlike any other number's."""
    draw = np.random.default_rng(number)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (y**2 + x**2) < 0.9
    centre = draw.uniform(-0.25, 0.25, 3)
    lesion = ((z - centre[0]) ** 2 * 4 + (y - centre[1]) ** 2 * 9 + (x - centre[2]) ** 2 * 9) < 0.6
    waves = sum(
        np.sin(draw.uniform(2, 7) * y + draw.uniform(2, 7) * x + draw.uniform(0, 6)) for _ in range(4)
    )
    vessels = (np.abs(waves) < 0.12) & body
    tissue = 260 + 25 * waves + 8 * draw.standard_normal(shape)
    phases = {}
    for name, liver, tumour in zip(NAMES, LIVER, TUMOUR, strict=True):
        image = tissue * np.where(lesion, tumour, np.where(vessels, liver * 1.3, liver)) * body
        phases[name] = np.clip(image + 4 * draw.random(shape), 0, 4000).astype(np.uint16)
    return phases, lesion & body


def write_mask(path: Path, mask: NDArray[np.bool_], grid: Grid = GRID) -> Path:
    """A lesion as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(mask.astype(np.uint8), grid))
    return path


class Hospital:
    """An export and its table, patient by patient.

    Args:
        folder: where ``export`` and ``tables`` are made.
        shape: of every image, (D, H, W).
        at: where its voxels lie.
    """

    def __init__(
        self, folder: Path, shape: tuple[int, int, int] = SHAPE, at: dicom_maker.Place = PLACE
    ) -> None:
        self.shape, self.place = shape, at
        self.grid = Grid(shape, at.matrix, at.origin_mm)
        self.export, self.tables = folder / "export", folder / "tables"
        self.export.mkdir(parents=True)
        self.tables.mkdir()
        self._rows: list[dict[str, object]] = []

    @property
    def table(self) -> Path:
        """The table as a file."""
        columns = list(dict.fromkeys(name for row in self._rows for name in row)) or ["patient"]
        lines = [columns, *([str(row.get(name, "")) for name in columns] for row in self._rows)]
        path = self.tables / "patients.csv"
        text = "\n".join(";".join(line) for line in lines) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path

    def row(self, patient: str, **cells: object) -> None:
        """A row of the table."""
        self._rows.append({"patient": patient, **cells})

    def patient(
        self,
        number: int,
        *,
        label: object = 1,
        lesion: str = "mask",
        drop: tuple[str, ...] = (),
        rename: Mapping[str, str] | None = None,
        tags: Mapping[str, Any] | None = None,
        name: str | None = None,
        look: int | None = None,
        **options: Any,
    ) -> str:
        """One patient.

        Args:
            number: who; also what its images look like.
            label: as the table has it.
            lesion: ``mask``, ``seg``, ``box`` or ``none``.
            drop: series that were not exported.
            rename: series description -> another one.
            tags: attributes of every file.
            name: PatientID, if it is another than the number's.
            look: whose images it has, if not its own.
            options: of `dicom_maker.write_patient`.
        """
        patient = name or f"PAT-{number:04d}"
        phases, mask = examination(number if look is None else look, self.shape)
        named = {(rename or {}).get(k, k): v for k, v in phases.items() if k not in drop}
        folder = self.export / f"{number:04d}"
        files = dicom_maker.write_patient(folder, patient, named, at=self.place, tags=tags, **options)
        cells: dict[str, object] = {"proliferative": label, "afp_ng_ml": 10 + number}
        if lesion == "mask":
            write_mask(self.tables / f"{number}.nii.gz", mask, self.grid)
            cells |= {"mask": f"{number}.nii.gz", "lesion_phase": "portal-venous"}
        elif lesion == "seg":
            series = next(paths for key, paths in files.items() if "pv" in key)
            dicom_maker.write_seg(folder / "seg", mask, series)
        elif lesion == "box":
            for axis, letter in enumerate("zyx"):
                hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
                cells |= {f"{letter}_min": int(hit[0]), f"{letter}_max": int(hit[-1]) + 1}
            cells["lesion_phase"] = "arterial"
        self.row(patient, **cells)
        return patient
