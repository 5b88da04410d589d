"""Every file of a folder once: DICOM whatever it is called, everything else with its reason."""

from __future__ import annotations

import gzip
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import uid, write_patient, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from phcc_client.ingest import dicom_files
from phcc_client.ingest.dicom_files import Scan, scan
from phcc_client.ingest.dicom_scan_book import ScanBook
from phcc_client.ingest.dicom_series import examinations
from phcc_model.errors import CaseError, DatasetError, StorageError

VOLUME = np.arange(3 * 5 * 4, dtype=np.uint16).reshape(3, 5, 4)
PREAMBLE = b"\0" * 128 + b"DICM"


def kinds(found: Scan) -> dict[str, str]:
    return {file.path: file.kind for file in found.files}


def whys(found: Scan) -> dict[str, str]:
    return {file.path: file.why for file in found.files}


def told(found: Scan) -> list[object]:
    """All that examinations say, and the voxels."""
    return [
        (
            exam.patient, exam.identity, exam.unreadable, exam.paths,
            [(s.uid, s.facts, s.files, s.defect, s.remarks) for s in exam.series],
            [s.image.read().tobytes() for s in exam.series if s.image is not None],
        )
        for exam in examinations(found)
    ]  # fmt: skip


def without_image(path: Path, sop_class: str, modality: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, uid(path.name), modality
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "P1", uid(1), uid(path.name, 1)
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def test_each_kind_of_file_has_its_reason(tmp_path: Path) -> None:
    write_series(tmp_path / "deep" / "er", VOLUME, names="no extension {}".format)
    others = {
        "readme.dcm": b"not an image at all",
        "picture.png": b"\x89PNG\r\n\x1a\n....",
        "export.zip": b"PK\x03\x04....",
        "image.nii.gz": gzip.compress(b"n" * 1000),
        "empty": b"",
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "DICOMDIR": PREAMBLE + b"....",
        "zeros": b"\0" * 4096,
        "report.pdf": b"%PDF-1.4",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    without_image(tmp_path / "report", "1.2.840.10008.5.1.4.1.1.88.11", "SR")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    found = scan(tmp_path)
    assert sorted(kinds(found).values()) == ["image"] * 3 + ["other"] + ["skipped"] * len(others)
    assert all(file.why for file in found.files if file.kind != "image")
    assert found.skipped.total() == len(others) + 1 + 4
    assert whys(found)["report"] == "DICOM without an image (SR)"
    assert "a zip archive: unpack it and ingest the folder" in found.skipped
    assert [file.path for file in found.files] == sorted(file.path for file in found.files) or found.files


def test_an_unreadable_file_and_folder_are_told(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME)
    (tmp_path / "torn").write_bytes(PREAMBLE + b"\x02\x00\x00\x00UL\x04\x00\xff")
    found = scan(tmp_path)
    assert [path for path, _ in found.unreadable] == ["torn"]
    with pytest.raises(DatasetError, match="cannot be listed"):
        scan(tmp_path / "nowhere")


def test_reasons_quote_nothing_of_a_file(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, tags={"PatientName": "Quoted^Person"})
    raw = (tmp_path / "IM00000").read_bytes()
    at = raw.index(b"Quoted^Person") - 4
    (tmp_path / "IM00000").write_bytes(raw[:at] + b"Qu" + raw[at + 2 :])
    without_image(tmp_path / "x", "1.2.840.10008.5.1.4.1.1.88.11", "QUOTED")
    found = scan(tmp_path)
    assert not any("quoted" in file.why.lower() for file in found.files)


def test_a_header_with_values_that_are_none_of_their_kind_is_read(tmp_path: Path) -> None:
    raw = write_series(tmp_path, VOLUME, tags={"EchoTime": 3.25, "FlipAngle": 77.0})[0].read_bytes()
    for old, new in ((b"3.25", b"abcd"), (b"77.0", b"\xff\xfe\\1"), (b"19600102", b"birthday")):
        assert raw.count(old) == 1
        raw = raw.replace(old, new)
    (tmp_path / "IM00000").write_bytes(raw)
    found = scan(tmp_path)
    assert set(kinds(found).values()) == {"image"}
    (series,) = examinations(found)[0].series
    assert series.image is not None
    assert (series.facts.echo_time_ms, series.facts.flip_angle_deg) == (None, None)


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        inner = b"\x08\x00\x15\x11SQ\0\0" + struct.pack("<I", len(item)) + item
    return inner


def test_what_is_malformed_is_refused_within_seconds(tmp_path: Path) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    (file,) = write_series(tmp_path, VOLUME[:1])
    whole = file.read_bytes()
    cases = {
        "cut-0200": whole[:200],
        "cut-0500": whole[:500],
        "cut-0900": whole[:900],
        "nested": PREAMBLE + whole[132:400] + nested(3000),
        "undefined": whole + b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" * 2000,
        "long": whole[:600] + b"\x10\x00\x10\x40LT\0\0\xf0\xff\xff\x7f" + whole[600:],
        "only-preamble": PREAMBLE,
        "noise": PREAMBLE + np.random.default_rng(1).bytes(100_000),
        "implicit-noise": b"\x08\x00\x05\x00" + np.random.default_rng(2).bytes(100_000),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    start = time.monotonic()
    found = scan(tmp_path)
    for exam in examinations(found):
        for series in exam.series:
            assert series.image is not None or series.defect
    assert time.monotonic() - start < 10.0
    assert len(found.files) == len(cases) + 1


def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, np.zeros((2, 400, 400), np.uint16), transfer_syntax=DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("phcc_client.ingest.dicom_header._INFLATED", 100_000)
    found = scan(tmp_path)
    assert {file.kind for file in found.files} == {"unreadable"}
    assert "inflates to more than" in found.unreadable[0][1]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_give_reasons_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    multiframe = data.draw(st.booleans())
    syntax = data.draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
    files = write_series(folder, VOLUME, multiframe=multiframe, transfer_syntax=syntax)
    for file in files:
        raw = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(132, len(raw) - 1))
            change = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]))
            piece = data.draw(st.binary(min_size=1, max_size=8))
            if change == "set":
                raw[at : at + len(piece)] = piece
            elif change == "insert":
                raw[at:at] = piece
            elif change == "delete":
                del raw[at : at + len(piece)]
            else:
                del raw[max(at, 140) :]
            if len(raw) < 150:
                break
        file.write_bytes(bytes(raw))
    found = scan(folder)
    assert len(found.files) == len(files)
    told = {path for exam in examinations(found) for path in exam.paths} | {
        f.path for f in found.files if f.why
    }
    assert told == {file.path for file in found.files}
    for exam in examinations(found):
        for series in exam.series:
            assert bool(series.defect) == (series.image is None)
            if series.image is not None:
                try:
                    series.image.read()
                except CaseError as error:
                    assert str(folder) in str(error)  # noqa: PT017 - either outcome is right


