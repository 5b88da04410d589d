"""From all patients that were found to those that are used, stage by stage and class by class; nobody is lost.

A patient without a known label is no dropout: it does not count as ``label known``, and goes on for
pre-training only. From that stage on both numbers are said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from phcc_client.ingest.record import Finding, PatientRecord, Stage

Class = Literal["proliferative", "not proliferative", "unknown"]
CLASSES: tuple[Class, ...] = ("proliferative", "not proliferative", "unknown")
STAGES: tuple[Stage, ...] = tuple(Stage)

_CLASS_OF: dict[int, Class] = {1: "proliferative", 0: "not proliferative", -1: "unknown"}
_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageCount(_Part):
    """How many patients passed a stage.

    Attributes:
        stage: which.
        proliferative, not_proliferative, unknown: by label. At ``label known`` and after it, those of unknown
            label are the ones that are for pre-training only.
        total: all of them; at ``label known`` and after it those with a label.
        pretraining_only: as `unknown` from ``label known`` on, 0 before.
    """

    stage: Stage
    proliferative: _Count
    not_proliferative: _Count
    unknown: _Count
    total: _Count
    pretraining_only: _Count = 0


class DropOut(_Part):
    """One patient who did not get through.

    Attributes:
        patient: pseudonym.
        label: 1, 0, -1.
        stage: the first one that was not reached.
        code, text, remedy: of the finding that stopped it.
        further: other findings that would have stopped it too, in words.
    """

    patient: str
    label: Literal[-1, 0, 1]
    stage: Stage
    code: str
    text: str
    remedy: str
    further: tuple[str, ...] = ()


class Reason(_Part):
    """One reason, and how many it stopped."""

    stage: Stage
    code: str
    patients: _Count
    example: str
    remedy: str


class Funnel(_Part):
    """The funnel.

    Attributes:
        stages: one count per stage, in order; `used` is left out where no study was prepared yet.
        dropouts: everyone who did not reach ``usable``, in the order of stages, reasons and names.
        reasons: counted, in the same order.
        not_used: usable patients that the prepared study leaves out; empty where none was prepared.
        used_though_stopped: patients in the prepared study who are not usable any more.
    """

    stages: tuple[StageCount, ...]
    dropouts: tuple[DropOut, ...] = ()
    reasons: tuple[Reason, ...] = ()
    not_used: tuple[str, ...] = ()
    used_though_stopped: tuple[str, ...] = ()

    def at(self, stage: Stage) -> StageCount | None:
        """The count of one stage; None for `used` where no study was prepared."""
        return next((count for count in self.stages if count.stage == stage), None)


def make_funnel(records: Sequence[PatientRecord], used: Mapping[str, bool] | None = None) -> Funnel:
    """Count.

    Args:
        records: of one site.
        used: for each case of the prepared study whether it is used; None where no study was prepared.
    """
    failed = {record.patient: not_reached(record) for record in records}
    usable = [record for record in records if failed[record.patient] is None]
    taken = {record.patient for record in records if used and any(used.get(c.case) for c in record.lesions)}
    counts = []
    for stage in STAGES[:-1]:
        after = STAGES.index(stage)
        passed = [r for r in records if (f := failed[r.patient]) is None or STAGES.index(f) > after]
        counts.append(_count(stage, passed))
    if used is not None:
        counts.append(_count(Stage.USED, [record for record in usable if record.patient in taken]))
    dropouts = sorted(
        (_dropout(record, at) for record in records if (at := failed[record.patient]) is not None),
        key=lambda one: (STAGES.index(one.stage), one.code, one.patient),
    )
    return Funnel(
        stages=tuple(counts),
        dropouts=tuple(dropouts),
        reasons=_reasons(dropouts),
        not_used=tuple(sorted(r.patient for r in usable if used is not None and r.patient not in taken)),
        used_though_stopped=tuple(sorted(taken - {record.patient for record in usable})),
    )


def not_reached(record: PatientRecord) -> Stage | None:
    """The first stage that a patient did not reach, ``usable`` at the latest; None for a usable one.

    An unknown label alone stops nobody. Where the record's own last stage and its findings disagree, the
    earlier of the two counts.
    """
    stopped = [STAGES.index(finding.stops) for finding in record.findings if finding.stops is not None]
    unlabelled = record.label == -1
    label = STAGES.index(Stage.LABEL)
    if unlabelled:
        stopped = [stage for stage in stopped if stage != label]
    after = STAGES.index(record.reached) + 1
    # Who stopped before the label for want of one only is let through.
    if not (unlabelled and after == label and not stopped and record.phases):
        stopped.append(after)
    first = STAGES[min(stopped)] if stopped and min(stopped) < len(STAGES) else Stage.USED
    return None if first == Stage.USED else first


def class_of(label: int) -> Class:
    """A label's class."""
    return _CLASS_OF[label]


def _count(stage: Stage, passed: Sequence[PatientRecord]) -> StageCount:
    by = Counter(record.label for record in passed)
    labelled = STAGES.index(stage) >= STAGES.index(Stage.LABEL)
    return StageCount(
        stage=stage,
        proliferative=by[1],
        not_proliferative=by[0],
        unknown=by[-1],
        total=by[1] + by[0] + (0 if labelled else by[-1]),
        pretraining_only=by[-1] if labelled else 0,
    )


def _dropout(record: PatientRecord, stage: Stage) -> DropOut:
    stopping = [finding for finding in record.findings if finding.stops is not None]
    first = next((finding for finding in stopping if finding.stops == stage), None) or _unsaid(stage)
    return DropOut(
        patient=record.patient,
        label=record.label,
        stage=stage,
        code=first.code,
        text=first.text,
        remedy=first.remedy,
        further=tuple(dict.fromkeys(f.text for f in stopping if f is not first and f.text != first.text)),
    )


def _unsaid(stage: Stage) -> Finding:
    return Finding(
        code="no-reason-recorded",
        text=f"its record does not say why it did not reach '{stage}'",
        remedy="Run phcc-client ingest again; if it stays, report it",
        stops=stage,
    )


def _reasons(dropouts: Sequence[DropOut]) -> tuple[Reason, ...]:
    groups: dict[tuple[Stage, str], list[DropOut]] = defaultdict(list)
    for one in dropouts:
        groups[one.stage, one.code].append(one)
    return tuple(
        Reason(
            stage=stage,
            code=code,
            patients=len(group),
            example=group[0].text,
            remedy=group[0].remedy,
        )
        for (stage, code), group in groups.items()
    )
