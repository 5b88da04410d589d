"""Small NIfTI files and LLD-MMRI folders, written for one test each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

ITK: Any = SimpleITK
LLD_NAMES = {"pre-contrast": "C-pre", "arterial": "C+A", "portal-venous": "C+V", "delayed": "C+Delay"}

WriteNifti = Callable[..., Path]
WriteLld = Callable[..., Path]


@pytest.fixture(scope="session")
def textured() -> Callable[..., NDArray[np.int16]]:
    """A volume with contrast everywhere, positive, different for every seed."""

    def make(shape_dhw: tuple[int, int, int] = (10, 24, 20), seed: int = 0) -> NDArray[np.int16]:
        rng = np.random.default_rng(seed)
        return rng.integers(200, 800, shape_dhw).astype(np.int16)

    return make


@pytest.fixture(scope="session")
def write_nifti() -> WriteNifti:
    """Write an array (d, h, w) as NIfTI; spacing in (d, h, w)."""

    def write(
        path: Path,
        array: NDArray[Any],
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
        direction: NDArray[np.float64] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = ITK.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin(origin)
        if direction is not None:
            image.SetDirection(direction.ravel().tolist())
        ITK.WriteImage(image, str(path))
        return path

    return write


@pytest.fixture(scope="session")
def write_lld(write_nifti: WriteNifti) -> WriteLld:
    """Write a folder in LLD-MMRI's raw layout.

    Args of the writer: the folder; patients as ``{patient: {phase: (array, low, high)}}`` with a half-open
    box (d, h, w); the spacing that the annotation tells; rows of the clinical table.
    """

    def write(
        folder: Path,
        patients: dict[str, dict[str, tuple[NDArray[Any], tuple[int, int, int], tuple[int, int, int]]]],
        spacing: tuple[float, float, float] = (3.0, 1.5, 1.5),
        clinical: str | None = None,
    ) -> Path:
        information: dict[str, list[dict[str, Any]]] = {}
        for patient, phases in patients.items():
            information[patient] = []
            for number, (phase, (array, low, high)) in enumerate(phases.items()):
                # The file's own spacing is wrong on purpose: the annotation's counts.
                write_nifti(
                    folder / "images" / patient / "study" / f"s{number}.nii.gz", array, (9.0, 9.0, 9.0)
                )
                corners = {"z_min": low[0], "z_max": high[0] - 1, "y_min": low[1], "y_max": high[1]}
                corners |= {"x_min": low[2], "x_max": high[2]}
                information[patient].append(
                    {
                        "studyUID": "study",
                        "seriesUID": f"s{number}",
                        "phase": LLD_NAMES.get(phase, phase),
                        "pixel_spacing": [spacing[1], spacing[2]],
                        "slice_thickness": 99.0,
                        "slice_spacing": spacing[0],
                        "origin": [0, 0, 0],
                        "annotation": {
                            "num_targets": 1,
                            "lesion": {
                                "0": {"category": "Hepatocellular_carcinoma", "bbox": {"3D_box": corners}}
                            },
                        },
                    }
                )
        (folder / "labels").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"Annotation_info": information, "Category_info": {}})
        (folder / "labels" / "Annotation.json").write_text(text, encoding="utf-8")
        if clinical is not None:
            (folder / "clinical.csv").write_text(clinical, encoding="utf-8")
        return folder

    return write
