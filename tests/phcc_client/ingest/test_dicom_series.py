"""Whose a file is, which series, which time point."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import PHASES, write_patient, write_series

from phcc_client.ingest.dicom_files import scan
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Examination, Series

VOLUME = np.arange(6 * 5 * 4, dtype=np.uint16).reshape(6, 5, 4)
DYNAMIC = np.stack([VOLUME + np.uint16(1000 * n) for n in range(4)])
CONSTANT = {
    "AcquisitionTime": "101500.000000",
    "ContentTime": "101700.000000",
    "AcquisitionNumber": 1,
    "TriggerTime": 0.0,
}


def read(folder: Path) -> tuple[Examination, ...]:
    return examinations(scan(folder))


def series_of(folder: Path) -> tuple[Series, ...]:
    (exam,) = read(folder)
    return exam.series


def means(series: tuple[Series, ...]) -> list[float]:
    return [float(one.image.read().mean()) for one in series if one.image is not None]


def clock(seconds: float) -> str:
    return f"1015{seconds:09.6f}"


ATTRIBUTES: dict[str, Any] = {
    "TemporalPositionIdentifier": lambda time: {"TemporalPositionIdentifier": time + 1},
    "TriggerTime": lambda time: {"TriggerTime": 15000.0 * time},
    "AcquisitionNumber": lambda time: {"AcquisitionNumber": time + 1},
    "AcquisitionTime": lambda time: {"AcquisitionTime": clock(15 * time)},
    "ContentTime": lambda time: {"ContentTime": clock(15 * time)},
    "AcquisitionDateTime": lambda time: {"AcquisitionDateTime": f"20230405{clock(15 * time)}"},
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_time_points_are_parted_by_the_one_attribute_that_moves(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, DYNAMIC, tags=CONSTANT, per_slice=lambda time, _index: ATTRIBUTES[name](time))
    found = series_of(tmp_path)
    assert [one.defect for one in found] == [""] * 4
    assert means(found) == [float(DYNAMIC[n].mean()) for n in range(4)]
    assert [one.facts.temporal_position for one in found] == [1, 2, 3, 4]
    assert {one.facts.time_points for one in found} == {4}
    if "Time" in name:
        first = found[0].facts.acquired
        assert first is not None
        assert [(f.facts.acquired - first).total_seconds() for f in found if f.facts.acquired] == [
            0,
            15,
            30,
            45,
        ]
        assert found[0].facts.clock == name
    assert not any("numbers of the images" in remark for one in found for remark in one.remarks)


def test_clocks_that_run_slice_by_slice_part_time_points_too(tmp_path: Path) -> None:
    def per_slice(time: int, index: int) -> Mapping[str, Any]:
        return {"AcquisitionTime": clock(12 * time + index), "ContentTime": None, "TriggerTime": None}

    write_series(tmp_path, DYNAMIC, per_slice=per_slice)
    assert means(series_of(tmp_path)) == [float(DYNAMIC[n].mean()) for n in range(4)]


def test_numbers_alone_part_time_points_and_it_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, DYNAMIC)
    found = series_of(tmp_path)
    assert means(found) == [float(DYNAMIC[n].mean()) for n in range(4)]
    assert all(any("numbers of the images only" in remark for remark in one.remarks) for one in found)


def test_enhanced_time_points(tmp_path: Path) -> None:
    write_series(tmp_path, DYNAMIC, multiframe=True)
    found = series_of(tmp_path)
    assert means(found) == [float(DYNAMIC[n].mean()) for n in range(4)]
    assert [one.facts.acquired for one in found][:2] == [
        datetime(2023, 4, 5, 10, 0, 0),
        datetime(2023, 4, 5, 10, 0, 20),
    ]


def test_a_time_point_that_lacks_a_slice_is_a_defect_and_the_others_are_not(tmp_path: Path) -> None:
    files = write_series(
        tmp_path, DYNAMIC, tags=CONSTANT, per_slice=lambda time, _index: ATTRIBUTES["TriggerTime"](time)
    )
    files[2 * 6 + 5].unlink()  # the last slice of the third: nothing but the others tells that it is missing
    found = series_of(tmp_path)
    assert ["missing" in one.defect for one in found] == [False, False, True, False]
    assert found[2].image is None


KINDS: dict[str, Any] = {
    "echoes": lambda time: {"EchoTime": 1.1 * (time + 1)},
    "magnitude, phase, real, imaginary": lambda time: {"ImageType": ["ORIGINAL", "PRIMARY", "MPRI"[time]]},
    "Dixon": lambda time: {"ImageType": ["DERIVED", "PRIMARY", ("W", "F", "IP", "OP")[time]]},
    "b-values": lambda time: {"DiffusionBValue": float(400 * time)},
    "inversion times": lambda time: {"InversionTime": 100.0 + 400 * time},
}


@pytest.mark.parametrize("name", KINDS)
def test_different_images_of_one_place_are_no_time_points(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, DYNAMIC, tags=CONSTANT, per_slice=lambda time, _index: KINDS[name](time))
    found = series_of(tmp_path)
    assert sorted(means(found)) == [float(DYNAMIC[n].mean()) for n in range(4)]
    assert {one.facts.time_points for one in found} == {1}
    assert {one.uid for one in found} == {found[0].uid}


def test_two_echoes_at_two_times(tmp_path: Path) -> None:
    def per_slice(time: int, _index: int) -> Mapping[str, Any]:
        return {"EchoTime": (1.1, 2.2)[time % 2], "AcquisitionTime": clock(20 * (time // 2))}

    write_series(tmp_path, DYNAMIC, tags=CONSTANT, per_slice=per_slice)
    found = series_of(tmp_path)
    assert sorted((one.facts.echo_time_ms, one.facts.temporal_position) for one in found) == [
        (1.1, 1), (1.1, 2), (2.2, 1), (2.2, 2),
    ]  # fmt: skip


def test_a_patient_with_four_phases(tmp_path: Path) -> None:
    write_patient(tmp_path / "b", "P2")
    write_patient(tmp_path / "a", "P1", multiframe=True)
    one, other = read(tmp_path)
    assert (one.patient, other.patient) == ("P1", "P2")
    assert [s.facts.description for s in other.series] == list(PHASES)
    facts = other.series[1].facts
    assert facts.contrast_start == datetime(2023, 4, 5, 10, 1)
    assert facts.acquired == datetime(2023, 4, 5, 10, 1, 20)
    assert (facts.modality, facts.body_part, facts.manufacturer) == ("MR", "ABDOMEN", "SIEMENS")
    assert (facts.echo_time_ms, facts.flip_angle_deg, facts.field_strength_t) == (2.0, 10.0, 1.5)
    assert len(other.paths) == 32


def test_two_patients_in_one_folder_under_one_uid_are_not_merged(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, patient="P1", names="a{}".format)
    write_series(tmp_path, VOLUME, patient="P1", names="b{}".format, tags={"PatientID": "P2"})
    found = read(tmp_path)
    assert [exam.patient for exam in found] == ["P1", "P2"]
    for exam in found:
        assert exam.series[0].image is not None
        assert any("SeriesInstanceUID stands under 2 patients" in r for r in exam.series[0].remarks)


def test_issuers_part_patients(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOLUME, study="1", tags={"IssuerOfPatientID": "North"})
    write_series(tmp_path / "b", VOLUME, study="2", tags={"IssuerOfPatientID": "South"})
    assert [exam.patient for exam in read(tmp_path)] == ["P1 (North)", "P1 (South)"]


def test_without_patient_id_name_and_birth_then_the_study_tell_patients_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a", VOLUME, patient="A", tags={"PatientID": ""})
    write_series(tmp_path / "b", VOLUME, patient="B", tags={"PatientID": None})
    nameless = {"PatientID": None, "PatientName": None, "PatientBirthDate": None}
    write_series(tmp_path / "c", VOLUME, patient="C", tags=nameless)
    write_series(tmp_path / "d", VOLUME, patient="D", tags=nameless)
    found = read(tmp_path)
    assert len(found) == 4
    assert {"Name^A 19600102", "Name^B 19600102"} < {exam.patient for exam in found}
    assert all(exam.series[0].remarks for exam in found)


def test_a_truncated_file_makes_its_series_a_defect_with_the_count(tmp_path: Path) -> None:
    written = write_patient(tmp_path, "P1")
    cut = written[PHASES[0]][7]
    cut.write_bytes(cut.read_bytes()[:-100])
    (exam,) = read(tmp_path)
    bad = [one for one in exam.series if one.defect]
    assert len(bad) == 1
    assert "1 of 8 files cannot be used: it is truncated" in bad[0].defect
    assert len(exam.series) == 4


def test_the_last_slice_torn_within_its_header_is_not_forgotten(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME)
    raw = files[-1].read_bytes()
    files[-1].write_bytes(raw[: raw.index(b"\x28\x00\x10\x00")])  # before Rows
    (series,) = series_of(tmp_path)
    assert series.image is None
    assert series.defect == "1 of 6 files cannot be used: it ends before its pixels"


def test_an_unreadable_file_belongs_to_the_patient_of_its_folder(tmp_path: Path) -> None:
    write_patient(tmp_path / "p", "P1")
    (tmp_path / "p" / "1" / "broken").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    (exam,) = read(tmp_path)
    assert [path for path, _ in exam.unreadable] == ["p/1/broken"]


def test_identity_has_what_names_the_patient_and_nothing_of_the_image(tmp_path: Path) -> None:
    inside = {
        "OtherPatientNames": "Zwei^Namen",
        "InstitutionAddress": "Somewhere 1",
        "DeviceSerialNumber": "SN123456",
        "PatientComments": "knows the driver",
    }
    write_patient(tmp_path, "P1", tags=inside)
    (exam,) = read(tmp_path)
    identity = exam.identity
    assert identity["PatientName"] == {"Name^P1"}
    assert identity["AccessionNumber"] == {"A1-P1"}
    for keyword, value in inside.items():
        assert identity[keyword] == {value}
    assert len(identity["SOPInstanceUID"]) == 32
    assert not {"Modality", "SOPClassUID", "Rows", "ImageType", "EchoTime"} & set(identity)


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 192", "王^小東"),
        ("GB18030", "张^伟"),
        ("ISO_IR 144", "Люкceмбypг"),
    ],
)
def test_names_in_other_alphabets(tmp_path: Path, characters: str, name: str) -> None:
    write_series(tmp_path, VOLUME, tags={"SpecificCharacterSet": characters, "PatientName": name})
    (exam,) = read(tmp_path)
    assert exam.identity["PatientName"] == {name}


def test_private_text_and_sequences_are_searched_for_names(tmp_path: Path) -> None:
    from pydicom import Dataset, dcmread

    for file in write_series(tmp_path, VOLUME):
        dataset = dcmread(file)
        block = dataset.private_block(0x0029, "VENDOR", create=True)
        block.add_new(0x10, "LO", "Secret^Person")
        block.add_new(0x11, "DS", "1.5")
        item = Dataset()
        item.ReferringPhysicianName = "Deep^Doctor"
        dataset.RequestAttributesSequence = [item]
        dataset.save_as(file)
    (exam,) = read(tmp_path)
    everything = {value for values in exam.identity.values() for value in values}
    assert {"Secret^Person", "Deep^Doctor"} <= everything
    assert "1.5" not in everything
