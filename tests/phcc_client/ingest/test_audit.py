"""The audit finds what was planted, wherever it lies, and raises no alarm about a clean site."""

from __future__ import annotations

import ast
import base64
import gzip
import io
import json
import os
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import dcmread

from phcc_client.ingest import audit_files, audit_vocabulary
from phcc_client.ingest.audit import AuditReport, audit, must_be_clean
from phcc_client.ingest.audit_text import read_text
from phcc_client.ingest.audit_values import day_of, fold, name_parts, sought_of, spellings
from phcc_client.ingest.audit_vocabulary import NAMES, choices, words
from phcc_client.ingest.deidentify import identity_of
from phcc_client.ingest.pseudonyms import SiteKey
from phcc_client.ingest.record import (
    Finding,
    LesionRecord,
    PatientRecord,
    PhaseRecord,
    SeriesRecord,
    Stage,
)
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import ABOUT, CONTACT, IMAGES, RECORDS, TABLE, SiteFolder
from phcc_model.config import PHASES
from phcc_model.errors import DatasetError

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
KEY = SiteKey(bytes(range(32)))
IDENTITY = {
    "PatientName": {"MÜLLER-LÜDENSCHEIDT^ANNA^^Dr."},
    "PatientID": {"AB-123456"},
    "PatientBirthDate": {"19610503"},
    "AccessionNumber": {"7654321"},
    "StudyInstanceUID": {"1.2.276.0.45.1.2.3"},
    "OperatorsName": {"Kim"},
    "InstitutionAddress": {"Rosenweg 5\r\n80331 Musterstadt"},
}


def picture(text: str = "") -> bytes:
    info = PngInfo()
    if text:
        info.add_text("Comment", text)
    out = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 255, (40, 160), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def nifti_image(data: NDArray[Any]) -> Any:
    return nib.Nifti1Image(data, np.diag([1.5, 1.5, 3, 1]))  # type: ignore[no-untyped-call]


def nifti(rng: np.random.Generator, kind: type = np.int16, shape: tuple[int, ...] = (24, 32, 32)) -> bytes:
    noise: NDArray[Any] = np.abs(rng.normal(100, 40, shape)).astype(kind)
    return gzip.compress(nifti_image(noise).to_bytes(), mtime=0)


def record(pseudonym: str, rng: np.random.Generator, note: str = "t1 vibe") -> PatientRecord:
    def digest() -> str:
        return str(rng.bytes(32).hex())

    phases = tuple(
        PhaseRecord(
            phase=p, file=f"images/{pseudonym}/{p}.nii.gz", sha256=digest(), pixels=digest(), aligned="rigid",
            shift_mm=float(rng.random()), residual_mm=float(rng.random()),
            lesion_median=float(rng.random() * 900),
        )
        for p in PHASES[:3]
    )  # fmt: skip
    lesion = LesionRecord(
        case=f"{pseudonym}-lesion-1", mask=f"images/{pseudonym}/lesion-1.nii.gz", sha256=digest(),
        drawn_on=PHASES[0], volume_ml=float(rng.random() * 40),
        centre_mm_zyx=(float(rng.normal()), float(rng.normal()), float(rng.normal())),
    )  # fmt: skip
    series = SeriesRecord(
        number=1, taken_for="other", rule="description says 'arterial'", certainty="sure", used=True, note=note,
        seconds_after_first=float(rng.random() * 100), shape_dhw=(24, 32, 32), manufacturer="Siemens", files=100,
    )  # fmt: skip
    remark = Finding(
        code="no-portal", text="the portal venous phase is missing", remedy="Export it", stops=None
    )
    return PatientRecord(
        patient=pseudonym, inputs=digest(), reached=Stage.USABLE, label=1, phases=phases, lesions=(lesion,),
        series=(series,), findings=(remark,), signature=base64.b64encode(rng.bytes(4096)).decode(), split="train",
    )  # fmt: skip


def make_site(folder: Path, patients: int = 2) -> SiteFolder:
    rng = np.random.default_rng(7)
    site = SiteFolder(folder)
    site.prepare(folder.parent / "source")
    records = [record(KEY.patient(str(k)), rng) for k in range(patients)]
    for one in records:
        site.write_record(one)
        site.write(f"{CONTACT}/{one.patient}.png", picture())
        for phase in one.phases:
            site.write(phase.file, nifti(rng))
        site.write(one.lesions[0].mask, nifti(rng, np.uint8))
    site.write_table(records, "proliferative")
    site.write_about(IngestSettings())
    rows = "".join(
        f"<tr><td>{r.patient}</td><td>{r.findings[0].text}</td><td>Lesion</td><td>100</td></tr>"
        for r in records
    )
    image = base64.b64encode(picture()).decode()
    site.write("check.html", f"<h1>Lesion</h1><table>{rows}</table><img src='data:image/png;base64,{image}'>")
    return site


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    return make_site(tmp_path / "SITE")


