"""Which images of a patient become its phases: the right body, the right examination, one series a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.deidentify import scrub
from phcc_client.ingest.examination import Image, Series, SeriesFacts
from phcc_client.ingest.phase_rules import Taken, recognise_series
from phcc_client.ingest.phases_file import PhasesFile
from phcc_client.ingest.quality_checks import check_body
from phcc_client.ingest.record import Finding, SeriesRecord, Stage
from phcc_model.config import PHASES, Phase


@dataclass(frozen=True)
class Choice:
    """What a patient goes on with.

    Attributes:
        images: by phase, in the order of acquisition.
        facts: of the phases, where a header told any.
        series_phase: which phase a SeriesInstanceUID became.
        series: what every series was taken for.
        findings: what stops the patient, and remarks.
    """

    images: Mapping[Phase, Image] = field(default_factory=dict)
    facts: Mapping[Phase, SeriesFacts] = field(default_factory=dict)
    series_phase: Mapping[str, Phase] = field(default_factory=dict)
    series: tuple[SeriesRecord, ...] = ()
    findings: tuple[Finding, ...] = ()


def choose(candidate: Candidate, required: Sequence[Phase], rules: PhasesFile | None) -> Choice:
    """Choose a patient's phases.

    Args:
        candidate: the patient.
        required: phases without which it is set aside.
        rules: the site's own, which win.
    """
    if candidate.named:
        return _named(candidate, required)
    if not candidate.series:
        return Choice()
    right, wrong, findings = _right_body(candidate)
    if not right:
        return Choice(series=_elsewhere(wrong, candidate, 1), findings=tuple(findings))
    findings = [f.model_copy(update={"stops": None}) for f in findings]
    broken = [series for series in right if series.image is None]
    findings += [_broken(series, candidate) for series in broken]
    if len(broken) == len(right):
        return Choice(
            series=_elsewhere(candidate.series, candidate, 1), findings=(*findings, _NOTHING_READABLE)
        )
    if rules is not None:
        findings += [
            Finding(
                code="phases-yaml",
                text=f"phases.yaml names {scrub(key, candidate.identity)}, which is not there",
                remedy="Correct phases.yaml",
            )
            for key in rules.unmatched(candidate.patient, candidate.series)
        ]
    chosen = _examination(right, candidate, required, rules)
    return Choice(
        chosen.images,
        chosen.facts,
        chosen.series_phase,
        (*chosen.series, *_elsewhere(wrong, candidate, len(chosen.series) + 1)),
        tuple(dict.fromkeys((*findings, *chosen.findings))),
    )


_NOTHING_READABLE = Finding(
    code="nothing-readable",
    text="none of its images can be read",
    remedy="Export the patient again from the PACS",
    stops=Stage.READABLE,
)


def _right_body(candidate: Candidate) -> tuple[list[Series], list[Series], list[Finding]]:
    """Series that are MR and may show the liver, the others, and what is to be said about either."""
    right: list[Series] = []
    wrong: list[Series] = []
    findings: list[Finding] = []
    for series in map(_not_drawn_upon, candidate.series):
        found = check_body(series.facts)
        findings += found
        (wrong if any(f.stops is not None for f in found) else right).append(series)
    return right, wrong, list(dict.fromkeys(findings))


def _not_drawn_upon(series: Series) -> Series:
    """A series into whose pixels a name may be drawn counts as one that cannot be used."""
    if not series.facts.burned_in or series.image is None:
        return series
    return replace(
        series,
        image=None,
        defect=f"a name may be drawn into its pixels: {series.facts.burned_in}",
        remedy="Export the measured images, not pictures of them",
    )


def _named(candidate: Candidate, required: Sequence[Phase]) -> Choice:
    order = sorted(candidate.named, key=PHASES.index)
    records = tuple(
        SeriesRecord(
            number=number, taken_for=phase, rule="named so by the source", certainty="sure", used=True
        )
        for number, phase in enumerate(order, start=1)
    )
    return Choice(
        {phase: candidate.named[phase] for phase in order},
        series=records,
        findings=tuple(_missing(order, required)),
    )


def _missing(there: Sequence[Phase], required: Sequence[Phase]) -> list[Finding]:
    if there == ["image"]:
        return []
    return [
        Finding(
            code=f"no-{phase}",
            text=f"phase {phase} is missing",
            remedy="Export the series too; or, if it is there under another name, name it in phases.yaml",
            stops=Stage.PHASES,
        )
        for phase in required
        if phase not in there
    ]


def _examination(
    series: Sequence[Series], candidate: Candidate, required: Sequence[Phase], rules: PhasesFile | None
) -> Choice:
    """The examination to take: the one that the table names, or the only one with every required phase."""
    studies = meant_studies(series, candidate.study)
    if not studies:
        return Choice(findings=(_NO_SUCH_STUDY,))
    choices = [_of_study(study, candidate, required, rules) for study in studies]
    complete = [c for c in choices if not any(f.stops is not None for f in c.findings)]
    if len(complete) > 1:
        return Choice(series=tuple(r for c in complete for r in c.series), findings=(_SEVERAL_STUDIES,))
    if len(choices) > 1 and complete:
        note = Finding(
            code="several-studies", text=f"the complete one of {len(choices)} examinations was taken"
        )
        return Choice(
            complete[0].images,
            complete[0].facts,
            complete[0].series_phase,
            tuple(r for c in choices for r in c.series),
            (*complete[0].findings, note),
        )
    # None is complete: the fullest one says best what is missing.
    return max(choices, key=lambda choice: len(choice.images))


_NO_SUCH_STUDY = Finding(
    code="study-not-found",
    text="the examination that the table names is not among its images",
    remedy="Correct the column study (the date as 2024-05-31, or the StudyInstanceUID), or export it",
    stops=Stage.PHASES,
)
_SEVERAL_STUDIES = Finding(
    code="several-studies",
    text="it has several examinations with all phases, and nothing says which one to take",
    remedy="Name its date or UID in the table's column study",
    stops=Stage.PHASES,
)


def meant_studies(series: Sequence[Series], word: str) -> list[list[Series]]:
    """The examinations among a patient's series: all, or those that the table means.

    Args:
        series: of one patient.
        word: a date or a StudyInstanceUID; empty for all.
    """
    ordered = sorted(series, key=lambda one: one.study)
    studies = [list(group) for _, group in groupby(ordered, lambda one: one.study)]
    return [study for study in studies if not word or _is_meant(study, word)]


def _is_meant(study: Sequence[Series], word: str) -> bool:
    digits = word.replace("-", "")
    dates = {s.facts.acquired.strftime("%Y%m%d") for s in study if s.facts.acquired is not None}
    return study[0].study == word or digits in dates


def _of_study(
    series: Sequence[Series], candidate: Candidate, required: Sequence[Phase], rules: PhasesFile | None
) -> Choice:
    taken = recognise_series(series, rules, patient=candidate.patient)
    images: dict[Phase, Image] = {}
    facts: dict[Phase, SeriesFacts] = {}
    series_phase: dict[str, Phase] = {}
    for one, as_what in zip(series, taken, strict=True):
        phase = as_what.taken_for
        if as_what.used and phase is not None and phase != "other" and one.image is not None:
            images[phase], facts[phase], series_phase[one.uid] = one.image, one.facts, phase
    order = sorted(images, key=PHASES.index)
    first = min((s.facts.acquired for s in series if s.facts.acquired is not None), default=None)
    records = []
    for number, (one, as_what) in enumerate(zip(series, taken, strict=True), start=1):
        seconds = (one.facts.acquired - first).total_seconds() if one.facts.acquired and first else None
        records.append(_record(number, one, as_what, seconds, candidate))
    findings = [*_missing(order, required), *_unsure(series, taken, candidate)]
    findings += [
        Finding(code="series-remark", text=f"{phase}: {remark}")
        for phase in order
        for one in series
        if one.image is images[phase]
        for remark in one.remarks
    ]
    return Choice({p: images[p] for p in order}, facts, series_phase, tuple(records), tuple(findings))


def _unsure(series: Sequence[Series], taken: Sequence[Taken], candidate: Candidate) -> list[Finding]:
    found = []
    for number, (one, as_what) in enumerate(zip(series, taken, strict=True), start=1):
        if as_what.certainty == "unsure":
            name = scrub(one.facts.description, candidate.identity) or "without a description"
            found.append(
                Finding(
                    code="series-unsure",
                    text=f"series {number} ({name}) was not used: {as_what.rule}",
                    remedy="Say what it is in phases.yaml (a draft lies in the site's private folder)",
                )
            )
    return found


def _record(
    number: int, one: Series, as_what: Taken, seconds: float | None, candidate: Candidate
) -> SeriesRecord:
    image, facts = one.image, one.facts
    spacing = None if image is None else tuple(round(float(s), 4) for s in image.grid.spacing_mm_dhw)
    return SeriesRecord(
        number=number,
        taken_for=as_what.taken_for,
        rule=as_what.rule,
        certainty=as_what.certainty,
        used=as_what.used,
        note=_note(one, candidate, one.defect, as_what.why_not, *one.remarks),
        shape_dhw=None if image is None else image.grid.shape_dhw,
        spacing_mm_dhw=spacing,
        seconds_after_first=seconds,
        field_strength_t=facts.field_strength_t,
        manufacturer=scrub(facts.manufacturer, candidate.identity),
        files=one.files,
    )


def _note(one: Series, candidate: Candidate, *parts: str) -> str:
    """What a person typed, scrubbed; and sentences of the program's own, which quote nothing of a header."""
    described = scrub(one.facts.description, candidate.identity)
    return "; ".join(part for part in (described, *parts) if part)


def _elsewhere(series: Sequence[Series], candidate: Candidate, first: int) -> tuple[SeriesRecord, ...]:
    """Series that no phase was looked for in."""
    return tuple(
        SeriesRecord(
            number=number,
            taken_for=None,
            rule="cannot be used" if one.defect else "not MR of the liver",
            certainty="sure",
            used=False,
            note=_note(one, candidate, one.defect),
            files=one.files,
        )
        for number, one in enumerate(series, start=first)
    )


def _broken(one: Series, candidate: Candidate) -> Finding:
    name = scrub(one.facts.description, candidate.identity) or "without a description"
    return Finding(
        code="series-defect",
        text=f"a series ({name}) cannot be used: {one.defect}",
        remedy=one.remedy,
    )
