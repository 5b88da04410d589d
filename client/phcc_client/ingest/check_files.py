"""Is a site's folder as it was written: records, images, and the table that training reads."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from phcc_client.imaging.paths import inside
from phcc_client.imaging.tables import parse_label, read_table
from phcc_client.ingest.check_result import Problem
from phcc_client.ingest.record import Finding, PatientRecord, Stage
from phcc_client.ingest.site_folder import IMAGES, RECORDS, TABLE, read_record
from phcc_model.errors import CaseError, DataError, PhccError

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""
Found = dict[str, list[Finding]]
"""Findings by patient."""

_AGAIN = "Run phcc-client ingest again: it makes anew what is missing or altered"
_LABELS = {1: "proliferative", 0: "not proliferative", -1: "unknown"}


class _File(NamedTuple):
    patient: str
    name: str
    sha256: str


def read_records(site: Path) -> tuple[list[PatientRecord], list[Problem]]:
    """Every patient's record, in the order of their names; a damaged one still stands for its patient.

    Args:
        site: the site's folder.
    """
    records, problems = [], []
    for file in sorted((site / RECORDS).glob("*.json")):
        try:
            record = read_record(file)
            if record.patient != file.stem:
                raise CaseError(f"holds the record of {record.patient}")
        except PhccError as error:
            damaged = Finding(
                code="record-damaged",
                text=f"its record {RECORDS}/{file.name} {error.what}",
                remedy=_AGAIN,
                stops=Stage.READABLE,
            )
            record = PatientRecord(patient=file.stem, inputs="", reached=Stage.FOUND, findings=(damaged,))
        records.append(record)
    if not records:
        text = f"there is no record of any patient in {RECORDS}"
        problems.append(
            Problem(code="no-patients", text=text, remedy="Run phcc-client ingest SOURCE --into it")
        )
    return records, problems


def check_files(
    site: Path, records: Sequence[PatientRecord], progress: Progress, jobs: int = 1
) -> tuple[Found, list[Problem]]:
    """Compare every image and mask with the SHA-256 in its patient's record.

    Args:
        site: the site's folder.
        records: of all patients.
        progress: told how far it is.
        jobs: files at a time.
    """
    files = [
        _File(record.patient, one, sha256)
        for record in records
        for one, sha256 in (
            *((phase.file, phase.sha256) for phase in record.phases),
            *((lesion.mask, lesion.sha256) for lesion in record.lesions),
        )
    ]
    found: Found = defaultdict(list)
    with ThreadPoolExecutor(max(1, jobs), thread_name_prefix="check") as pool:
        results = zip(files, pool.map(lambda file: _wrong(site, file), files), strict=True)
        for done, (file, wrong) in enumerate(results, start=1):
            if wrong is not None:
                found[file.patient].append(wrong)
            progress("files", done, len(files))
    return found, _strangers(site, {file.name for file in files})


def check_table(
    site: Path, records: Sequence[PatientRecord], label: str, *, left_out: Collection[str] = ()
) -> tuple[Found, list[Problem]]:
    """Compare ``cases.csv``, which training reads and people may have edited, with the records.

    Args:
        site: the site's folder.
        records: of all patients.
        label: the label's column.
        left_out: patients who are rightly not listed, since another of the site has the same images.
    """
    found: Found = defaultdict(list)
    try:
        table = read_table(site / TABLE)
        table.must_have("case", "patient", label)
    except DataError as error:
        return found, [Problem(code="table-unusable", text=f"{TABLE} {error.what}", remedy=_AGAIN)]
    owner = {lesion.case: record for record in records for lesion in record.lesions}
    problems, listed = [], set()
    for number, row in enumerate(table.rows, start=1):
        case = row["case"]
        if case not in owner or case in listed or row["patient"] != owner[case].patient:
            why = (
                "twice"
                if case in listed
                else "of another patient"
                if case in owner
                else "that no record knows"
            )
            text = f"row {number} of {TABLE} names a case {why}"
            problems.append(Problem(code="row-unknown", text=text, remedy="Take the row out"))
            continue
        listed.add(case)
        found[owner[case].patient] += _label(row[label], owner[case])
    for case, record in owner.items():
        missing = case not in listed and record.patient not in left_out
        if missing and record.reached in (Stage.USABLE, Stage.USED):
            text = f"case {case} is missing from {TABLE}, and training will not see it"
            found[record.patient].append(Finding(code="case-unlisted", text=text, remedy=_AGAIN))
    return found, problems


def listed_patients(site: Path) -> frozenset[str]:
    """The patients that ``cases.csv`` names; nobody where it cannot be read."""
    try:
        return frozenset(row.get("patient", "") for row in read_table(site / TABLE).rows)
    except DataError:
        return frozenset()


def with_findings(
    records: Iterable[PatientRecord], *more: Mapping[str, Sequence[Finding]]
) -> Iterator[PatientRecord]:
    """Records, with what a check found about them."""
    for record in records:
        new = [finding for found in more for finding in found.get(record.patient, ())]
        findings = tuple(dict.fromkeys((*record.findings, *new)))
        yield record.model_copy(update={"findings": findings}) if new else record


def _wrong(site: Path, file: _File) -> Finding | None:
    try:
        path = inside(site, file.name)
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
                return None
        code, what = "file-altered", "is not the one that was written: its checksum differs"
    except FileNotFoundError:
        code, what = "file-missing", "is missing"
    except OSError as error:
        code, what = "file-missing", f"cannot be read ({error.strerror})"
    except CaseError:
        code, what = "file-missing", "is named so that it lies outside the site's folder"
    return Finding(code=code, text=f"{file.name} {what}", remedy=_AGAIN, stops=Stage.USABLE)


def _strangers(site: Path, known: set[str]) -> list[Problem]:
    """Files among the images that belong to nobody."""
    there = (
        path.relative_to(site).as_posix() for path in sorted((site / IMAGES).rglob("*")) if path.is_file()
    )
    strange = [name for name in there if name not in known]
    if not strange:
        return []
    # They are not named: a name that nobody searched may be a patient's.
    text = f"{len(strange)} files that belong to no patient lie in {IMAGES}"
    remedy = "Look at what they are, and take them away: nobody searched them for names"
    return [Problem(code="strange-files", text=text, remedy=remedy)]


def _label(cell: str, record: PatientRecord) -> list[Finding]:
    try:
        label = parse_label(cell)
    except CaseError:
        text = f"{TABLE} holds a label that is none of 1, 0 and nothing"
        remedy = "Write 1, 0, or nothing where it is unknown"
        return [Finding(code="label-invalid", text=text, remedy=remedy, stops=Stage.LABEL)]
    if label == record.label:
        return []
    text = f"{TABLE} says {_LABELS[label]}, its record {_LABELS[record.label]}"
    return [
        Finding(code="label-differs", text=text, remedy="Correct the table of patients, and ingest again")
    ]