def found(report: AuditReport) -> set[str]:
    return {finding.attribute for finding in report.findings}


def test_a_clean_site_is_clean(site: SiteFolder) -> None:
    report = audit(site.folder, IDENTITY)
    assert report.findings == ()
    assert report.clean
    must_be_clean(report)
    assert report.files == 15
    assert report.bytes_searched > report.bytes_read


def awful(k: int) -> Mapping[str, set[str]]:
    """Patients who are called as the program's words and numbers are."""
    names = [
        "Lesion^Phase", "Liver^Portal", "Li^X", "1^2", "20200101", "0000", "Series^Other",
        "Train^True", "Null", "Arterial^Rule", "Dixon^Vibe", "Siemens^Anna", "Data^Image",
        "Images^Records", "May^Long", "Table^Td", "None", "Unknown^Unknown", "P^P", "100", "1000",
        "0.5", "MR", "nan", "é", "王", "Sure^Likely", "Check", "Case^Patient", "Png^Gz",
    ]  # fmt: skip
    ids = [
        "1",
        "0000",
        "100",
        "P",
        "MR",
        "0",
        "12",
        "lesion",
        "train",
        "other",
        "0001",
        "1.5",
        "P-",
        "x",
        "t1",
    ]
    return {
        "PatientName": {names[k % len(names)]},
        "PatientID": {ids[k % len(ids)]},
        "PatientBirthDate": {"20200101", "", "19000101"},
        "PatientAge": {"045Y"},
        "PatientWeight": {"75", "75.5"},
        "StudyTime": {"100000", "101112.5"},
        "StationName": {"MR1"},
        "PatientComments": {"arterial phase missing; the lesion was drawn on the portal venous phase"},
        "PrivateTag(0029,1010)": {"SIEMENS MEDCOM HEADER", "1", "0.5", "YES", "true"},
        "SeriesDescription": {"t1_vibe_fs_tra_arterial", "portal venous"},
    }


def test_awful_names_raise_no_false_alarm(tmp_path: Path) -> None:
    site = make_site(tmp_path / "SITE", 30)
    triples = [(str(k), a, v) for k in range(30) for a, values in awful(k).items() for v in values]
    report = audit(site.folder, triples)
    assert report.findings == (), report.lines()
    assert report.own_words["PatientName"] > 0
    assert report.too_short["PatientName"] >= 2
    assert report.left_out["StudyTime"] == 2


def in_json(site: SiteFolder, text: str, key: str = "note") -> None:
    file = sorted((site.folder / RECORDS).glob("*.json"))[0]
    data = json.loads(file.read_text())
    data["series"][0][key] = text
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "text", "name"),
    [
        ("patient", "lesion", "Lesion^X"),
        ("patient", "Portal", "Portal^X"),
        ("case", "other", "Other^X"),
        ("taken_for", "lesion", "Lesion^X"),
        ("patient", "0000", "0000"),
        ("note", "Null", "Huber^Null"),
        ("note", "series of Null", "Null"),
    ],
)
def test_a_name_that_is_our_word_is_found_where_names_would_stand(
    site: SiteFolder, key: str, text: str, name: str
) -> None:
    in_json(site, text, key)
    report = audit(site.folder, {"PatientName": {name}})
    assert found(report) == {"PatientName"}


def test_a_folder_called_after_a_patient_is_found_though_it_is_our_word(site: SiteFolder) -> None:
    (site.folder / IMAGES / "Portal").mkdir()
    assert found(audit(site.folder, {"PatientName": {"Portal^X"}})) == {"PatientName"}
    (site.folder / IMAGES / "0000").mkdir()
    assert found(audit(site.folder, {"PatientID": {"0000"}})) == {"PatientID"}


