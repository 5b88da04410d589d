"""What a prediction says, for machines: ``prediction.json``.

It names the patient as the input does, and so stays in the hospital.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from phcc_client.ingest.record import Certainty
from phcc_model.config import DataSettings, Phase
from phcc_model.outcome import outcome_of

NOTICE = "RESEARCH USE ONLY"
NOT_FOR_DIAGNOSIS = (
    "Not a medical device. Not for diagnosis, not for any decision about a patient's treatment."
)

Verdict = Literal["positive", "negative"]


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Caution(_Note):
    """Why a score may not mean what it says.

    Attributes:
        code: short and stable, for counting.
        text: in words.
        remedy: what to do, empty where nothing can be done.
        basis: ``model`` outside what this model saw in training; ``plausible`` outside what is usual for such
            examinations, whoever the model's patients were; ``images`` seen in the images or headers themselves.
    """

    code: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    text: str
    remedy: str = ""
    basis: Literal["model", "plausible", "images"] = "images"


class PhaseNote(_Note):
    """One phase of the study, and which image stands for it.

    Attributes:
        used: whether there is an image of it.
        rule: the rule that decided that this image is this phase.
        certainty: of that; empty where there is no image.
        series_number: order of acquisition within the examination, from one.
        spacing_mm_dhw: of the image; (slice, row, column).
        field_strength_t: of the scanner, tesla.
        manufacturer: of the scanner.
        seconds: after the first image of the examination.
        aligned: how it was brought onto the lesion's phase.
        shift_mm: how far the lesion's place was moved for that.
        residual_mm: the shift that was measured afterwards.
        enhancement: natural logarithm of the ratio of the tissue around the lesion to that before contrast.
        attention: the share of the model's attention, where it has any.
    """

    phase: Phase
    used: bool
    rule: str = ""
    certainty: Certainty | Literal[""] = ""
    series_number: int | None = None
    spacing_mm_dhw: tuple[float, float, float] | None = None
    field_strength_t: float | None = None
    manufacturer: str = ""
    seconds: float | None = None
    aligned: str = ""
    shift_mm: float | None = None
    residual_mm: float | None = None
    enhancement: float | None = None
    attention: float | None = None


class LesionNote(_Note):
    """The lesion that was scored.

    Attributes:
        number: within the patient, where there are several.
        drawn_on: the phase whose grid it is drawn on.
        volume_ml: of the mask or box, on the crop's grid.
        extent_mm_dhw: of its bounding box.
        inside_crop: the share of it that the crop holds.
    """

    number: int = 1
    drawn_on: Phase | None = None
    volume_ml: float
    extent_mm_dhw: tuple[float, float, float]
    inside_crop: float = 1.0


class PackageNote(_Note):
    """The model that scored, and what its score is the probability of."""

    study: str
    study_digest: str
    arm: str
    digest: str
    event: str = outcome_of(DataSettings()).event


class InputNote(_Note):
    """What was scored.

    Attributes:
        kind: of the source.
        digest: SHA-256 over what was read: the patient's files, the drawing, the rules and the options.
        files: how many there were.
        examined: date of the examination, ISO, where the source tells one.
        study_uid: StudyInstanceUID, where there is one.
        registration: of the other phases onto the lesion's.
    """

    kind: Literal["dicom", "nifti-csv", "lld-raw", "lld-crops", "prepared"]
    digest: str
    files: int
    examined: str = ""
    study_uid: str = ""
    registration: str


class Prediction(_Note):
    """All that came of it.

    Attributes:
        notice: what this is, and what it is not.
        patient: as the input names it.
        case: the lesion's name.
        score: the model's own probability, to which the threshold belongs.
        probability: the score after the package's recalibration; equal to it where the package has none.
        recalibrated: whether it has one.
        threshold: frozen on validation patients before any test patient was looked at.
        verdict: ``positive`` where the score reaches the threshold.
        not_checked: what could not be compared, because input or package do not say.
        files: name below the output's folder -> SHA-256.
        software: version of this package.
    """

    schema_version: Literal[1] = 1
    notice: str = f"{NOTICE}. {NOT_FOR_DIAGNOSIS}"
    patient: str
    case: str
    score: float
    probability: float
    recalibrated: bool
    threshold: float
    verdict: Verdict
    phases: tuple[PhaseNote, ...]
    lesion: LesionNote
    warnings: tuple[Caution, ...]
    not_checked: tuple[str, ...] = ()
    package: PackageNote
    input: InputNote
    files: dict[str, str] = Field(default_factory=dict)
    software: str
