"""A site's own rules for its series: ``phases.yaml``, and the draft of one for what was not recognised.

It may name patients, and so stays in the site's private folder, beside the key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator

from phcc_client.ingest.examination import Series, SeriesFacts
from phcc_client.ingest.phase_evidence import Taken
from phcc_model.config import Section
from phcc_model.study_file import parse_section, read_text

SitePhase = Literal["pre-contrast", "arterial", "portal-venous", "delayed", "hepatobiliary", "other"]

_SERIES_KEY = re.compile(r"series\s+(\d{1,9})(?:\s*,?\s*time\s+point\s+(\d{1,9}))?", re.IGNORECASE)


def _nothing_is_empty(empty: object) -> BeforeValidator:
    return BeforeValidator(lambda value: empty if value is None else value)


class SeriesRule(Section):
    """One rule: every condition that it names must hold."""

    description: str | None = Field(
        None, description="SeriesDescription, * for anything; capitals do not count"
    )
    protocol: str | None = Field(None, description="ProtocolName, likewise")
    series: Annotated[int, Field(ge=0)] | None = Field(None, description="SeriesNumber")
    time_point: Annotated[int, Field(ge=1)] | None = Field(None, description="within the series, from one")
    phase: SitePhase

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, rule: object) -> object:
        for key in rule if isinstance(rule, dict) else ():
            if key not in cls.model_fields:
                near = get_close_matches(str(key), cls.model_fields, n=1)
                valid = f"did you mean {near[0]}?" if near else f"valid here: {', '.join(cls.model_fields)}"
                raise ValueError(f"{str(key)[:40]!r} is an unknown key ({valid})")
        return rule

    @model_validator(mode="after")
    def _says_of_what(self) -> SeriesRule:
        if self.description is None and self.protocol is None and self.series is None:
            raise ValueError("a rule needs a description, a protocol or a series number")
        return self

    def covers(self, facts: SeriesFacts) -> bool:
        """Whether it speaks of this series."""
        return (
            (self.description is None or _matches(self.description, facts.description))
            and (self.protocol is None or _matches(self.protocol, facts.protocol))
            and (self.series is None or self.series == facts.series_number)
            and (self.time_point is None or self.time_point == facts.temporal_position)
        )


class PhasesFile(Section):
    """What a site says of its series: by patient first, then by the first rule that covers a series.

    Attributes:
        rules: for all patients, in order.
        patients: PatientID -> "series 12", or "series 12, time point 2" -> the phase, or ``other``.
    """

    rules: Annotated[tuple[SeriesRule, ...], _nothing_is_empty(())] = ()
    patients: Annotated[
        dict[str, Annotated[dict[str, SitePhase], _nothing_is_empty({})]], _nothing_is_empty({})
    ] = Field(default_factory=dict)

    @field_validator("patients", mode="before")
    @classmethod
    def _patients_in_quotes(cls, patients: object) -> object:
        for patient in patients if isinstance(patients, dict) else ():
            if not isinstance(patient, str):
                raise ValueError(f'write the patient {patient} in quotes ("...", with its leading zeros)')
        return patients

    @field_validator("patients")
    @classmethod
    def _series_by_number(cls, patients: dict[str, dict[str, SitePhase]]) -> dict[str, dict[str, SitePhase]]:
        for patient, phases in patients.items():
            for key in phases:
                if _SERIES_KEY.fullmatch(key.strip()) is None:
                    raise ValueError(
                        f'patient {patient}: {key[:40]!r} names no series; write "series 12" or '
                        '"series 12, time point 2"'
                    )
        return patients

    def phase_of(self, facts: SeriesFacts, patient: str) -> tuple[SitePhase, str] | None:
        """What the site says of a series, and where it says so (naming neither patient nor description)."""
        for key, phase in self._of(patient).items():
            if _names(key, facts):
                return phase, "phases.yaml says so for this patient"
        for number, rule in enumerate(self.rules, start=1):
            if rule.covers(facts):
                return rule.phase, f"rule {number} of phases.yaml"
        return None

    def unmatched(self, patient: str, series: Sequence[Series]) -> tuple[str, ...]:
        """What it says of this patient's series that are not there: a number that was mistyped, perhaps."""
        return tuple(key for key in self._of(patient) if not any(_names(key, one.facts) for one in series))

    def _of(self, patient: str) -> dict[str, SitePhase]:
        """With a time point first, so that "series 12" stands for the rest of its time points."""
        phases = self.patients.get(patient, {})
        return dict(sorted(phases.items(), key=lambda item: "point" not in item[0].lower()))


