"""What ``summary.json`` holds: every figure of a study's report, in one frozen model.

A figure that is not defined is null, and a reason in words stands beside it: `ArmResult.reason` for the AUC,
`ArmResult.reasons` for the rest. Nothing is ever NaN.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

FORMAT = 1
"""Raised when a key changes its name or meaning."""

TRAIN, VALIDATION, INTERNAL, EXTERNAL = "train", "validation", "internal", "external"
TEST_SPLITS = (INTERNAL, EXTERNAL)
"""Patients that took no part in training: those held back at training centres, and other centres."""


def _none_if_not_finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_none_if_not_finite)]
"""A figure from outside; what is not finite becomes null."""

Limits = tuple[float, float] | None


class Part(BaseModel):
    """A part of the summary: frozen, no unknown key, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, from_attributes=True)


class Outside(BaseModel):
    """A part that another module describes: it may say more than is named here, and all of it is kept."""

    model_config = ConfigDict(frozen=True, extra="allow", from_attributes=True)
    __pydantic_extra__: dict[str, JsonValue]


class SplitCount(Part):
    """Patients of one split of one centre, by label."""

    centre: str
    split: str
    positives: int = 0
    negatives: int = 0
    unknown: int = 0

    @property
    def patients(self) -> int:
        """All of them."""
        return self.positives + self.negatives + self.unknown


class Funnel(Part):
    """What became of one centre's patients on the way into the study."""

    found: int
    used: int
    set_aside: dict[str, int] = Field({}, description="patients by the reason in words")


class DataSummary(Outside):
    """The data: whether they are synthetic comes first."""

    synthetic: bool
    source: str
    patients: int
    cases: int | None = None
    split: tuple[SplitCount, ...] = Field((), description="the picture of the split")
    funnel: dict[str, Funnel] = Field({}, description="by centre")


class ArmResult(Part):
    """One arm on one split.

    Attributes:
        n: cases scored whose label is known.
        n_pos: positive ones.
        ci: of the AUC, by `ci_method` (see `phcc_model.statistics.delong`).
        bootstrap_ci: of the AUC, patients drawn with all their cases.
        threshold: frozen before these cases were scored; null where folds have their own.
        reason: why there is no AUC.
        reasons: why another figure is null, by its key.
        warnings: what a reader must know before quoting a figure.
    """

    auc: float | None
    ci: Limits
    n: int
    n_pos: int
    patients: int
    ci_method: str | None = None
    standard_error: float | None = None
    bootstrap_ci: Limits = None
    threshold: float | None = None
    sensitivity: float | None = None
    sensitivity_ci: Limits = None
    specificity: float | None = None
    specificity_ci: Limits = None
    ppv: float | None = None
    ppv_ci: Limits = None
    npv: float | None = None
    npv_ci: Limits = None
    brier: float | None = None
    calibration_intercept: float | None = None
    calibration_intercept_ci: Limits = None
    calibration_slope: float | None = None
    calibration_slope_ci: Limits = None
    reason: str | None = None
    reasons: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class PairedResult(Part):
    """AUC of arm a minus AUC of arm b, on the cases that both scored.

    Attributes:
        p: two-sided, not corrected for the number of comparisons.
    """

    a: str
    b: str
    split: str
    delta: float | None
    ci: Limits
    p: float | None
    n: int
    n_pos: int
    bootstrap_ci: Limits = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()


class SiteSummary(Outside):
    """What one site gave to a round."""

    status: str = "accepted"
    reason: str | None = None
    patients: int | None = None
    cases: int | None = None
    seconds: Number = None
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: dict[str, Number] = {}


class ValidationSummary(Outside):
    """The round's model on all sites' validation patients."""

    loss: Number = None
    auc: Number = None


class RoundSummary(Outside):
    """One round of one arm; `round` counts from 0 within its stage."""

    arm: str
    stage: str
    round: int
    status: Literal["COMPLETE", "PARTIAL", "FAILED"]
    sites: dict[str, SiteSummary] = {}
    seconds: Number = None
    validation: ValidationSummary | None = None
    best: bool = False


class Summary(Part):
    """A study's results, whole.

    Attributes:
        arms: arm -> split -> figures; splits are `internal`, `external` and one per centre, further `train`
            and `validation` where they were scored.
        paired: the reference arm against every other one.
        best_possible_auc: known for synthetic data only, by what a score may see.
        timing: seconds, by what took them.
        digests: SHA-256 by what it names.
    """

    format: int = FORMAT
    study: str
    confidence: float = 0.95
    data: DataSummary
    arms: dict[str, dict[str, ArmResult]]
    paired: tuple[PairedResult, ...] = ()
    best_possible_auc: dict[str, Number] = {}
    rounds: tuple[RoundSummary, ...] = ()
    timing: dict[str, JsonValue] = {}
    digests: dict[str, str] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits, in the order of the report."""
        return tuple(dict.fromkeys(split for results in self.arms.values() for split in results))

    @property
    def centres(self) -> tuple[str, ...]:
        """The splits that are centres."""
        return tuple(split for split in self.splits if split not in (TRAIN, VALIDATION, *TEST_SPLITS))

    @property
    def ceiling(self) -> tuple[str, float] | None:
        """The best possible AUC with all that a score may see: what that is, and the figure."""
        known = {name: value for name, value in self.best_possible_auc.items() if value is not None}
        return max(known.items(), key=lambda item: item[1]) if known else None

    @property
    def incomplete(self) -> tuple[RoundSummary, ...]:
        """The rounds that are PARTIAL or FAILED."""
        return tuple(record for record in self.rounds if record.status != "COMPLETE")
