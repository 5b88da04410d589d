"""From scored cases and the record of rounds to the `Summary` of a study: a pure function."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from phcc_model.errors import DataError, SplitError
from phcc_model.seeds import generator
from phcc_model.statistics import (
    assess_calibration,
    auc_interval,
    bootstrap_auc,
    bootstrap_difference,
    operating_point,
    paired_delong,
)
from phcc_server.report.schema import (
    EXTERNAL,
    INTERNAL,
    TEST_SPLITS,
    TRAIN,
    VALIDATION,
    ArmResult,
    DataSummary,
    Limits,
    PairedResult,
    RoundSummary,
    Summary,
)

__all__ = ["RoundSummary", "ScoredCase", "Summary", "build_summary", "centre_split"]

_SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "validation": VALIDATION,
    "test": INTERNAL,
    "internal": INTERNAL,
    "external": EXTERNAL,
}


@dataclass(frozen=True)
class ScoredCase:
    """One case as one arm scored it.

    Attributes:
        split: ``train``, ``validation``, ``internal`` (or ``test``), ``external``.
        label: 1 proliferative, 0 not, -1 unknown.
        score: probability of 1; None or NaN where the arm cannot score the case (no AFP, no such phase).
        threshold: frozen before; None where there is none.
    """

    arm: str
    case: str
    patient: str
    centre: str
    split: str
    label: int
    score: float | None
    threshold: float | None = None

    @property
    def scored(self) -> bool:
        """Whether there is a score and a label to hold against it."""
        return self.label in (0, 1) and self.score is not None and math.isfinite(self.score)


@dataclass(frozen=True)
class _Settings:
    confidence: float
    bootstrap: int
    seed: int


@dataclass(frozen=True)
class _Columns:
    label: NDArray[np.int8]
    score: NDArray[np.float64]
    patient: NDArray[np.str_]

    @staticmethod
    def of(rows: Sequence[ScoredCase]) -> _Columns:
        return _Columns(
            np.array([row.label for row in rows], dtype=np.int8),
            np.array([row.score for row in rows], dtype=np.float64),
            np.array([f"{row.centre}\x1f{row.patient}" for row in rows], dtype=np.str_),
        )


def centre_split(centre: str) -> str:
    """The key under which a centre's test patients stand among the splits."""
    return f"centre {centre}" if centre in _SPLITS else centre


def build_summary(
    scored: Iterable[ScoredCase],
    *,
    study: str,
    data: DataSummary | Mapping[str, Any],
    rounds: Sequence[RoundSummary | Mapping[str, Any]] = (),
    best_possible_auc: Mapping[str, float | None] | None = None,
    timing: Mapping[str, JsonValue] | None = None,
    digests: Mapping[str, str] | None = None,
    reference: str | None = None,
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Summary:
    """Work out every figure of a study.

    Args:
        scored: every case of every arm, in any order.
        study: its name.
        data: what the data are.
        rounds: records of rounds, e.g. a ledger's, dumped.
        best_possible_auc: by what a score may see; synthetic data only.
        timing: seconds.
        digests: by what they name.
        reference: the arm that every other one is tested against; without it ``full``, or the first one.
        confidence: coverage of every interval.
        bootstrap: replicates; 0 leaves it out.
        seed: of the bootstrap.

    Raises:
        DataError: a case stands twice in an arm, or a split or the reference arm is not known.
        SplitError: a patient stands on two sides.
    """
    rows = _checked(scored)
    settings = _Settings(confidence, bootstrap, seed)
    arms = tuple(dict.fromkeys(row.arm for row in rows))
    # From here on the order in which the cases came plays no part.
    groups = _by_arm_and_split(sorted(rows, key=lambda row: (row.centre, row.patient, row.case)))
    splits = _split_order(rows)
    if reference is None and arms:
        reference = "full" if "full" in arms else arms[0]
    if reference is not None and reference not in arms:
        raise DataError(f"no case is scored by the arm {reference!r}", where="reference arm")
    return Summary(
        study=study,
        confidence=confidence,
        data=DataSummary.model_validate(data),
        arms={
            arm: {split: _result(groups.get((arm, split), []), settings, split) for split in splits}
            for arm in arms
        },
        paired=tuple(
            _paired(reference, arm, split, groups, settings)
            for split in splits
            for arm in arms
            if reference is not None and arm != reference and split not in (TRAIN, VALIDATION)
        ),
        best_possible_auc=dict(best_possible_auc or {}),
        rounds=tuple(RoundSummary.model_validate(record) for record in rounds),
        timing=dict(timing or {}),
        digests=dict(digests or {}),
    )


def _checked(scored: Iterable[ScoredCase]) -> tuple[ScoredCase, ...]:
    rows = []
    sides: dict[tuple[str, str, str], str] = {}
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in scored:
        if row.split not in _SPLITS:
            raise DataError(
                f"the split {row.split!r} is not known",
                where=f"case {row.case}",
                remedy=f"Name one of {', '.join(_SPLITS)}",
            )
        plain = replace(row, split=_SPLITS[row.split])
        seen[row.arm, row.centre, row.case] += 1
        if seen[row.arm, row.centre, row.case] > 1:
            raise DataError(f"stands twice in the scores of arm {row.arm!r}", where=f"case {row.case}")
        side = sides.setdefault((row.arm, row.centre, row.patient), plain.split)
        if side != plain.split:
            raise SplitError(
                f"stands on two sides, {side} and {plain.split}",
                where=f"patient {row.patient} of {row.centre}",
                remedy="Split by patient, each in one place",
            )
        rows.append(plain)
    return tuple(rows)


def _split_order(rows: Sequence[ScoredCase]) -> tuple[str, ...]:
    """Train and validation where there are any, internal and external always, then the centres by name."""
    named = {row.split for row in rows}
    centres = {centre_split(row.centre) for row in rows if row.split in TEST_SPLITS}
    return (*(split for split in (TRAIN, VALIDATION) if split in named), *TEST_SPLITS, *sorted(centres))


def _by_arm_and_split(rows: Sequence[ScoredCase]) -> dict[tuple[str, str], list[ScoredCase]]:
    groups: dict[tuple[str, str], list[ScoredCase]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.split), []).append(row)
        if row.split in TEST_SPLITS:
            groups.setdefault((row.arm, centre_split(row.centre)), []).append(row)
    return groups