SPELLINGS: list[tuple[str, str]] = [
    ("Müller", "PatientName"),
    ("MÜLLER", "PatientName"),
    ("Mueller", "PatientName"),
    ("muller", "PatientName"),
    ("Mu\u0308ller", "PatientName"),
    ("Hans-Müllersohn", "PatientName"),
    ("anna_liver", "PatientName"),
    ("Anna", "PatientName"),
    ("LÜDENSCHEIDT", "PatientName"),
    ("AB-123456", "PatientID"),
    ("ab123456", "PatientID"),
    ("19610503", "PatientBirthDate"),
    ("1961-05-03", "PatientBirthDate"),
    ("3.5.1961", "PatientBirthDate"),
    ("03/05/1961", "PatientBirthDate"),
    ("May 3, 1961", "PatientBirthDate"),
    ("19610503101112", "PatientBirthDate"),
    ("X7654321Y", "AccessionNumber"),
    ("0007654321", "AccessionNumber"),
    ("1.2.276.0.45.1.2.3", "StudyInstanceUID"),
    ("kim", "OperatorsName"),
    ("rosenweg", "InstitutionAddress"),
    ("MUSTERSTADT", "InstitutionAddress"),
]


@pytest.mark.parametrize(("text", "attribute"), SPELLINGS)
@pytest.mark.parametrize("escaped", ["ascii", "utf-8", "html"])
def test_spellings_and_escapes(tmp_path: Path, text: str, attribute: str, escaped: str) -> None:
    folder = tmp_path / "S"
    folder.mkdir()
    if escaped == "html":
        page = "".join(f"&#{ord(c)};" if not c.isascii() else c for c in text)
        (folder / "check.html").write_text(f"<td>of {page} one</td>")
    else:
        (folder / "a.json").write_text(
            json.dumps({"note": f"of {text} one"}, ensure_ascii=escaped == "ascii"), "utf-8"
        )
    assert attribute in found(audit(folder, IDENTITY))


@pytest.mark.parametrize(
    "text",
    [
        "17654321", "0.7654321", "7654321.5", "119610503", "1.2.276.0.45.1.2.34",
        "11.2.276.0.45.1.2.3", "kimono", "akim", "annual", "deadbeef7654321deadbeef", "1961",
        "AB-12345",
    ],
)  # fmt: skip
def test_what_is_something_else_is_no_hit(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"note": f"of {text} one"}))
    assert audit(tmp_path, IDENTITY).findings == ()


def gz(data: bytes, name: str = "") -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=out, mtime=0) as file:
        file.write(data)
    return out.getvalue()


def volume(descrip: str = "", extension: bytes = b"", voxels: bytes = b"") -> bytes:
    rng = np.random.default_rng(3)
    data = rng.integers(0, 2000, (20, 30, 30)).astype(np.int16)
    image = nifti_image(data)
    image.header["descrip"] = descrip.encode("latin-1")
    if extension:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, extension))
    raw = bytearray(image.to_bytes())
    if voxels:
        raw[20000 : 20000 + len(voxels)] = voxels
    return bytes(raw)


def ztxt(text: bytes) -> bytes:
    whole = picture()
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(text)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return whole[:33] + chunk + whole[33:]


PLACES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "latin-1": ("a.txt", lambda: "of Müller".encode("latin-1")),
    "utf-16": ("a.txt", lambda: "of Müller one".encode("utf-16")),
    "utf-16 in between": ("a.txt", lambda: b"x" * 50 + "Müller".encode("utf-16-le") + b" y"),
    "percent": ("a.txt", lambda: urllib.parse.quote("of Müller one").encode()),
    "entity": ("a.html", lambda: b"<p>M&uuml;ller</p>"),
    "gzip text": ("a.json.gz", lambda: gz("of Müller one".encode())),
    "gzip name": ("a.nii.gz", lambda: gz(volume(), "Anna.nii")),
    "gzip trailing": ("a.nii.gz", lambda: gz(volume()) + b"of Anna one"),
    "second member": ("a.nii.gz", lambda: gz(volume()) + gz(b"of Anna one " + "Müller".encode())),
    "voxels": ("a.nii.gz", lambda: gz(volume(voxels=b"mueller-luedenscheidt"))),
    "voxels, utf-16": ("a.nii.gz", lambda: gz(volume(voxels="MÜLLER-".encode("utf-16-le")))),
    "header": ("a.nii.gz", lambda: gz(volume("Anna"))),
    "header latin-1": ("a.nii.gz", lambda: gz(volume("Müller"))),
    "extension": ("a.nii.gz", lambda: gz(volume(extension=b"scanned by kim"))),
    "plain nifti": ("a.nii", lambda: volume("Anna")),
    "png text": ("a.png", lambda: picture("of Anna one")),
    "png packed text": ("a.png", lambda: ztxt("of Müller one".encode())),
    "png trailing": ("a.png", lambda: picture() + b"of Anna one"),
    "binary": ("a.bin", lambda: np.random.default_rng(1).bytes(5000) + "MÜLLER-LÜDEN".encode()),
    "base64": ("a.html", lambda: b"<img src='" + base64.b64encode(picture("of Anna one" * 20)) + b"'>"),
    "csv": ("cases.csv", lambda: b"case,patient,mask\nP-0123456789abcdef-1,Anna,images/x.nii.gz\n"),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_kind_of_file(tmp_path: Path, place: str) -> None:
    name, make = PLACES[place]
    (tmp_path / name).write_bytes(make())
    report = audit(tmp_path, IDENTITY)
    assert found(report) & {"PatientName", "OperatorsName"}, report.lines()
    assert report.unreadable == ()
    with pytest.raises(DatasetError, match="identifies patients"):
        must_be_clean(report)


