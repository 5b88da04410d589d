"""What ``package.json`` says: everything about a model that left its study, but the weights themselves."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from phcc_model.config import Fraction, Phase, StudyConfig

FORMAT = 1
"""Raised when a key changes its name or meaning; a package of a later format is refused."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]
"""Of a file within the package: never absolute, never upwards, never hidden."""


class Part(BaseModel):
    """A part of the description: frozen, no unknown key, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Span(Part):
    """From a low to a high value."""

    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Span:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self

    def holds(self, value: float) -> bool:
        """Whether a value lies within; one that is not a number does not."""
        return self.low <= value <= self.high


class Between(Part):
    """Seconds from one phase to a later one."""

    first: Phase
    then: Phase
    seconds: Span


class Seen(Part):
    """What the model saw in training, so that what it never saw can be told; None where nothing is known.

    A span reaches from the lowest 5th to the highest 95th percentile of all hospitals: nothing finer leaves one.

    Attributes:
        patients: who were trained on at the hospitals that these ranges come from.
        sites: how many hospitals these are; None where an earlier version wrote it.
        spacing_mm: of the images as measured, along the slices, the rows and the columns (D, H, W).
        field_t: field strength, tesla.
        enhancement: by phase, ln(phase / before contrast) of the tissue around the lesion.
        seconds: between phases.
    """

    patients: int = Field(ge=1)
    sites: int | None = Field(None, ge=1)
    spacing_mm: tuple[Span, Span, Span] | None = None
    field_t: Span | None = None
    enhancement: dict[Phase, Span] = {}
    seconds: tuple[Between, ...] = ()


class Threshold(Part):
    """From which probability on a case is called positive, and who fixed it when."""

    value: Fraction
    source: str


class Recalibration(Part):
    """``logit(p') = intercept + slope * logit(p)`` (Cox, Biometrika 1958;45:562-565), and on whom it was fitted.

    The slope is above zero, so that no two cases change places.
    """

    intercept: float = Field(ge=-100.0, le=100.0)
    slope: float = Field(gt=0.0, le=100.0)
    source: str


class ArrayNote(Part):
    """One array of the weights."""

    name: str
    dtype: str
    shape: tuple[Annotated[int, Field(ge=0)], ...]


class PackageFile(Part):
    """``package.json``.

    Attributes:
        format: of this description.
        software: version of this project that wrote it.
        arm: of the study.
        study: the arm's study: phases, crop, normalisation, model; without a path of anybody's disk.
        study_digest: `StudyConfig.digest` of it.
        weights_digest: `phcc_model.checkpoint.state_digest` of the weights, as the run's ledger names it.
        stage_round: the chosen round of the fine-tuning, from 0.
        arrays: names, dtypes and shapes of the weights, by name.
        threshold: frozen in the run.
        calibration: None where the run holds nothing to fit it on.
        calibration_note: where it comes from, or why there is none.
        seen: what the model saw in training; None where the run does not say.
        files: SHA-256 of every other file of the package.
        digest: SHA-256 of all of the above: the package's name.
    """

    format: Literal[1] = 1
    software: str
    arm: str
    study: StudyConfig
    study_digest: Digest
    weights_digest: Digest
    stage_round: int = Field(ge=0)
    arrays: tuple[ArrayNote, ...]
    threshold: Threshold
    calibration: Recalibration | None = None
    calibration_note: str
    seen: Seen | None = None
    files: dict[FileName, Digest]
    digest: Digest = "0" * 64

    @property
    def own_digest(self) -> str:
        """What `digest` must be."""
        return content_digest(self.model_dump(mode="json"))

    def sealed(self) -> PackageFile:
        """The same with its digest."""
        return self.model_copy(update={"digest": self.own_digest})


def content_digest(plain: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of everything but the digest itself."""
    rest = {key: value for key, value in plain.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
