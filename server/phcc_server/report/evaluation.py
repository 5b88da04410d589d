"""Every figure of one arm on one group of cases: discrimination, calibration, usefulness, operating point."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phcc_model.seeds import generator
from phcc_model.statistics import (
    AucEstimate,
    OperatingPoint,
    assess_calibration,
    auc_interval,
    bootstrap_auc,
    decision_curve,
    operating_point,
    precision_recall,
    predictive_values,
)
from phcc_server.report.schema import (
    TEST_SPLITS,
    TRAIN,
    VALIDATION,
    ArmResult,
    CalibrationPoint,
    DecisionPoint,
    Limits,
    PredictiveAt,
)

PREVALENCES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""[F] Proliferative HCC makes up 20 to 50 % of cohorts; 10 % for a population that is less selected."""


@dataclass(frozen=True)
class ScoredCase:
    """One case as one arm scored it.

    Attributes:
        split: ``train``, ``validation``, ``internal`` (or ``test``), ``external``.
        label: 1 proliferative, 0 not, -1 unknown.
        score: probability of 1; None or NaN where the arm cannot score the case (no AFP, no such phase).
        threshold: frozen before; None where there is none.
        binned: whether it stands for one of a bin's cases: then its name is nobody's, and what is called alike
            in another arm is another case.
        traits: what subgroups are made of, e.g. ``{"vendor": "Aster"}``, in the order of the report; empty where
            it is not recorded.
        lesion_mm: the lesion's diameter; None where the data do not say.
    """

    arm: str
    case: str
    patient: str
    centre: str
    split: str
    label: int
    score: float | None
    threshold: float | None = None
    binned: bool = False
    traits: Mapping[str, str] = field(default_factory=dict)
    lesion_mm: float | None = None

    @property
    def scored(self) -> bool:
        """Whether there is a score and a label to hold against it."""
        return self.label in (0, 1) and self.score is not None and math.isfinite(self.score)


@dataclass(frozen=True)
class Settings:
    """How sure one wants to be: coverage of the intervals, replicates and seed of the bootstrap."""

    confidence: float
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class Columns:
    """Scored cases as columns, the patients' names unique over centres."""

    label: NDArray[np.int8]
    score: NDArray[np.float64]
    patient: NDArray[np.str_]

    @staticmethod
    def of(rows: Sequence[ScoredCase]) -> Columns:
        """Those of cases that have a score and a label."""
        return Columns(
            np.array([row.label for row in rows], dtype=np.int8),
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([f"{row.centre}\x1f{row.patient}" for row in rows], dtype=np.str_),
        )


def area_of(rows: Sequence[ScoredCase], confidence: float) -> AucEstimate:
    """The AUC of the cases that can be used."""
    columns = Columns.of([row for row in rows if row.scored])
    return auc_interval(columns.label, columns.score, columns.patient, confidence=confidence)


def evaluate(rows: Sequence[ScoredCase], settings: Settings, split: str) -> ArmResult:
    """All figures of one arm on one split.

    Raises:
        DataError: the labels or scores cannot be used.
    """
    usable = [row for row in rows if row.scored]
    columns = Columns.of(usable)
    area = auc_interval(columns.label, columns.score, columns.patient, confidence=settings.confidence)
    drawn = bootstrap_auc(
        columns.label,
        columns.score,
        columns.patient,
        # One stream per split and not per arm: all arms are judged on the same draws of patients.
        generator=generator(settings.seed, "bootstrap", split),
        replicates=0 if split in (TRAIN, VALIDATION) else settings.bootstrap,
        confidence=settings.confidence,
    )
    figures, reasons = _at_threshold(usable, columns, settings)
    further, more = _calibration(columns, settings)
    curves, missing = _curves(columns, split)
    if drawn.reason is not None:
        reasons["bootstrap_ci"] = drawn.reason
    warnings = [*_left_out(rows), *area.warnings]
    if area.patients < area.n:
        warnings.append("several cases of one patient: intervals at the threshold take them as independent")
    return ArmResult(
        auc=area.auc,
        ci=limits_of(area.low, area.high),
        n=area.n,
        n_pos=area.n_pos,
        patients=area.patients,
        ci_method=area.method,
        standard_error=area.standard_error,
        bootstrap_ci=limits_of(drawn.low, drawn.high),
        reason=area.reason,
        reasons=reasons | more | missing,
        warnings=tuple(warnings),
        **figures,
        **further,
        **curves,
    )


