"""Predictions and subjects as tests want them, without a model."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from phcc_client.imaging.case import PreparedCase
from phcc_client.imaging.grid import Grid
from phcc_client.prediction.result import InputNote, LesionNote, PackageNote, PhaseNote, Prediction
from phcc_client.prediction.subject import Subject
from phcc_model.config import CropSettings, DataSettings

SETTINGS = DataSettings(
    phases=("pre-contrast", "arterial", "portal-venous", "delayed"),
    crop=CropSettings(size=(8, 24, 24), spacing_mm=(4.0, 2.5, 2.5)),
)
SOURCE = InputNote(
    kind="dicom", digest="1f" * 32, files=64, examined="2023-04-05", study_uid="1.2.3", registration="rigid"
)
LESION = LesionNote(drawn_on="portal-venous", volume_ml=13.2, extent_mm_dhw=(24.0, 30.0, 35.0))
SECONDS = {"pre-contrast": 0.0, "arterial": 80.0, "portal-venous": 120.0, "delayed": 240.0}


def phase_notes(**changes: dict[str, Any]) -> tuple[PhaseNote, ...]:
    """Four phases of an ordinary examination; ``portal_venous={...}`` changes one."""
    notes = []
    for number, phase in enumerate(SETTINGS.phases, start=1):
        note = PhaseNote(
            phase=phase,
            used=True,
            rule=f"description says '{phase[:3]}'",
            certainty="sure",
            series_number=number,
            spacing_mm_dhw=(3.0, 1.4, 1.4),
            field_strength_t=1.5,
            seconds=SECONDS[phase],
            aligned="reference" if phase == "portal-venous" else "rigid",
            shift_mm=1.5,
            residual_mm=0.4,
            enhancement=None if phase == "pre-contrast" else 0.5,
        )
        notes.append(note.model_copy(update=changes.get(phase.replace("-", "_"), {})))
    return tuple(notes)


def subject(**changes: Any) -> Subject:
    """An ordinary patient's lesion."""
    size = SETTINGS.crop.size
    prepared = PreparedCase(np.zeros((4, *size), np.float16), np.ones(4, np.bool_), np.zeros(size, np.uint8))
    shown = np.ones((4, *size), np.float32)
    plain: dict[str, Any] = {
        "patient": "PAT-0002",
        "case": "PAT-0002-1",
        "prepared": prepared,
        "shown_pdhw": shown,
        "grid": Grid.plain(size, (4.0, 2.5, 2.5)),
        "phases": phase_notes(),
        "lesion": LESION,
        "cautions": (),
        "source": SOURCE,
    }
    return Subject(**{**plain, **changes})


def prediction(**changes: Any) -> Prediction:
    """An ordinary prediction."""
    plain = Prediction(
        patient="PAT-0002",
        case="PAT-0002-1",
        score=0.468,
        probability=0.499,
        recalibrated=True,
        threshold=0.4,
        verdict="positive",
        phases=phase_notes(),
        lesion=LESION,
        warnings=(),
        package=PackageNote(study="demo", study_digest="ab" * 32, arm="full", digest="cd" * 32),
        input=SOURCE,
        software="0.1.0",
    )
    return plain.model_copy(update=changes)


def picture_png() -> bytes:
    """Something to stand for heat maps."""
    out = io.BytesIO()
    Image.fromarray(np.full((60, 200, 3), 90, np.uint8)).save(out, "PNG")
    return out.getvalue()