def _result(rows: Sequence[ScoredCase], settings: _Settings, split: str) -> ArmResult:
    usable = [row for row in rows if row.scored]
    columns = _Columns.of(usable)
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
    if drawn.reason is not None:
        reasons["bootstrap_ci"] = drawn.reason
    warnings = [*_left_out(rows), *area.warnings]
    if area.patients < area.n:
        warnings.append("several cases of one patient: intervals at the threshold take them as independent")
    return ArmResult(
        auc=area.auc,
        ci=_limits(area.low, area.high),
        n=area.n,
        n_pos=area.n_pos,
        patients=area.patients,
        ci_method=area.method,
        standard_error=area.standard_error,
        bootstrap_ci=_limits(drawn.low, drawn.high),
        reason=area.reason,
        reasons=reasons | more,
        warnings=tuple(warnings),
        **figures,
        **further,
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
    usable: Sequence[ScoredCase], columns: _Columns, settings: _Settings
) -> tuple[dict[str, Any], dict[str, str]]:
    names = ("sensitivity", "specificity", "ppv", "npv")
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
        figures[name], figures[f"{name}_ci"] = share.value, _limits(share.low, share.high)
        if share.reason is not None:
            reasons[name] = share.reason
    return figures, reasons


def _calibration(columns: _Columns, settings: _Settings) -> tuple[dict[str, Any], dict[str, str]]:
    found = assess_calibration(columns.label, columns.score, confidence=settings.confidence)
    figures: dict[str, Any] = {"brier": found.brier}
    reasons = {} if found.reason is None else {"brier": found.reason}
    for name in ("intercept", "slope"):
        coefficient = getattr(found, name)
        figures[f"calibration_{name}"] = coefficient.value
        figures[f"calibration_{name}_ci"] = _limits(coefficient.low, coefficient.high)
        if coefficient.reason is not None:
            reasons[f"calibration_{name}"] = coefficient.reason
    return figures, reasons


def _paired(
    a: str,
    b: str,
    split: str,
    groups: Mapping[tuple[str, str], Sequence[ScoredCase]],
    settings: _Settings,
) -> PairedResult:
    of_a = {(row.centre, row.case): row for row in groups.get((a, split), []) if row.scored}
    of_b = {(row.centre, row.case): row for row in groups.get((b, split), []) if row.scored}
    both = [key for key in of_a if key in of_b]
    if differing := [key for key in both if of_a[key].label != of_b[key].label]:
        raise DataError(f"has another label in arm {b!r} than in {a!r}", where=f"case {differing[0][1]}")
    first, second = _Columns.of([of_a[key] for key in both]), _Columns.of([of_b[key] for key in both])
    columns = first.label, first.score, second.score, first.patient
    test = paired_delong(*columns, confidence=settings.confidence)
    drawn = bootstrap_difference(
        *columns,
        generator=generator(settings.seed, "bootstrap", split),
        replicates=settings.bootstrap,
        confidence=settings.confidence,
    )
    warnings = list(test.warnings)
    if not len(both) == len(of_a) == len(of_b):
        warnings.insert(0, f"on the {len(both)} cases that both arms scored ({len(of_a)} and {len(of_b)})")
    return PairedResult(
        a=a,
        b=b,
        split=split,
        delta=test.delta,
        ci=_limits(test.low, test.high),
        p=test.p,
        n=test.n,
        n_pos=test.n_pos,
        bootstrap_ci=_limits(drawn.low, drawn.high),
        reason=test.reason,
        warnings=tuple(warnings),
    )


def _limits(low: float | None, high: float | None) -> Limits:
    return None if low is None or high is None else (low, high)