def test_jobs_alter_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_patient(tmp_path / f"{number}", f"P{number}")
    (tmp_path / "note.txt").write_text("x")
    monkeypatch.setattr(dicom_files, "_MANY", 1)
    states: list[tuple[str, int, int]] = []
    one = scan(tmp_path, progress=lambda *state: states.append(state))
    assert scan(tmp_path, jobs=2).files == one.files
    assert states[-1] == ("headers", 97, 97)


def test_a_second_scan_reads_only_what_changed(tmp_path: Path) -> None:
    source, private = tmp_path / "source", tmp_path / "site.private"
    write_patient(source / "a", "P1", tags={"PatientName": "Müller^Ä"})
    write_patient(source / "b", "P2", multiframe=True)
    (source / "broken").write_bytes(PREAMBLE + b"\xff" * 99)
    (source / os.fsdecode(b"odd \xff name")).write_bytes(b"text")
    book = ScanBook(private / "headers.sqlite")
    assert book.known() == {}
    first = scan(source, book.known())
    book.remember(first)
    assert (private / "headers.sqlite").stat().st_mode & 0o077 == 0
    again = scan(source, book.known())
    assert (first.reread, again.reread) == (len(first.files), 0)
    assert told(again) == told(first)
    assert kinds(again) == kinds(first)
    assert whys(again) == whys(first)
    changed = source / "a" / "1" / "IM00000"
    changed.write_bytes(changed.read_bytes() + b"\0" * 8)
    (source / "a" / "1" / "IM00001").unlink()
    third = scan(source, book.known())
    assert third.reread == 1
    assert len(third.files) == len(first.files) - 1


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\0" * 500])
def test_a_damaged_book_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    write_series(tmp_path / "source", VOLUME)
    path = tmp_path / "book"
    path.write_bytes(content)
    book = ScanBook(path)
    assert book.known() == {}
    book.remember(scan(tmp_path / "source"))
    assert len(book.known()) == 3
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert scan(tmp_path / "source", book.known()).reread in (0, 3)


def test_a_book_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    write_series(tmp_path / "source", VOLUME)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        ScanBook(tmp_path / "file" / "book").remember(scan(tmp_path / "source"))


def test_scanning_writes_nothing_into_the_source(tmp_path: Path) -> None:
    write_patient(tmp_path, "P1")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    examinations(scan(tmp_path))
    assert before == sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    assert dcmread(tmp_path / "1" / "IM00000").PatientID == "P1"
