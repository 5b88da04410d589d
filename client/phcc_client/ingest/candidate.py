"""One patient on the way from a source to a site: whatever the source was, from here on it is all the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phcc_client.ingest.examination import Drawing, Image, Series
from phcc_client.ingest.record import Finding
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import Phase


@dataclass(frozen=True)
class Candidate:
    """One patient as a source has it.

    Attributes:
        patient: as the source names it; identifies.
        series: of a DICOM source; what they are is still to be recognised.
        named: of a source that names its phases itself.
        drawings: lesions.
        label: 1, 0, or -1.
        afp: ng/mL, NaN where unknown.
        centre: a code of the hospital, where the source names one.
        split: where the source itself splits.
        study: date or UID of the examination to take; empty where it is left open.
        findings: what is known to be wrong before any voxel is read.
        identity: attribute -> values that identify.
        files: all that the patient is made from; when one changes, the patient is made anew.
        unreadable: (file, why).
        fitted: the images carry no spacing at all.
    """

    patient: str
    series: tuple[Series, ...] = ()
    named: Mapping[Phase, Image] = field(default_factory=dict)
    drawings: tuple[Drawing, ...] = ()
    label: int = UNKNOWN_LABEL
    afp: float = math.nan
    centre: str | None = None
    split: Literal["train", "validation"] | None = None
    study: str = ""
    findings: tuple[Finding, ...] = ()
    identity: Mapping[str, frozenset[str]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    fitted: bool = False
