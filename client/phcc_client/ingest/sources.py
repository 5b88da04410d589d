"""The patients of a source, whatever its kind, with what the hospital's table says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phcc_client.imaging.paths import folder_of
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.dicom_files import Scan, scan
from phcc_client.ingest.dicom_scan_book import ScanBook
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Drawing, Examination
from phcc_client.ingest.named_sources import kind_of, named_candidates
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.record import Finding, Stage
from phcc_client.ingest.spreadsheet import NOBODY, PatientRow, Patients, read_patients
from phcc_model.errors import DatasetError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sources:
    """Where patients come from.

    Attributes:
        folder: the source.
        table: the hospital's table of patients, if there is one.
        private: the folder beside the site, for what is remembered of the source.
        label: the column of the label.
    """

    folder: Path
    table: Path | None
    private: Path
    label: str


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        candidates: its patients, by the name they have there.
        kind: of the source.
        skipped: reason -> how many files were no images of anybody.
        unreadable: (file, why), of files that belong to no patient that could be told.
    """

    candidates: tuple[Candidate, ...]
    kind: str
    skipped: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...] = ()


def find_patients(sources: Sources, progress: Progress, *, jobs: int = 1) -> Found:
    """The patients of a source, in the order of their names.

    Args:
        sources: where they come from.
        progress: told how far it is.
        jobs: processes that read headers.

    Raises:
        DatasetError: source or table cannot be used as a whole, or hold nobody.
    """
    folder = folder_of(sources.folder)
    table = read_patients(sources.table, sources.label) if sources.table else NOBODY
    kind = kind_of(folder)
    if kind != "dicom":
        return Found(_with_table(named_candidates(kind, folder, sources.label), table), kind, {})
    book = ScanBook(sources.private / "headers.sqlite")
    found = scan(folder, book.known(), progress, jobs=jobs)
    if found.reread:
        book.remember(found)
    candidates = tuple(_of_examination(exam, found) for exam in examinations(found))
    if not candidates:
        raise DatasetError(
            "holds no DICOM image of anybody, and is no other layout that is known",
            where=str(folder),
            remedy="Give the folder as the PACS exported it, or NIfTI files with a cases.csv",
        )
    return Found(_with_table(candidates, table), kind, found.skipped, found.unreadable)


def _of_examination(exam: Examination, found: Scan) -> Candidate:
    return Candidate(
        patient=exam.patient,
        series=exam.series,
        drawings=exam.drawings,
        identity=exam.identity,
        files=tuple(found.source / name for name in exam.paths),
        unreadable=exam.unreadable,
    )


def _with_table(candidates: Sequence[Candidate], table: Patients) -> tuple[Candidate, ...]:
    if table is NOBODY:
        return tuple(candidates)
    names = {candidate.patient for candidate in candidates}
    known = [_told(c, table) for c in candidates]
    known += [
        Candidate(
            patient,
            label=row.label,
            centre=row.centre,
            identity={"patient": frozenset({patient}), **table.identity.get(patient, {})},
            findings=(_no_images(patient, names), *row.findings),
        )
        for patient, row in table.rows.items()
        if patient not in names
    ]
    return tuple(sorted(known, key=lambda candidate: candidate.patient))


def _told(candidate: Candidate, table: Patients) -> Candidate:
    """A patient with the table's word on it: label, laboratory, and the lesion where the table has one."""
    row = table.rows.get(candidate.patient)
    if row is None:
        return replace(candidate, findings=(*candidate.findings, _NOT_IN_TABLE))
    return replace(
        candidate,
        label=row.label if row.label >= 0 or not candidate.named else candidate.label,
        afp=row.afp,
        centre=row.centre or candidate.centre,
        study=row.study,
        drawings=row.drawings or candidate.drawings,
        findings=(*candidate.findings, *row.findings),
        identity={**candidate.identity, **table.identity.get(candidate.patient, {})},
        files=(*candidate.files, *_masks(row)),
    )


def _masks(row: PatientRow) -> list[Path]:
    masks: list[Drawing] = [drawing for drawing in row.drawings if drawing.mask is not None]
    return [drawing.mask.path for drawing in masks if isinstance(drawing.mask, NiftiImage)]


_NOT_IN_TABLE = Finding(
    code="not-in-table",
    text="it is not in the table of patients",
    remedy="Add it to the table; the column patient must hold the PatientID as it stands in the images",
)


def _no_images(patient: str, names: set[str]) -> Finding:
    """Why a patient of the table has no images; tables lose leading zeros, and blanks creep in."""
    alike = [name for name in names if _bare(name) == _bare(patient)]
    remedy = (
        "An id of the images differs in leading zeros, blanks or capitals only: keep ids as text in the table"
        if alike
        else "Export its images too, or correct the id in the table"
    )
    return Finding(
        code="no-images",
        text="it is in the table of patients and has no images",
        remedy=remedy,
        stops=Stage.READABLE,
    )


def _bare(name: str) -> str:
    return "".join(name.split()).lstrip("0").casefold()
