"""What the check of a site found: the model behind ``check.json``, the page and the screen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from phcc_client.ingest.funnel import Funnel
from phcc_client.ingest.record import PatientRecord, Stage


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Problem(_Part):
    """Something wrong with the folder, not with one patient."""

    code: str
    text: str
    remedy: str


class Said(_Part):
    """What a remark says about one patient."""

    patient: str
    text: str


class Remark(_Part):
    """Something to know about patients who go on all the same.

    Attributes:
        code: what it is.
        remedy: what to do; empty where nothing need be done.
        said: about whom, in the order of their names.
    """

    code: str
    remedy: str
    said: tuple[Said, ...]


class Check(_Part):
    """What the check found.

    Attributes:
        patients: found in the source.
        cases: lesions of usable patients, which is what training counts.
        funnel: from found to used.
        remarks: by code, those with something to do first.
        problems: of the folder as a whole.
        sheets: pages of the contact sheet, relative to the site's folder.
    """

    schema_version: Literal[1] = 1
    patients: int
    cases: int
    funnel: Funnel
    remarks: tuple[Remark, ...] = ()
    problems: tuple[Problem, ...] = ()
    sheets: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """The folder is as it was written: no file, record or row is missing or altered."""
        codes = {reason.code for reason in self.funnel.reasons} | {remark.code for remark in self.remarks}
        return not self.problems and not codes & DAMAGE

    @property
    def attention(self) -> bool:
        """A person has something to do or to look at."""
        return bool(self.problems or self.funnel.dropouts or any(remark.remedy for remark in self.remarks))


DAMAGE = frozenset({"record-damaged", "file-missing", "file-altered", "case-unlisted", "label-differs"})
"""Codes that say that the folder is not as it was written."""


def collect_remarks(records: Sequence[PatientRecord]) -> tuple[Remark, ...]:
    """Findings that stop nobody, by code: what has a remedy first, then the frequent.

    Args:
        records: of patients who go on; who dropped out has a better reason than a remark.
    """
    groups: dict[str, list[Said]] = defaultdict(list)
    remedies: dict[str, str] = {}
    for record in sorted(records, key=lambda one: one.patient):
        for finding in record.findings:
            if finding.stops is None:
                groups[finding.code].append(Said(patient=record.patient, text=finding.text))
                remedies[finding.code] = remedies.get(finding.code) or finding.remedy
    remarks = (Remark(code=code, remedy=remedies[code], said=tuple(said)) for code, said in groups.items())
    return tuple(sorted(remarks, key=lambda one: (not one.remedy, -len(one.said), one.code)))


def usable(records: Sequence[PatientRecord], funnel: Funnel) -> list[PatientRecord]:
    """The patients whom nothing stops before training."""
    stopped = {one.patient for one in funnel.dropouts}
    return [r for r in records if r.patient not in stopped and r.reached in (Stage.USABLE, Stage.USED)]
