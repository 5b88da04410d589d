"""What became of each patient: one JSON file a patient in ``SITE/records``, pseudonyms only.

The funnel, the check of a site and its page are made from these files alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from phcc_model.config import Phase

Certainty = Literal["sure", "likely", "unsure"]


class Stage(StrEnum):
    """The funnel, in order: the last one that a patient has passed."""

    FOUND = "found"
    READABLE = "readable"
    MR_LIVER = "MR liver"
    PHASES = "phases complete"
    LESION = "lesion located"
    LABEL = "label known"
    USABLE = "usable"
    USED = "used"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Finding(_Record):
    """Something found about a patient.

    Attributes:
        code: short and stable, for counting (``no-pre-contrast``, ``mask-empty``).
        text: in words, nothing identifying in it.
        remedy: what to do, empty where nothing need be done.
        stops: the stage that the patient does not reach because of it; None for a remark.
    """

    code: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    text: str
    remedy: str = ""
    stops: Stage | None = None


class SeriesRecord(_Record):
    """One time point of one series, and what it was taken for.

    Attributes:
        number: order of acquisition within the patient, from one.
        taken_for: a phase, ``other`` (T2, diffusion, in/out of phase, localiser), or None: not recognised.
        rule: the rule that decided, in words.
        certainty: of that.
        used: whether it became a phase of the patient.
        note: description as far as nothing in it identifies anybody; why it was not used.
    """

    number: int
    taken_for: Phase | Literal["other"] | None
    rule: str
    certainty: Certainty
    used: bool
    note: str = ""
    shape_dhw: tuple[int, int, int] | None = None
    spacing_mm_dhw: tuple[float, float, float] | None = None
    seconds_after_first: float | None = None
    field_strength_t: float | None = None
    manufacturer: str = ""
    files: int = 0


class PhaseRecord(_Record):
    """One phase as it was written.

    Attributes:
        file: relative to the site's folder.
        sha256: of the file.
        pixels: SHA-256 of shape, spacing and voxels: equal for equal images, whatever their names.
        aligned: how it was brought onto the reference phase.
        shift_mm: how far the lesion's place was moved.
        residual_mm: the shift that was still measured afterwards; None where it was not measured.
        lesion_median, surroundings_median: signal within the lesion, and in a shell of 10 mm around it.
    """

    phase: Phase
    file: str
    sha256: str
    pixels: str
    aligned: Literal["reference", "off", "rigid", "deformable"]
    shift_mm: float = 0.0
    residual_mm: float | None = None
    lesion_median: float | None = None
    surroundings_median: float | None = None


class LesionRecord(_Record):
    """One lesion: a case of its own.

    Attributes:
        case: the name in ``cases.csv``.
        mask: file relative to the site's folder.
        drawn_on: the phase whose grid the mask has, and the reference of the registration.
        volume_ml: of the mask.
        centre_mm_zyx: LPS.
    """

    case: str
    mask: str
    sha256: str
    drawn_on: Phase
    volume_ml: float
    centre_mm_zyx: tuple[float, float, float]


class PatientRecord(_Record):
    """All that became of one patient.

    Attributes:
        patient: the pseudonym.
        inputs: digest of the source's files, the settings and the version that made this.
        reached: the last stage passed here (``USED`` is known only when a study was prepared).
        label: 1 proliferative, 0 not, -1 not known.
        split: train or validation, where the source itself splits.
        findings: why it stopped, and remarks.
        signature: 16^3 voxels around the lesion's place in the reference phase, grey values in 0-255 as base64,
            for finding near-identical patients; empty where no image was written.
        fitted: its images carry no spacing at all and are stretched over the whole crop.
        thumbnails: the patient's row of the contact sheet, relative to the site's folder; empty where there is
            none.
    """

    schema_version: Literal[1] = 1
    patient: str
    inputs: str
    reached: Stage
    label: Literal[-1, 0, 1] = -1
    afp_ng_ml: float | None = None
    centre: str | None = None
    split: Literal["train", "validation"] | None = None
    findings: tuple[Finding, ...] = ()
    series: tuple[SeriesRecord, ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    lesions: tuple[LesionRecord, ...] = ()
    unreadable_files: int = 0
    signature: str = ""
    fitted: bool = False
    thumbnails: str = ""

    def series_of(self, phase: Phase) -> SeriesRecord | None:
        """The series that became a phase; None where none did."""
        return next((one for one in self.series if one.used and one.taken_for == phase), None)