def _names(key: str, facts: SeriesFacts) -> bool:
    match = _SERIES_KEY.fullmatch(key.strip())
    if match is None or facts.series_number != int(match[1]):
        return False
    return match[2] is None or facts.temporal_position == int(match[2])


def _matches(pattern: str, text: str) -> bool:
    return fnmatchcase(" ".join(text.split()).casefold(), " ".join(pattern.split()).casefold())


def load_phases(path: Path) -> PhasesFile:
    """Read a site's phases.yaml.

    Raises:
        ConfigError: it cannot be read, or says something that has no meaning here.
    """
    return parse_phases(read_text(path), where=str(path))


def parse_phases(text: str, *, where: str) -> PhasesFile:
    """A site's rules, given as text; one without anything but comments says nothing.

    Raises:
        ConfigError: it is not YAML, or says something that has no meaning here.
    """
    if not re.sub(r"(?m)^\s*(#.*|---)?$", "", text).strip():
        return PhasesFile()
    return parse_section(
        text, PhasesFile, where=where, what="a list of rules", remedy="Begin with rules: or patients:"
    )


@dataclass(frozen=True)
class Unsure:
    """One series that a person has to look at.

    Attributes:
        patient: as the source names it.
        facts: of the series.
        taken: what was made of it.
    """

    patient: str
    facts: SeriesFacts
    taken: Taken


def unsure_of(patient: str, series: Sequence[Series], taken: Sequence[Taken]) -> tuple[Unsure, ...]:
    """The series of a patient that were not recognised for sure enough to be used."""
    pairs = zip(series, taken, strict=True)
    return tuple(Unsure(patient, one.facts, what) for one, what in pairs if what.certainty == "unsure")


_HEAD = """\
# What your series are, where the program could not tell. Remove the # before a line, write the phase behind its
# colon, save the file as phases.yaml in this folder, and run phcc-client ingest again. Possible: pre-contrast,
# arterial, portal-venous, delayed, hepatobiliary, other. What is said here is believed before anything else.
# This file may name patients: keep it in this folder, beside the key.
"""
_RULES = """
# For all patients; the first rule that fits a series decides. * stands for anything, capitals do not count.
rules:
"""
_PATIENTS = """
# For one patient; believed before the rules.
patients:
"""
_MOST_RULES = 200


def template(unsure: Sequence[Unsure]) -> str:
    """A draft of phases.yaml: everything that was unsure, commented out, with the best guess filled in.

    Args:
        unsure: of all patients; the result does not depend on its order.

    Returns:
        YAML that says nothing until a person removes a comment sign.
    """
    counted: dict[tuple[str, str], int] = {}
    for one in unsure:
        # Time points of one series share a description: no rule can tell them apart by it.
        if one.facts.description.strip() and one.facts.time_points < 2:
            key = (_quoted(escape(" ".join(one.facts.description.split()))), _guess(one.taken))
            counted[key] = counted.get(key, 0) + 1
    lines = [_HEAD, _RULES]
    for (description, guess), count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[
        :_MOST_RULES
    ]:
        lines.append(f"#  - description: {description}  # {count} series\n#    phase: {guess}\n")
    lines.append(_PATIENTS)
    by_patient: dict[str, list[str]] = {}
    for one in sorted(
        unsure, key=lambda u: (u.patient, u.facts.series_number or 0, u.facts.temporal_position or 0)
    ):
        if one.facts.series_number is not None:
            by_patient.setdefault(one.patient, []).append(_line(one))
    for patient, entries in by_patient.items():
        lines += [f"#  {_quoted(patient)}:\n", *dict.fromkeys(entries)]
    return "".join(lines)


def _line(one: Unsure) -> str:
    facts = one.facts
    key = f"series {facts.series_number}"
    if facts.time_points > 1 and facts.temporal_position is not None:
        key += f", time point {facts.temporal_position}"
    return f"#    {key}: {_guess(one.taken)}  # {_quoted(facts.description)}: {_one_line(one.taken.rule)}\n"


def _guess(taken: Taken) -> str:
    """What it may be; where that is not known, a word that is refused until a person has replaced it."""
    return taken.taken_for or "which?"


def _quoted(text: str) -> str:
    """As YAML's double-quoted text, on one line, however strange."""
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return _one_line(dumped)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