@pytest.mark.parametrize(
    "name", ["Anna", "Mueller.json", "19610503", "x_7654321_y.nii.gz", "müller", "AB-123456"]
)
@pytest.mark.parametrize("folder", [False, True])
def test_names_of_files_and_folders(tmp_path: Path, name: str, folder: bool) -> None:
    (tmp_path / name).mkdir() if folder else (tmp_path / name).write_text("")
    report = audit(tmp_path, IDENTITY)
    assert len(report.findings) >= 1
    assert report.findings[0].inside == "its name"


@pytest.mark.parametrize("kind", ["text", "binary", "gzip"])
def test_nothing_is_lost_where_two_windows_meet(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_files, "WINDOW", 3 << 12)
    for at in range(12200, 12400, 7):
        body = bytearray(b"o " * 20000 if kind == "text" else np.random.default_rng(at).bytes(40000))
        body[at : at + 21] = b"Mueller-Luedenscheidt"
        file = tmp_path / "a.bin"
        file.write_bytes(gz(bytes(body)) if kind == "gzip" else bytes(body))
        report = audit(tmp_path, {"PatientName": {"Mueller-Luedenscheidt"}})
        assert {f.offset for f in report.findings} >= {at}
        assert len({(f.offset, f.hint) for f in report.findings}) == len(report.findings)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.nii.gz", gz(volume())[:-2000]), ("b.gz", b"\x1f\x8b\x08\0junkjunkjunk"), ("c.png", picture()[:60])],
)
def test_what_cannot_be_searched_is_not_clean(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    report = audit(tmp_path, IDENTITY)
    assert [file for file, _ in report.unreadable] == [name]
    with pytest.raises(DatasetError, match="could not be searched"):
        must_be_clean(report)


def test_links_are_named_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "S").mkdir()
    (tmp_path / "Anna").write_text("x")
    (tmp_path / "S" / "link").symlink_to(tmp_path / "Anna")
    (tmp_path / "S" / "self").symlink_to(tmp_path / "S")
    report = audit(tmp_path / "S", IDENTITY)
    assert found(report) == {"PatientName"}
    assert len(report.unreadable) == 2


def test_the_report_never_shows_a_value_on_paper(tmp_path: Path) -> None:
    (tmp_path / "Anna Mueller.txt").write_text("AB-123456 19610503")
    report = audit(tmp_path, IDENTITY)
    paper = json.dumps(report.for_paper())
    assert found(report) == {"PatientName", "PatientID", "PatientBirthDate"}
    assert not [v for v in ("Anna", "Mueller", "123456", "1961") if v in paper]
    shown = "\n".join(report.lines())
    assert "123456" not in shown.replace("Anna Mueller.txt", "")
    assert "MB/s" in shown