def _left_out(rows: Sequence[ScoredCase]) -> list[str]:
    unknown = sum(row.label not in (0, 1) for row in rows)
    unscored = sum(row.label in (0, 1) and not row.scored for row in rows)
    found = []
    if unknown:
        found.append(f"{unknown} of {len(rows)} cases have no label and are left out")
    if unscored:
        found.append(f"{unscored} of {len(rows)} cases have no score from this arm and are left out")
    return found


def _at_threshold(
    usable: Sequence[ScoredCase], columns: Columns, settings: Settings
) -> tuple[dict[str, Any], dict[str, str]]:
    names = ("sensitivity", "specificity", "ppv", "npv", "f1")
    cuts = [row.threshold for row in usable if row.threshold is not None and math.isfinite(row.threshold)]
    if not usable or len(cuts) < len(usable):
        reason = "no threshold was frozen" if usable else "no cases"
        return {}, dict.fromkeys(("threshold", *names), reason)
    figures: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if len(set(cuts)) == 1:
        figures["threshold"] = cuts[0]
    else:
        reasons["threshold"] = f"{len(set(cuts))} thresholds, each frozen on its own training patients"
    point = operating_point(columns.label, columns.score, np.array(cuts), confidence=settings.confidence)
    for name in names:
        share = getattr(point, name)
        figures[name], figures[f"{name}_ci"] = share.value, limits_of(share.low, share.high)
        if share.reason is not None:
            reasons[name] = share.reason
    if point.sensitivity.value is not None and point.specificity.value is not None:
        figures["predictive"] = tuple(_predictive(point, at, settings.confidence) for at in PREVALENCES)
    return figures, reasons


def _predictive(point: OperatingPoint, prevalence: float, confidence: float) -> PredictiveAt:
    found = predictive_values(point, prevalence, confidence=confidence)
    return PredictiveAt(
        prevalence=prevalence,
        ppv=found.ppv,
        ppv_ci=limits_of(found.ppv_low, found.ppv_high),
        npv=found.npv,
        npv_ci=limits_of(found.npv_low, found.npv_high),
    )


def _curves(columns: Columns, split: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Precision-recall and decision curve; their corners for the tests only, which are drawn."""
    found = precision_recall(columns.label, columns.score)
    figures: dict[str, Any] = {"average_precision": found.average_precision}
    reasons = {} if found.reason is None else {"average_precision": found.reason}
    if split in TEST_SPLITS:
        corners = zip(found.recall_k.tolist(), found.precision_k.tolist(), strict=True)
        curve = decision_curve(columns.label, columns.score)
        points = zip(curve.threshold_t, curve.net_benefit_t, curve.treat_all_t, strict=True)
        figures["precision_recall"] = tuple(corners)
        figures["decision"] = tuple(
            DecisionPoint(threshold=float(cut), net_benefit=float(benefit), treat_all=float(everybody))
            for cut, benefit, everybody in points
        )
        if curve.reason is not None:
            reasons["decision"] = curve.reason
    return figures, reasons


def _calibration(columns: Columns, settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    # A bin of fewer than about fifteen cases shows chance and little else.
    bins = min(10, max(3, len(columns.label) // 15))
    found = assess_calibration(columns.label, columns.score, bins=bins, confidence=settings.confidence)
    figures: dict[str, Any] = {
        "brier": found.brier,
        "calibration": tuple(
            CalibrationPoint(
                predicted=one.predicted,
                observed=one.observed.value,
                ci=limits_of(one.observed.low, one.observed.high),
                n=one.observed.trials,
            )
            for one in found.bins
        ),
    }
    reasons = {} if found.reason is None else {"brier": found.reason}
    for name in ("intercept", "slope"):
        coefficient = getattr(found, name)
        figures[f"calibration_{name}"] = coefficient.value
        figures[f"calibration_{name}_ci"] = limits_of(coefficient.low, coefficient.high)
        if coefficient.reason is not None:
            reasons[f"calibration_{name}"] = coefficient.reason
    return figures, reasons


def limits_of(low: float | None, high: float | None) -> Limits:
    """Both limits, or none."""
    return None if low is None or high is None else (low, high)
