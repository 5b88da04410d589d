"""What ``summary.json`` holds: every figure of a study's report, in one frozen model.

A figure that is not defined is null, and a reason in words stands beside it: `ArmResult.reason` for the AUC,
`ArmResult.reasons` for the rest. Nothing is ever NaN.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from phcc_model.config import DataSettings
from phcc_model.outcome import Outcome, outcome_of
from phcc_model.package_schema import Seen

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
    seen: Seen | None = Field(None, description="what the training patients' images look like, as sites said")
    outcome: Outcome | None = Field(None, description="what is predicted, in words; None in old summaries")

    @property
    def about(self) -> Outcome:
        """What is predicted; from the source where an earlier version wrote the summary."""
        if self.outcome is not None:
            return self.outcome
        old = {"medmnist": DataSettings(source="medmnist", label="adrenal")}
        return outcome_of(old.get(self.source, DataSettings()))


class CalibrationPoint(Part):
    """Cases with neighbouring scores: mean score, share of positives with its exact interval, and how many."""

    predicted: float
    observed: float | None
    ci: Limits
    n: int


class DecisionPoint(Part):
    """Net benefit of acting from a probability on, beside that of acting on everybody (see `decision.py`)."""

    threshold: float
    net_benefit: float
    treat_all: float


class PredictiveAt(Part):
    """Predictive values at a prevalence taken from elsewhere; null where nobody is called so."""

    prevalence: float
    ppv: float | None
    ppv_ci: Limits = None
    npv: float | None
    npv_ci: Limits = None


class ArmResult(Part):
    """One arm on one split.

    Attributes:
        n: cases scored whose label is known.
        n_pos: positive ones.
        ci: of the AUC, by `ci_method` (see `phcc_model.statistics.delong`).
        bootstrap_ci: of the AUC, patients drawn with all their cases.
        threshold: frozen before these cases were scored; null where folds have their own.
        predictive: predictive values at other prevalences.
        average_precision: area below the steps of `precision_recall`, corners of (recall, precision).
        calibration: bins of the calibration plot.
        decision: the decision curve.
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
    f1: float | None = None
    f1_ci: Limits = None
    predictive: tuple[PredictiveAt, ...] = ()
    average_precision: float | None = None
    precision_recall: tuple[tuple[float, float], ...] = ()
    decision: tuple[DecisionPoint, ...] = ()
    brier: float | None = None
    calibration_intercept: float | None = None
    calibration_intercept_ci: Limits = None
    calibration_slope: float | None = None
    calibration_slope_ci: Limits = None
    calibration: tuple[CalibrationPoint, ...] = ()
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


class PooledResult(Part):
    """The mean AUC of an arm over centres, by random-effects meta-analysis (see `phcc_model.statistics.meta`).

    Attributes:
        split: whose centres: ``internal``, ``external``, or ``centres`` for all of them.
        ci: Hartung-Knapp.
        prediction: where the AUC of one more such centre is expected.
        i2: share of the spread that chance within the centres does not explain.
        tau2: variance between centres, of the logit.
        q_p: p-value of no difference between the centres.
        left_out: centre -> why it has no AUC.
    """

    arm: str
    split: str
    auc: float | None
    ci: Limits = None
    prediction: Limits = None
    i2: float | None = None
    tau2: float | None = None
    q_p: float | None = None
    centres: int = 0
    left_out: dict[str, str] = {}
    reason: str | None = None
    warnings: tuple[str, ...] = ()


class GroupResult(Part):
    """One part of the test patients, internal and external together.

    Attributes:
        trait: by what they are parted.
        too_small: why nothing can be said of the group; null where something can.
        p: of no difference between the trait's groups that are large enough; not corrected.
    """

    arm: str
    trait: str
    group: str
    auc: float | None
    ci: Limits
    n: int
    n_pos: int
    patients: int
    too_small: str | None = None
    p: float | None = None


class GapResult(Part):
    """AUC in training minus AUC in a test; over-fitting shows as a gap far above 0.

    Attributes:
        source: ``scores`` of the training patients, or ``reported``: what the sites said during the chosen
            round, of the model as it learned; then there is no interval.
    """

    arm: str
    split: str
    training: float | None
    gap: float | None
    ci: Limits = None
    source: Literal["scores", "reported"] = "scores"
    reason: str | None = None


class Failure(Part):
    """A test case on the wrong side of the threshold, and how far: between 0 and 1, where 1 is surest."""

    arm: str
    split: str
    centre: str
    patient: str
    case: str
    label: int
    score: float
    threshold: float
    sureness: float


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
        pooled: means over centres.
        subgroups: of the reference arm.
        gaps: training beside tests.
        failures: the surest mistakes of the reference arm, by pseudonym; empty where scores stay at the sites.
        binned: figures come from counts of scores per bin, no score left a site.
        notes: warnings from elsewhere.
        timing: seconds, by what took them.
        digests: SHA-256 by what it names.
    """

    format: int = FORMAT
    study: str
    confidence: float = 0.95
    data: DataSummary
    arms: dict[str, dict[str, ArmResult]]
    paired: tuple[PairedResult, ...] = ()
    pooled: tuple[PooledResult, ...] = ()
    subgroups: tuple[GroupResult, ...] = ()
    gaps: tuple[GapResult, ...] = ()
    failures: tuple[Failure, ...] = ()
    binned: bool = False
    notes: tuple[str, ...] = ()
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
