"""The check as one HTML page for people: no script, no font, no request; the pictures lie beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from phcc_client.ingest.check_result import Check, Remark, usable
from phcc_client.ingest.funnel import DropOut, Funnel, Reason, StageCount, class_of
from phcc_client.ingest.record import Finding, PatientRecord, PhaseRecord, SeriesRecord, Stage

_OPEN = 15
"""A group of at most so many patients is shown unfolded."""

_MEANING = {
    Stage.FOUND: "patients in the source",
    Stage.READABLE: "at least one image could be read",
    Stage.MR_LIVER: "MR, of the liver",
    Stage.PHASES: "every phase that is required, recognised",
    Stage.LESION: "a mask or box, inside the image",
    Stage.LABEL: "proliferative or not",
    Stage.USABLE: "checked, and listed for training",
    Stage.USED: "in the study that was prepared",
}


@dataclass(frozen=True)
class BarView:
    """One stage as a bar: shares of all patients found, in percent."""

    count: StageCount
    meaning: str
    proliferative: str
    not_proliferative: str
    unknown: str
    lost: int


@dataclass(frozen=True)
class EventView:
    """The same thing that happened to one or many."""

    text: str
    remedy: str
    further: tuple[str, ...]
    patients: list[tuple[str, str]]


@dataclass(frozen=True)
class GroupView:
    """Everyone of whom one thing is said: why they dropped out, or what is worth a look."""

    title: str
    remedy: str
    events: list[EventView]
    example: str
    unfolded: bool


@dataclass(frozen=True)
class PatientView:
    """One patient's card."""

    patient: str
    label: str
    outcome: str
    findings: list[Finding]
    row: str
    series: list[list[str]]
    phases: list[list[str]]
    unsure: int


