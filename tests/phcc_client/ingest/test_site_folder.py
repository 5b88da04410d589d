"""The site's folder: whole files, nothing else overwritten, nothing of an earlier run left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import pytest

from phcc_client.imaging.nifti_csv import read_nifti_csv
from phcc_client.ingest.record import Finding, LesionRecord, PatientRecord, PhaseRecord, Stage
from phcc_client.ingest.settings import IngestSettings, phases_of
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import DatasetError

ONE, TWO = "P-0000000000000001", "P-0000000000000002"


def _phase(patient: str, phase: Phase) -> PhaseRecord:
    return PhaseRecord(
        phase=phase,
        file=f"images/{patient}/{phase}.nii.gz",
        sha256="0" * 64,
        pixels="1" * 64,
        aligned="off",
    )


def _record(patient: str, reached: Stage = Stage.USABLE, label: Literal[-1, 0, 1] = 1) -> PatientRecord:
    lesions = tuple(
        LesionRecord(
            case=f"{patient}-{n}",
            mask=f"images/{patient}/lesion-{n}.nii.gz",
            sha256="2" * 64,
            drawn_on="arterial",
            volume_ml=1.0,
            centre_mm_zyx=(0.0, 0.0, 0.0),
        )
        for n in (1, 2)
    )
    return PatientRecord(
        patient=patient,
        inputs="i",
        reached=reached,
        label=label,
        afp_ng_ml=12.5,
        findings=(Finding(code="remark", text="a remark"),),
        phases=(_phase(patient, "arterial"), _phase(patient, "delayed")),
        lesions=lesions,
    )


@pytest.fixture
def site(tmp_path: Path) -> SiteFolder:
    (tmp_path / "source").mkdir()
    made = SiteFolder(tmp_path / "site")
    made.prepare(tmp_path / "source")
    made.write_about(IngestSettings())
    return made


def test_the_table_is_what_training_reads(site: SiteFolder) -> None:
    records = (_record(ONE), _record(TWO, label=-1), _record("P-0000000000000003", Stage.PHASES))
    site.write_table(records, "proliferative")
    rows = list(csv.DictReader((site.folder / "cases.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == [f"{ONE}-1", f"{ONE}-2", f"{TWO}-1", f"{TWO}-2"]
    assert [row["proliferative"] for row in rows] == ["1", "1", "", ""]
    read = read_nifti_csv(site.folder, DataSettings(source="nifti-csv", phases=("arterial", "delayed")))
    assert [raw.label for raw in read.cases] == [1, 1, -1, -1]
    assert read.cases[0].afp == 12.5
    assert set(read.cases[0].images) == {"arterial", "delayed"}
    assert read.cases[0].mask == site.folder / f"images/{ONE}/lesion-1.nii.gz"


def test_records_and_settings_come_back(site: SiteFolder) -> None:
    site.write_record(_record(TWO))
    site.write_record(_record(ONE))
    assert site.records() == (_record(ONE), _record(TWO))
    assert site.settings() == IngestSettings()


def test_what_is_there_already_is_not_written_again(site: SiteFolder) -> None:
    site.write_record(_record(ONE))
    file = site.folder / "records" / f"{ONE}.json"
    before = file.stat().st_mtime_ns, file.stat().st_ino
    site.write_record(_record(ONE))
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before


def test_patients_who_left_the_source_leave_the_site(site: SiteFolder) -> None:
    for patient in (ONE, TWO):
        site.write_record(_record(patient))
        site.write(f"images/{patient}/arterial.nii.gz", b"x")
        site.write(f"contact/{patient}.png", b"x")
    site.write("images/.arterial.nii.gz.half", b"a killed run's")
    site.write(".cases.csv.half", b"a killed run's")
    for own in ("notes.txt", ".gitignore"):
        (site.folder / own).write_text("the hospital's own")
    assert site.forget_others([ONE]) == (TWO,)
    left = {str(file.relative_to(site.folder)) for file in site.folder.rglob("*") if file.is_file()}
    assert left == {
        *("ingest.json", "notes.txt", ".gitignore", f"records/{ONE}.json"),
        *(f"images/{ONE}/arterial.nii.gz", f"contact/{ONE}.png"),
    }


def test_files_of_an_earlier_run_of_a_patient_go(site: SiteFolder) -> None:
    for phase in ("arterial", "delayed"):
        site.write(f"images/{ONE}/{phase}.nii.gz", b"x")
    site.tidy(ONE, [f"images/{ONE}/arterial.nii.gz"])
    assert [file.name for file in (site.folder / "images" / ONE).iterdir()] == ["arterial.nii.gz"]
    site.tidy(ONE, [])
    assert not (site.folder / "images" / ONE).exists()


def test_source_and_site_within_one_another(tmp_path: Path) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    for source, site in (
        ("source", "source"),
        ("source", "source/deep/site"),
        ("source/deep", "source"),
    ):
        with pytest.raises(DatasetError, match="within one another"):
            SiteFolder(tmp_path / site).prepare(tmp_path / source)


def test_empty_folders_of_a_run_that_was_stopped_early_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for _ in range(2):
        SiteFolder(tmp_path / "site").prepare(tmp_path / "source")
    (tmp_path / "site" / "images" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DatasetError, match="something else"):
        SiteFolder(tmp_path / "site").prepare(tmp_path / "source")


def test_a_folder_with_something_else_in_it_and_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("x")
    with pytest.raises(DatasetError, match="something else"):
        SiteFolder(other).prepare(tmp_path / "source")
    site = tmp_path / "site"
    site.mkdir()
    (site / "ingest.json").write_text("{}")
    (site / "images").symlink_to(other)
    with pytest.raises(DatasetError, match="is a link"):
        SiteFolder(site).prepare(tmp_path / "source")
    assert sorted(p.name for p in other.iterdir()) == ["chapter.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {"registration": "magic"}}', "null"])
def test_a_damaged_folder_is_said_to_be_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "ingest.json").write_text(content)
    with pytest.raises(DatasetError, match="damaged"):
        SiteFolder(tmp_path).settings()


def test_what_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no ingested site"):
        SiteFolder(tmp_path).settings()


def test_a_damaged_record_says_so(site: SiteFolder) -> None:
    (site.folder / "records" / f"{ONE}.json").write_text('{"patient": 1}')
    with pytest.raises(DatasetError, match="is damaged"):
        site.records()


def test_phases_of_a_list() -> None:
    assert phases_of("arterial, pre-contrast") == ("pre-contrast", "arterial")
    assert phases_of("") == ()
    with pytest.raises(ValueError, match="artrial: no phase"):
        phases_of("artrial")
