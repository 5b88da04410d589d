"""Hospitals' exports as files: a table and small images, for tests that begin where a hospital does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from builders import tiny_study

from phcc_model.config import StudyConfig
from phcc_model.seeds import generator

ITK: Any = SimpleITK
CENTRES = {"Alma": 10, "Berg": 8, "Ende": 4}


def write_data(folder: Path, centres: dict[str, int] = CENTRES) -> Path:
    """Hospitals' exports: a table and two phases for each patient; every third patient has two lesions."""
    folder.mkdir(parents=True)
    rows = []
    for centre, patients in centres.items():
        for number in range(patients):
            for lesion in range(2 if number % 3 == 0 else 1):
                patient = f"{centre}{number}"
                case = f"{patient}-{lesion}"
                draw = generator(0, "workspace", case)
                files = {}
                for phase in ("pre-contrast", "arterial"):
                    voxels = draw.integers(100, 900, (6, 20, 20)).astype(np.int16)
                    image = ITK.GetImageFromArray(voxels)
                    image.SetSpacing((2.0, 2.0, 3.0))
                    files[phase] = f"{case}-{phase}.nii.gz"
                    ITK.WriteImage(image, str(folder / files[phase]))
                box = dict(
                    zip(
                        ("x_min", "x_max", "y_min", "y_max", "z_min", "z_max"),
                        (4, 14, 5, 15, 1, 5),
                        strict=True,
                    )
                )
                label = {"proliferative": number % 2, "afp_ng_ml": "" if number == 1 else 10.0 + number}
                rows.append({"case": case, "patient": patient, "centre": centre, **label, **files, **box})
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def study_of(export: Path, **sections: Any) -> StudyConfig:
    centres = {"mode": "by-centre", "external": ["Ende"]} | sections.pop("centres", {})
    source = {"source": "nifti-csv", "path": str(export), "centres": centres} | sections.pop("data", {})
    return tiny_study(data=source, **sections)
