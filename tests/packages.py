"""A small model package, of a model that was never trained: for whoever tests with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders import tiny_study

from phcc_model.build import first_weights
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.package import write_package
from phcc_model.package_schema import Recalibration, Threshold

CARD = "# Model card: tiny\n\n**Research use only.** Never trained.\n"


def tiny_package(folder: Path, study: StudyConfig | None = None, **changes: Any) -> Path:
    """Write a whole package into a folder and return it.

    Args:
        folder: made if need be.
        study: another one than `builders.tiny_study`.
        changes: arguments of `write_package` that are to be others.
    """
    study = study or tiny_study()
    settings: dict[str, Any] = {
        "stage_round": 1,
        "threshold": Threshold(value=0.525, source="Youden, on 12 validation patients"),
        "calibration": Recalibration(intercept=0.1, slope=0.8, source="12 validation patients"),
        "card": CARD,
    }
    write_package(folder, study, "full", first_weights(study, keys.FINETUNE), **(settings | changes))
    return folder