def test_no_folder_is_an_error_and_no_identity_is_clean(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        audit(tmp_path / "none", IDENTITY)
    (tmp_path / "a").write_text("Anna")
    assert audit(tmp_path, {}).clean
    assert audit(tmp_path, {"PatientName": {""}}).clean


def test_threads_and_progress_change_nothing(site: SiteFolder) -> None:
    in_json(site, "Anna was here")
    told: list[tuple[str, int, int]] = []
    one = audit(site.folder, IDENTITY, lambda *how_far: told.append(how_far))
    two = audit(site.folder, IDENTITY, jobs=3)
    assert one.findings == two.findings != ()
    assert told[-1][1] == told[-1][2]
    assert sorted(told) == told


def test_a_real_dicom_file_in_a_site_is_found(tmp_path: Path) -> None:
    file = SHARED / "dcm_qa_deident" / "In" / "00001.dcm"
    if not file.exists():
        pytest.skip("no shared data")
    identity = identity_of(dcmread(file, stop_before_pixels=True))
    (tmp_path / "a.nii.gz").write_bytes(gz(file.read_bytes()))
    assert "SOPInstanceUID" in found(audit(tmp_path, identity))
    site = make_site(tmp_path / "SITE")
    assert audit(site.folder, identity).clean


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("aAäÄßüøéŁłñçčİ王や-' "), min_size=6, max_size=20).filter(
        lambda t: len(t.strip()) > 5
    )
)
def test_any_name_is_found_in_any_encoding(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("s")
    values = {"PatientID": {name}}
    assume(sought_of([("PatientID", name)]).sought)
    for text in (name, name.upper(), name.lower()):
        for encode in (
            str.encode,
            lambda t: json.dumps({"note": t}).encode(),
            lambda t: t.encode("utf-16"),
            lambda t: urllib.parse.quote(t).encode(),
        ):
            (folder / "a.txt").write_bytes(encode(f"of {text} one"))
            assert audit(folder, values).findings, text


@given(st.binary())
def test_reading_takes_any_bytes_and_offsets_stay_inside(data: bytes) -> None:
    for encoding in ("utf-8", "utf-16-le"):
        read = read_text(data, encoding)
        for position in range(len(read.text)):
            assert 0 <= read.offset(position) <= len(data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(PLACES)), st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, place: str, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    name, make = PLACES[place]
    data = bytearray(make())
    data[at % len(data)] = byte
    (folder / name).write_bytes(bytes(data[: len(data) - at % 3 * 7]))
    audit(folder, IDENTITY)


@given(st.dates(date(1900, 1, 1)))
def test_days_are_understood(day: date) -> None:
    for text in (
        f"{day:%Y%m%d}",
        day.isoformat(),
        f"{day:%d.%m.%Y}",
        f"{day:%Y%m%d}101112.5",
        f"{day} 00:00:00",
    ):
        assert day_of(text) == day


def test_parts_of_names() -> None:
    assert name_parts("MÜLLER-LÜDENSCHEIDT^ANNA^^Dr.") == [
        "MÜLLER-LÜDENSCHEIDT", "MÜLLERLÜDENSCHEIDT", "MÜLLER", "LÜDENSCHEIDT", "ANNA",
    ]  # fmt: skip
    assert name_parts("O'Brien^Li") == ["O'Brien", "OBrien", "Brien", "Li"]
    assert name_parts("Yamada^Tarou=山田^太郎") == ["Yamada", "Tarou", "山田", "太郎"]
    assert fold("Straße ÉŁØ") == "strasse elo"


def test_the_vocabulary_is_what_the_program_writes() -> None:
    assert {"lesion", "phase", "certainty", "arterial", "rigid", "residual", "siemens"} <= words()
    assert not {"mueller", "schmidt", "anna", "huber", "kim"} & words()
    assert choices()["taken_for"] >= {"other", "arterial"}
    assert {RECORDS, IMAGES, CONTACT, *Path(TABLE).stem.split(), *Path(ABOUT).stem.split()} <= NAMES


@pytest.mark.parametrize("value", ["1.2", "1.2.3", "2.5 (\x00\x01US"])
def test_what_careless_or_damaged_headers_hold_in_a_uid_s_place_is_not_looked_for(value: str) -> None:
    assert spellings("SeriesInstanceUID", value) == []
    assert spellings("SeriesInstanceUID", "1.2.840.113619.2.1.1") != []


def test_the_vocabulary_is_read_by_one_thread_at_a_time() -> None:
    """Workers ask for it at once; a patient was lost by that, now and then."""
    inside = most = 0

    def parse(source: str) -> ast.AST:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1
        return ast.Module([], [])

    for kept in (words, audit_vocabulary._stems, audit_vocabulary._texts_read):
        kept.cache_clear()
    try:
        ours = SimpleNamespace(**{**vars(ast), "parse": parse})
        with patch.object(audit_vocabulary, "ast", ours), ThreadPoolExecutor(4) as pool:
            found = {frozenset(words_) for words_ in pool.map(lambda _: words(), range(4))}
        assert len(found) == 1
        assert most == 1
    finally:
        for kept in (words, audit_vocabulary._stems, audit_vocabulary._texts_read):
            kept.cache_clear()
