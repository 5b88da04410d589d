"""The hospital's table: CSV and Excel alike, labels, lesions, and what is wrong said per patient."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook

from phcc_client.imaging.case import Box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.nifti_image import nifti_bytes
from phcc_client.ingest.record import Stage
from phcc_client.ingest.spreadsheet import read_patients
from phcc_model.errors import DatasetError

Rows = list[list[object]]
Write = Callable[[Path, Rows], Path]
HEADER = ["patient", "proliferative", "afp_ng_ml", "centre", "study", "mask", "lesion_phase"]
CORNERS = ["x_min", "x_max", "y_min", "y_max", "z_min", "z_max"]


def _csv(folder: Path, rows: Rows) -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join(";".join("" if c is None else str(c) for c in row) for row in rows))
    return path


def _excel(folder: Path, rows: Rows) -> Path:
    book = Workbook()
    for row in rows:
        assert book.active is not None
        book.active.append(row)
    path = folder / "patients.xlsx"
    book.save(path)
    return path


def _mask(folder: Path, name: str = "mask.nii.gz") -> str:
    (folder / name).write_bytes(nifti_bytes(np.ones((2, 2, 2), np.uint8), Grid.plain((2, 2, 2), (1, 1, 1))))
    return name


@pytest.mark.parametrize("write", [_csv, _excel])
def test_one_patient_with_two_lesions(tmp_path: Path, write: Write) -> None:
    mask = _mask(tmp_path)
    table: Rows = [
        [*HEADER, *CORNERS],
        ["0012", 1, "<2", "H1", "2024-05-31", mask, None, *[None] * 6],
        ["0012", "yes", None, None, None, None, "PV", 3, 9, 4, 8, 1, 2],
        ["13", 0, 350.5, "H1", None, None, None, *[None] * 6],
    ]
    patients = read_patients(write(tmp_path, table), "proliferative")
    first, second = patients.rows["0012"], patients.rows["13"]
    assert (first.label, first.afp, first.centre, first.study) == (1, 2.0, "H1", "2024-05-31")
    assert first.drawings[0].mask is not None
    assert first.drawings[1].box == Box((1, 4, 3), (2, 8, 9))
    assert first.drawings[1].phase == "portal-venous"
    assert [d.number for d in first.drawings] == [1, 2]
    assert (second.label, second.afp, second.drawings) == (0, 350.5, ())
    assert [f.stops for f in first.findings] == [None]  # what "<2" was taken for


def test_excel_writes_ids_as_numbers_and_dates_as_dates(tmp_path: Path) -> None:
    table: Rows = [["PatientID", "study", "proliferative"], [4711.0, datetime(2024, 5, 31), True]]
    patients = read_patients(_excel(tmp_path, table), "proliferative")
    assert patients.rows["4711"].study == "2024-05-31"
    assert patients.rows["4711"].label == 1


@pytest.mark.parametrize(
    ("cells", "code", "stage"),
    [
        ({"proliferative": "maybe"}, "label-unknown-word", Stage.LABEL),
        ({"mask": "gone.nii.gz"}, "lesion-unclear", Stage.LESION),
        ({"mask": "../elsewhere.nii.gz"}, "lesion-unclear", Stage.LESION),
        ({"mask": "/etc/passwd"}, "lesion-unclear", Stage.LESION),
        ({"x_min": "3"}, "lesion-unclear", Stage.LESION),
        ({c: str(i) for i, c in enumerate(CORNERS)}, "lesion-unclear", Stage.LESION),  # on which phase?
        ({"lesion_phase": "sideways", "mask": "m.nii"}, "lesion-unclear", Stage.LESION),
        (
            dict.fromkeys(CORNERS, "5") | {"lesion_phase": "arterial"},
            "lesion-unclear",
            Stage.LESION,
        ),  # holds no voxel
    ],
)
def test_what_is_wrong_is_said_and_stops_that_patient_only(
    tmp_path: Path, cells: dict[str, str], code: str, stage: Stage
) -> None:
    header = [*HEADER, *CORNERS]
    rows: Rows = [[*header], [cells.get(c, "A" if c == "patient" else "") for c in header], ["B", "0"]]
    patients = read_patients(_csv(tmp_path, rows), "proliferative")
    (finding,) = patients.rows["A"].findings
    assert (finding.code, finding.stops) == (code, stage)
    assert finding.remedy
    assert str(tmp_path) not in finding.text
    assert patients.rows["B"].findings == ()


def test_rows_that_disagree_on_the_label(tmp_path: Path) -> None:
    patients = read_patients(_csv(tmp_path, [["patient", "p"], ["A", "1"], ["A", "0"], ["A", ""]]), "p")
    assert patients.rows["A"].label == -1
    assert patients.rows["A"].findings[0].code == "label-contradicts"


def test_columns_that_name_people_are_kept_for_the_audit_and_others_not_read(tmp_path: Path) -> None:
    table: Rows = [["patient", "Last Name", "Geburtsdatum", "sex"], ["A", "Müller", "01.02.1950", "f"]]
    patients = read_patients(_csv(tmp_path, table), "proliferative")
    assert patients.identity["A"] == {
        "Last Name": frozenset({"Müller"}),
        "Geburtsdatum": frozenset({"01.02.1950"}),
    }
    assert not patients.has_label
    assert math.isnan(patients.rows["A"].afp)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", b"name;label\nA;1\n", "no column of patients"),
        ("t.csv", b"", "is empty"),
        ("t.csv", b"patient,patient\nA,B\n", "names a column twice"),
        ("t.xlsx", b"patient,label\n", "cannot be read as an Excel table"),
        ("t.xlsx", b"PK\x03\x04 broken", "cannot be read as an Excel table"),
        ("t.csv", b"\xff\xfe\x00p", "is not UTF-8 text"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        read_patients(tmp_path / name, "proliferative")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    for name in ("t.csv", "t.xlsx"):
        with pytest.raises(DatasetError, match="no such file"):
            read_patients(tmp_path / name, "proliferative")
