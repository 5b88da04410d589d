from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.imaging.paths import folder_of, inside
from phcc_client.imaging.tables import parse_afp, parse_label, read_clinical, read_table
from phcc_model.errors import CaseError, DatasetError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_is_read_however_it_was_exported(
    tmp_path: Path, delimiter: str, encoding: str, newline: str
) -> None:
    lines = ["patient,centre,note", 'p1, Köln ,"a,b;c"', "", "p2,,"]
    text = newline.join(line if '"' in line else line.replace(",", delimiter) for line in lines)
    text = text.replace("p1, Köln ,", f"p1{delimiter} Köln {delimiter}")
    table = read_table(write(tmp_path / "t.csv", text + newline, encoding))
    assert table.columns == ("patient", "centre", "note")
    assert table.rows == (
        {"patient": "p1", "centre": "Köln", "note": "a,b;c"},
        {"patient": "p2", "centre": "", "note": ""},
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a,a\n1,2\n", "names a column twice"),
        ("a,b\n1,2,3\n", "line 2 has 3 cells"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DatasetError, match=what):
        read_table(path)


def test_a_table_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match="not UTF-8"):
        read_table(write(tmp_path / "t.csv", "patient,Zürich\n", "utf-16"))


@pytest.mark.parametrize(
    ("cell", "label"),
    [("1", 1), ("1.0", 1), ("Yes", 1), ("TRUE", 1), ("0", 0), ("no", 0), ("", -1), (" NA ", -1), ("-1", -1)],
)
def test_labels(cell: str, label: int) -> None:
    assert parse_label(cell) == label


@pytest.mark.parametrize("cell", ["2", "maybe", "0.5", "1;"])
def test_a_label_is_not_guessed(cell: str) -> None:
    with pytest.raises(CaseError, match="its label is"):
        parse_label(cell)


@pytest.mark.parametrize(
    ("cell", "value", "remark"),
    [
        ("12.5", 12.5, False),
        ("12,5", 12.5, False),
        ("1e3", 1000.0, False),
        ("<2", 2.0, True),
        ("> 60500", 60500.0, True),
        ("", math.nan, False),
        ("n/a", math.nan, False),
        ("1,234", math.nan, True),
        ("-3", math.nan, True),
        ("inf", math.nan, True),
        ("high", math.nan, True),
    ],
)
def test_laboratory_values(cell: str, value: float, remark: bool) -> None:
    found, said = parse_afp(cell)
    assert found == pytest.approx(value, nan_ok=True)
    assert (said is not None) == remark


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_no_cell_of_a_laboratory_raises(cell: str) -> None:
    value, _ = parse_afp(cell)
    assert math.isnan(value) or value >= 0


def test_a_clinical_table_by_patient(tmp_path: Path) -> None:
    header = "patient,centre,scanner,afp_ng_ml,proliferative\n"
    text = f"{header}a,A,X,>9,1\nb,,,,\nc,A,X,3,perhaps\nd,A,,1,0\nd,B,,1,0\nd,A,,1,0\n"
    known, remarks = read_clinical(write(tmp_path / "clinical.csv", text), "proliferative")
    assert (known["a"].centre, known["a"].label, known["a"].afp) == ("A", 1, 9.0)
    assert (known["b"].centre, known["b"].scanner, known["b"].label) == (None, None, -1)
    assert math.isnan(known["b"].afp)
    assert known["c"].error is not None
    assert "perhaps" in known["c"].error.what
    assert known["d"].error is not None
    assert "two rows that disagree" in known["d"].error.what
    assert [r.case for r in remarks] == ["a"]
    assert read_clinical(tmp_path / "none.csv", "proliferative") == ({}, [])
    with pytest.raises(DatasetError, match="has no column 'recurrence'; its columns are patient, centre"):
        read_clinical(tmp_path / "clinical.csv", "recurrence")


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "a/../b", "/etc/passwd", "", "a\0b", "link/x", "file-link"]
)
def test_a_path_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "x").write_text("secret")
    (folder / "file-link").symlink_to(tmp_path / "x")
    with pytest.raises(CaseError, match=r"leads out|absolute|is no path"):
        inside(folder, name)


def test_paths_within_the_folder_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path, "a/b..c.nii") == tmp_path / "a/b..c.nii"
    assert inside(tmp_path, "link/a") == tmp_path / "link/a"


def test_a_data_set_s_folder_must_hold_something(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        folder_of(tmp_path / "none")
    with pytest.raises(DatasetError, match="empty"):
        folder_of(tmp_path)
    file = write(tmp_path / "f", "x")
    with pytest.raises(DatasetError, match="not a folder"):
        folder_of(file)
    assert folder_of(tmp_path) == tmp_path
