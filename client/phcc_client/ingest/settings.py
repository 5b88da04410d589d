"""What a hospital may choose about its ingest; everything that alters a written byte stands here."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from phcc_model.config import PHASES, Phase

INGEST_VERSION = 2
"""Raised with every change that alters what is written for a patient; finished patients are then done again."""


class IngestSettings(BaseModel):
    """The choices of one ingest.

    Attributes:
        registration: how the other phases are brought onto the one that the lesion was drawn on.
        bias_field: N4 correction of every phase.
        required_phases: a patient without one of these is set aside.
        label: the column of the table that holds the label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    registration: Literal["rigid", "off", "deformable"] = "rigid"
    bias_field: bool = False
    required_phases: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous")
    label: str = "proliferative"

    @property
    def digest(self) -> str:
        """SHA-256 of these choices and of the version of the code."""
        plain = {"version": INGEST_VERSION, "settings": self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def phases_of(names: str) -> tuple[Phase, ...]:
    """Phases from a comma-separated list, in the order of acquisition.

    Raises:
        ValueError: one is no phase.
    """
    words = [word.strip() for word in names.split(",") if word.strip()]
    unknown = [word for word in words if word not in PHASES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no phase; the phases are {', '.join(PHASES)}")
    return tuple(phase for phase in PHASES if phase in words)  # type: ignore[misc]
