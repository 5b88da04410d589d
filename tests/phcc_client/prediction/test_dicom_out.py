"""What a PACS gets: the patient's own study, a series of its own, nothing that a clock or chance decided."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import prediction
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from phcc_client.prediction.dicom_out import pdf_object, picture_object
from phcc_client.prediction.result import NOTICE
from phcc_model.errors import CaseError

PICTURE = np.arange(30 * 21 * 3, dtype=np.uint8).reshape(30, 21, 3)
PDF = b"%PDF-1.4 not much of one"


def header(**changes: Any) -> Dataset:
    made = Dataset()
    plain: dict[str, Any] = {
        "PatientName": "Doe^Jane", "PatientID": "0815", "PatientBirthDate": "19600102", "PatientSex": "F",
        "StudyInstanceUID": "1.2.826.0.1.3680043.2.1125.1", "StudyDate": "20230405", "StudyTime": "101112",
        "ReferringPhysicianName": "Ref^Er", "StudyID": "7", "AccessionNumber": "A7",
        "SeriesInstanceUID": "1.2.3.4", "SeriesDescription": "t1 art",
    }  # fmt: skip
    for name, value in {**plain, **changes}.items():
        if value is not None:
            setattr(made, name, value)
    return made


def both(said: Dataset, **changes: Any) -> list[Dataset]:
    one = prediction(**changes)
    return [
        dcmread(io.BytesIO(made)) for made in (pdf_object(one, said, PDF), picture_object(one, said, PICTURE))
    ]


def test_patient_and_study_are_the_inputs_and_the_series_is_new() -> None:
    said = header()
    pdf, picture = both(said)
    for made in (pdf, picture):
        for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate",
                     "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"):  # fmt: skip
            assert made[name].value == said[name].value
        assert made.SeriesInstanceUID != said.SeriesInstanceUID
        assert NOTICE in made.SeriesDescription
        assert made.ContentDate == "20230405"
        for name in ("SeriesInstanceUID", "SOPInstanceUID"):
            assert UID(made[name].value).is_valid
    assert pdf.EncapsulatedDocument[: pdf.EncapsulatedDocumentLength] == PDF
    assert pdf.BurnedInAnnotation == "YES"
    assert np.array_equal(picture.pixel_array, PICTURE)
    assert pdf.SeriesInstanceUID != picture.SeriesInstanceUID


def test_the_same_prediction_makes_the_same_bytes_and_another_one_other_uids() -> None:
    one = prediction()
    assert picture_object(one, header(), PICTURE) == picture_object(one, header(), PICTURE)
    other = one.model_copy(update={"package": one.package.model_copy(update={"digest": "ef" * 32})})
    series = {dcmread(io.BytesIO(pdf_object(p, header(), PDF))).SeriesInstanceUID for p in (one, other)}
    assert len(series) == 2
    again = {dcmread(io.BytesIO(pdf_object(one, header(), d))).SOPInstanceUID for d in (PDF, PDF + b"x")}
    assert len(again) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientName": "Yamada^Tarou=山田^太郎", "SpecificCharacterSet": "ISO_IR 192"},
        {"PatientBirthDate": None, "StudyDate": None, "StudyTime": None, "AccessionNumber": None},
        {"PatientID": "X" * 80, "StudyDate": "2023.04.05"},
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # a form of its own is what is tested
def test_strange_headers_come_through(changes: dict[str, Any]) -> None:
    said = header(**changes)
    for made in both(said):
        assert str(made.PatientName) == str(said.PatientName)
        assert made.PatientID == said.PatientID
        assert made.StudyDate == said.get("StudyDate", "")


def test_without_a_study_nothing_is_made() -> None:
    with pytest.raises(CaseError, match="--no-dicom"):
        pdf_object(prediction(), header(StudyInstanceUID=None), PDF)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")
def test_a_validator_finds_no_error(tmp_path: Path) -> None:
    one = prediction()
    made = {"pdf": pdf_object(one, header(), PDF), "picture": picture_object(one, header(), PICTURE)}
    for name, content in made.items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert "Error" not in said, said
