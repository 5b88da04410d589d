"""The hospital's table of patients: who has which label, and where the lesion was drawn. CSV or Excel.

One row a lesion:

- ``patient``: the PatientID as in the images (also ``patient_id``, ``PatientID``);
- the label's column (1, 0, or nothing where it is unknown), and where known ``afp_ng_ml`` and ``centre``;
- ``study``: which examination, where a patient has several: its date (2024-05-31) or StudyInstanceUID;
- the lesion, unless a DICOM segmentation lies among the images: ``mask``, a NIfTI file, its path relative to
  the table; or ``x_min, x_max, y_min, y_max, z_min, z_max``, in voxels (columns, rows, slices from the feet)
  counted from 0, the maximum not included;
- ``lesion_phase``: the phase it was drawn on. Needed with a box; a mask says by itself where it lies.

Other columns are not read; cells of those that are named after names, dates of birth and the like are kept
in mind for the audit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

from openpyxl import load_workbook

from phcc_client.imaging.case import Box
from phcc_client.imaging.paths import inside
from phcc_client.imaging.phases import recognise
from phcc_client.imaging.tables import AFP_COLUMN, Table, parse_afp, parse_label, read_table
from phcc_client.ingest.examination import Drawing
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.record import Finding, Stage
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import Phase
from phcc_model.errors import CaseError, DatasetError

_PATIENT = ("patient", "patient_id", "patientid", "pid")
_CORNERS = ("z_min", "y_min", "x_min", "z_max", "y_max", "x_max")
_IDENTIFYING = re.compile(
    r"name|vorname|birth|geb|dob|address|adresse|stra(ss|ß)e|phone|tel|mail|insur|versicher|ssn|mrn|accession|fall|"
    r"physician|arzt|referr|nom\b|pr[ée]nom|naissance|apellido|nacimiento",
    re.IGNORECASE,
)
_LARGEST_TABLE = 50_000_000
_EXCEL = (".xlsx", ".xlsm")


@dataclass(frozen=True)
class PatientRow:
    """What the table says of one patient, its rows taken together.

    Attributes:
        patient: as written.
        label: 1, 0, or -1.
        afp: ng/mL, NaN where unknown.
        centre: a code of the hospital, if the table names it.
        study: date or UID of the examination to take; empty where the table leaves it open.
        drawings: lesions, in the order of the rows.
        findings: what is wrong or remarkable about the rows.
    """

    patient: str
    label: int = UNKNOWN_LABEL
    afp: float = math.nan
    centre: str | None = None
    study: str = ""
    drawings: tuple[Drawing, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Patients:
    """The table: its patients by the name they have there, and cells that identify people.

    Attributes:
        rows: by patient.
        identity: column -> cells, of columns that are not read but named after something identifying, by
            patient.
        has_label: whether the table has the label's column at all.
        masks: every file that it names as a mask, there or not.
    """

    rows: Mapping[str, PatientRow]
    identity: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    has_label: bool = False
    masks: tuple[Path, ...] = ()


NOBODY = Patients({})


def read_patients(path: Path, label: str) -> Patients:
    """Read a table of patients.

    Args:
        path: ``.csv`` or ``.xlsx``.
        label: the column that holds the label; where there is none, every label is unknown.

    Raises:
        DatasetError: it cannot be read as a table, or names no column of patients.
    """
    table = _read_excel(path) if path.suffix.lower() in _EXCEL else read_table(path)
    column = next((c for c in table.columns if _plain(c) in _PATIENT), None)
    if column is None:
        raise DatasetError(
            f"has no column of patients; its columns are {', '.join(table.columns)}",
            where=str(path),
            remedy="Name the column with the PatientID 'patient'",
        )
    grouped: dict[str, list[dict[str, str]]] = {}
    for row in table.rows:
        if row[column]:
            grouped.setdefault(row[column], []).append(row)
    rows = {patient: _patient(patient, own, path.parent, label) for patient, own in grouped.items()}
    known = {column, label, AFP_COLUMN, "centre", "study", "mask", "lesion_phase", *_CORNERS}
    private = [c for c in table.columns if c not in known and _IDENTIFYING.search(c)]
    identity = {
        patient: {c: frozenset(row[c] for row in own if row[c]) for c in private}
        for patient, own in grouped.items()
    }
    masks = sorted({path.parent / row["mask"] for row in table.rows if row.get("mask")})
    return Patients(rows, identity, has_label=label in table.columns, masks=tuple(masks))


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _patient(patient: str, rows: list[dict[str, str]], folder: Path, label: str) -> PatientRow:
    findings: list[Finding] = []
    labels = {_label(row.get(label, ""), findings) for row in rows} - {UNKNOWN_LABEL}
    if len(labels) > 1:
        findings.append(
            Finding(
                code="label-contradicts",
                text="its rows in the table have different labels",
                remedy="Correct the table: the label is the patient's",
                stops=Stage.LABEL,
            )
        )
    afps = [parse_afp(row.get(AFP_COLUMN, "")) for row in rows]
    findings += [Finding(code="afp", text=remark) for _, remark in afps if remark]
    drawings: list[Drawing] = []
    for row in rows:
        try:
            drawing = _drawing(len(drawings) + 1, row, folder)
        except CaseError as error:
            findings.append(
                Finding(code="lesion-unclear", text=error.what, remedy=error.remedy or "", stops=Stage.LESION)
            )
            continue
        if drawing is not None:
            drawings.append(drawing)
    return PatientRow(
        patient=patient,
        label=labels.pop() if len(labels) == 1 else UNKNOWN_LABEL,
        afp=next((value for value, _ in afps if not math.isnan(value)), math.nan),
        centre=next((row["centre"] for row in rows if row.get("centre")), None),
        study=next((row["study"] for row in rows if row.get("study")), ""),
        drawings=tuple(drawings),
        findings=tuple(dict.fromkeys(findings)),
    )


def _label(cell: str, findings: list[Finding]) -> int:
    try:
        return parse_label(cell)
    except CaseError as error:
        findings.append(
            Finding(code="label-unknown-word", text=error.what, remedy=error.remedy or "", stops=Stage.LABEL)
        )
        return UNKNOWN_LABEL


def _drawing(number: int, row: Mapping[str, str], folder: Path) -> Drawing | None:
    phase = _phase(row.get("lesion_phase", ""))
    if row.get("mask"):
        try:
            path = inside(folder, row["mask"])
        except CaseError as error:
            raise CaseError(  # without the path, which may name the patient
                "the path of its mask leads out of the table's folder",
                remedy="Give paths relative to the table, of files within its folder",
            ) from error
        if not path.is_file():
            raise CaseError(
                "the mask that the table names is not there",
                remedy="Correct the path in the table's column mask",
            )
        return Drawing(number, mask=NiftiImage(path), phase=phase)
    cells = [row.get(corner, "") for corner in _CORNERS]
    if not any(cells):
        return None
    try:
        z0, y0, x0, z1, y1, x1 = (int(float(cell)) for cell in cells)
    except (ValueError, OverflowError) as error:
        raise CaseError(
            "its box in the table is not six whole numbers", remedy=f"Fill {', '.join(_CORNERS)}"
        ) from error
    if phase is None:
        raise CaseError(
            "the table has a box but does not say on which phase it was drawn",
            remedy="Fill the column lesion_phase",
        )
    return Drawing(number, box=Box((z0, y0, x0), (z1, y1, x1)), phase=phase)


def _phase(cell: str) -> Phase | None:
    found = recognise(cell) if cell else None
    if cell and (found is None or found == "other"):
        raise CaseError(
            f"the table's lesion_phase {cell!r} is no phase", remedy="Write arterial, portal-venous, ..."
        )
    return None if found == "other" else found


def _read_excel(path: Path) -> Table:
    """The first sheet of an Excel file, as text.

    Raises:
        DatasetError: it is missing, too large, or no Excel file.
    """
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise DatasetError("is too large for a table of patients", where=str(path))
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            lines = [
                [_text(cell) for cell in line] for line in book.worksheets[0].iter_rows(values_only=True)
            ]
        finally:
            book.close()
    except FileNotFoundError as error:
        raise DatasetError("there is no such file", where=str(path), remedy="Check --patients") from error
    except DatasetError:
        raise
    except Exception as error:  # openpyxl raises what its parsers happen to raise
        raise DatasetError(
            f"cannot be read as an Excel table ({type(error).__name__})",
            where=str(path),
            remedy="Save it again, or as CSV UTF-8",
        ) from error
    lines = [line for line in lines if any(line)]
    if not lines:
        raise DatasetError("is empty", where=str(path), remedy="Write a header line and one line per lesion")
    columns = tuple(name for name in lines[0] if name)
    if len(set(columns)) != len(columns):
        raise DatasetError("names a column twice", where=str(path), remedy="Name every column once")
    places = [at for at, name in enumerate(lines[0]) if name]
    rows = tuple(
        {name: line[at] if at < len(line) else "" for name, at in zip(columns, places, strict=True)}
        for line in lines[1:]
    )
    return Table(path, columns, rows)


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.date().isoformat()
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()