def render_page(check: Check, records: Sequence[PatientRecord]) -> str:
    """The page as text; the same input gives the same text. Everything in it is escaped.

    Args:
        check: what was found.
        records: of all patients, with the check's own findings.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("phcc_client.ingest").joinpath("check.html.j2").read_text(encoding="utf-8")
    environment.filters["sentence"] = sentence
    return environment.from_string(source).render(_view(check, records))


def verdict(check: Check) -> list[str]:
    """What came out, in sentences."""
    at = check.funnel.at(Stage.USABLE)
    found = check.patients
    if at is None or not found:
        return ["No patient was found."]
    lines = [
        f"{at.total} of {found} patients can be trained on: {at.proliferative} proliferative and "
        f"{at.not_proliferative} not ({check.cases} lesions, those without a label included)."
    ]
    if at.pretraining_only:
        lines.append(
            f"{at.pretraining_only} more have no label and serve the pre-training, which needs none."
        )
    if check.funnel.dropouts:
        lines.append(
            f"{len(check.funnel.dropouts)} dropped out, each with a reason and what can be done about it."
        )
    look = {said.patient for remark in check.remarks if remark.remedy for said in remark.said}
    if look:
        lines.append(f"{len(look)} {'patient is' if len(look) == 1 else 'patients are'} worth a look.")
    used = check.funnel.at(Stage.USED)
    if used is None:
        lines.append("No study has been prepared from this site yet.")
    else:
        extra = f" and {used.pretraining_only} for pre-training only" if used.pretraining_only else ""
        lines.append(f"The prepared study uses {used.total} patients with a label{extra}.")
    return lines


def _view(check: Check, records: Sequence[PatientRecord]) -> dict[str, Any]:
    outcome = {one.patient: f"not {one.stage}" for one in check.funnel.dropouts}
    labels = {record.patient: class_of(record.label) for record in records}
    fine = {record.patient for record in usable(records, check.funnel)}
    return {
        "check": check,
        "verdict": verdict(check),
        "bars": _bars(check.funnel),
        "groups": [_reason(reason, check.funnel.dropouts) for reason in check.funnel.reasons],
        "reasons": [
            [str(one.patients), str(one.stage), _spoken(one.code), sentence(one.remedy)]
            for one in check.funnel.reasons
        ],
        "look": [_remark(remark, labels) for remark in check.remarks if remark.remedy],
        "know": [_remark(remark, labels) for remark in check.remarks if not remark.remedy],
        "patients": [
            _patient(record, "usable" if record.patient in fine else outcome.get(record.patient, "found"))
            for record in records
        ],
        "series_header": ["no.", "taken for", "because", "certainty", "used", "size", "spacing, mm",
                          "after, s", "note"],
        "phase_header": ["phase", "brought onto the lesion's phase", "moved, mm", "still off, mm",
                         "lesion", "around it"],
    }  # fmt: skip


def _reason(reason: Reason, dropouts: Sequence[DropOut]) -> GroupView:
    group = [one for one in dropouts if (one.stage, one.code) == (reason.stage, reason.code)]
    events: dict[tuple[str, str, tuple[str, ...]], EventView] = {}
    for one in group:
        remedy = one.remedy if one.remedy != reason.remedy else ""
        event = EventView(one.text, sentence(remedy), one.further, [])
        kept = events.setdefault((one.text, remedy, one.further), event)
        kept.patients.append((one.patient, class_of(one.label)))
    title = f"{len(group)} did not reach “{reason.stage}”: {_spoken(reason.code)}"
    unfolded = len(group) <= _OPEN
    return GroupView(title, sentence(reason.remedy), list(events.values()), reason.example, unfolded)


def _remark(remark: Remark, labels: Mapping[str, str]) -> GroupView:
    events: dict[str, EventView] = {}
    for one in remark.said:
        kept = events.setdefault(one.text, EventView(one.text, "", (), []))
        kept.patients.append((one.patient, labels.get(one.patient, "")))
    title = f"{len(remark.said)}: {_spoken(remark.code)}"
    unfolded = bool(remark.remedy) and len(remark.said) <= _OPEN
    return GroupView(title, sentence(remark.remedy), list(events.values()), remark.said[0].text, unfolded)


def _spoken(code: str) -> str:
    return code.replace("-", " ")


def sentence(words: str) -> str:
    """Words with their full stop, unless they end in a sign of their own; nothing stays nothing."""
    return f"{words}." if words and words[-1] not in ".?!" else words


def _bars(funnel: Funnel) -> list[BarView]:
    whole = max((count.total for count in funnel.stages[:1]), default=0) or 1
    bars, before = [], None
    for count in funnel.stages:
        everyone = count.total + count.pretraining_only
        shares = [
            f"{100 * part / whole:.2f}"
            for part in (count.proliferative, count.not_proliferative, count.unknown)
        ]
        lost = 0 if before is None else before - everyone
        bars.append(BarView(count, _MEANING[count.stage], shares[0], shares[1], shares[2], lost))
        before = everyone
    return bars


def _patient(record: PatientRecord, outcome: str) -> PatientView:
    return PatientView(
        patient=record.patient,
        label=class_of(record.label),
        outcome=outcome,
        findings=sorted(record.findings, key=lambda finding: finding.stops is None),
        row=record.thumbnails,
        series=[_series(one) for one in record.series],
        phases=[_phase(one) for one in record.phases],
        unsure=sum(one.certainty == "unsure" or one.taken_for is None for one in record.series),
    )


def _series(one: SeriesRecord) -> list[str]:
    return [
        str(one.number),
        one.taken_for or "not recognised",
        one.rule,
        one.certainty,
        "yes" if one.used else "no",
        " x ".join(map(str, one.shape_dhw)) if one.shape_dhw else "",
        " x ".join(f"{mm:.2f}" for mm in one.spacing_mm_dhw) if one.spacing_mm_dhw else "",
        "" if one.seconds_after_first is None else f"{one.seconds_after_first:.0f}",
        one.note,
    ]


def _phase(one: PhaseRecord) -> list[str]:
    return [
        one.phase,
        {"reference": "is the lesion's phase", "off": "left where it was"}.get(one.aligned, one.aligned),
        "" if one.aligned == "reference" else f"{one.shift_mm:.1f}",
        "" if one.residual_mm is None else f"{one.residual_mm:.1f}",
        "" if one.lesion_median is None else f"{one.lesion_median:.0f}",
        "" if one.surroundings_median is None else f"{one.surroundings_median:.0f}",
    ]
