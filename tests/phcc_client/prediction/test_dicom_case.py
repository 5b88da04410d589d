"""From a PACS export to the lesion that is scored; what is not sure is asked, what is wrong is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import SETTINGS
from hospital import GRID, NAMES, Hospital, examination, write_mask

from phcc_client.imaging.cache import entry_path, load
from phcc_client.imaging.case import Box
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.phases_file import load_phases
from phcc_client.prediction.ask import Ask
from phcc_client.prediction.dicom_case import DicomWork
from phcc_client.prediction.subject import Subject
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError, PhccError


def subject(hospital: Hospital, folder: Path, settings: DataSettings = SETTINGS, **options: Any) -> Subject:
    ask = Ask(hospital.export, **{"registration": "off", **options})
    return DicomWork(ask, settings, folder / "work", folder / "draft.yaml", lambda *_: None).subject()


def refused(hospital: Hospital, folder: Path, settings: DataSettings = SETTINGS, **options: Any) -> PhccError:
    with pytest.raises(PhccError) as caught:
        subject(hospital, folder, settings, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert str(folder / "work") not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    made.patient(2, lesion="seg")
    return made


def test_what_is_scored_is_what_training_would_have_seen(hospital: Hospital, tmp_path: Path) -> None:
    """The same export through ingest and preparation, as a study's site makes it: voxel for voxel."""
    from phcc_client.cli import app
    from phcc_model.command_line import run_program

    found = subject(hospital, tmp_path, registration="rigid")
    site = tmp_path / "site"
    words = ["ingest", str(hospital.export), "--into", str(site), "--patients", str(hospital.table)]
    assert run_program(app, words) == 0
    settings = SETTINGS.model_copy(update={"source": "nifti-csv"})
    reading = read_cases(settings, site)
    key = prepare_all(reading, settings, tmp_path / "cache").entries[0].key
    trained = load(tmp_path / "cache", key)
    assert trained is not None
    assert entry_path(tmp_path / "cache", key).exists()
    for name in ("volumes_pdhw", "present_p", "lesion_dhw"):
        assert np.array_equal(getattr(found.prepared, name), getattr(trained, name))


def test_phases_rules_lesion_and_header_are_told(hospital: Hospital, tmp_path: Path) -> None:
    found = subject(hospital, tmp_path)
    assert found.patient == "PAT-0002"
    assert [n.phase for n in found.phases if n.used] == list(SETTINGS.phases)
    assert all(n.rule and n.certainty == "sure" and n.field_strength_t == 1.5 for n in found.phases)
    assert [n.seconds for n in found.phases] == [0.0, 80.0, 120.0, 240.0]
    _, mask = examination(2)
    voxel = abs(np.linalg.det(GRID.matrix)) / 1000
    assert found.lesion.volume_ml == pytest.approx(mask.sum() * voxel, abs=1e-3)
    assert found.lesion.drawn_on == "portal-venous"
    assert found.header is not None
    assert found.header.PatientID == "PAT-0002"
    assert found.source.study_uid == found.header.StudyInstanceUID
    assert found.source.examined == "2023-04-05"
    assert found.phases[2].enhancement is not None
    assert found.phases[2].enhancement > 0.3
    assert found.cautions == ()


def test_the_crop_lies_where_the_lesion_is(hospital: Hospital, tmp_path: Path) -> None:
    found = subject(hospital, tmp_path)
    assert found.grid is not None
    _, mask = examination(2)
    inside = np.argwhere(found.prepared.lesion_dhw > 0)
    for index in inside[:: max(len(inside) // 40, 1)]:
        at = np.rint(GRID.to_index(found.grid.to_mm(index.astype(float)))).astype(int)
        assert mask[tuple(at)]


@pytest.mark.parametrize("kind", ["nifti", "seg", "box"])
def test_the_lesion_may_come_from_the_command_line(kind: str, tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    made.patient(3, lesion="seg" if kind == "seg" else "none")
    _, mask = examination(3)
    if kind == "nifti":
        options: dict[str, Any] = {"mask": write_mask(tmp_path / "m.nii.gz", mask), "drawn_on": "arterial"}
    elif kind == "seg":
        away = tmp_path / "seg.dcm"
        (made.export / "0003" / "seg").rename(away)
        assert refused(made, tmp_path).what.startswith("nothing says where its lesion is")
        options = {"mask": away}
    else:
        hit = np.argwhere(mask)
        low, high = hit.min(axis=0).tolist(), (hit.max(axis=0) + 1).tolist()
        options = {"box": Box(tuple(low), tuple(high)), "drawn_on": "arterial"}
    found = subject(made, tmp_path, **options)
    hit = np.argwhere(mask)
    middle = GRID.to_mm((hit.min(axis=0) + hit.max(axis=0)) / 2)
    assert found.grid is not None
    centre = found.grid.to_mm((np.array(found.grid.shape_dhw) - 1) / 2)
    assert np.allclose(centre, middle, atol=1e-3)


def test_an_unsure_phase_is_asked_and_the_draft_answers_it(tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    made.patient(4, lesion="seg", rename={NAMES[1]: NAMES[2] + "_b", NAMES[2]: NAMES[1] + "_b"})
    error = refused(made, tmp_path)
    assert "is not decided" in error.what
    draft = (tmp_path / "draft.yaml").read_text()
    assert "PAT-0004" in draft
    rules = tmp_path / "phases.yaml"
    rules.write_text("patients:\n  'PAT-0004':\n    series 2: arterial\n    series 3: portal-venous\n")
    assert load_phases(rules)
    found = subject(made, tmp_path, phases=rules)
    assert [n.phase for n in found.phases if n.used] == list(SETTINGS.phases)
    assert "phases.yaml" in found.phases[1].rule


def test_a_missing_phase_is_a_warning_or_refused_where_the_study_needs_it(tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    made.patient(5, lesion="seg", drop=(NAMES[3],))
    found = subject(made, tmp_path)
    assert [n.used for n in found.phases] == [True, True, True, False]
    assert not found.prepared.present_p[3]
    needed = SETTINGS.model_copy(update={"required_phases": ("delayed",)})
    error = refused(made, tmp_path, needed)
    assert "delayed is missing" in error.what
    assert "--phases" in str(error)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lesion": "none"}, "nothing says where its lesion is"),
        ({"lesion": "seg", "tags": {"Modality": "CT"}}, "CT, not MR"),
        ({"lesion": "seg", "tags": {"BodyPartExamined": "HEAD"}}, "another part of the body"),
    ],
)
def test_what_cannot_be_scored_is_refused(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    made.patient(6, **options)
    assert why in refused(made, tmp_path).what


def test_contrast_that_never_arrives_is_said_and_scored_all_the_same(tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    made.patient(7, lesion="seg")
    for number in (2, 3, 4):
        for path in sorted((made.export / "0007" / str(number)).iterdir()):
            plain = made.export / "0007" / "1" / path.name
            content, other = path.read_bytes(), plain.read_bytes()
            size = made.shape[1] * made.shape[2] * 2
            path.write_bytes(content[:-size] + other[-size:])
    found = subject(made, tmp_path)
    (said,) = [caution for caution in found.cautions if caution.code == "no-enhancement"]
    assert "contrast never arrives" in said.text
    assert "was contrast given" in said.remedy
    assert found.prepared.present_p.all()
    assert abs(found.phases[1].enhancement or 0.0) < 0.05


def test_one_of_several_patients_is_named(tmp_path: Path) -> None:
    made = Hospital(tmp_path / "h")
    for number in (8, 9):
        made.patient(number, lesion="seg")
    error = refused(made, tmp_path)
    assert isinstance(error, DatasetError)
    assert "PAT-0008, PAT-0009" in error.what
    assert "--patient" in str(error)
    assert subject(made, tmp_path, patient="PAT-0009").patient == "PAT-0009"
    assert "Correct --patient" in str(refused(made, tmp_path, patient="PAT-9"))


def test_a_damaged_mask_is_said_with_its_file(hospital: Hospital, tmp_path: Path) -> None:
    bad = tmp_path / "m.nii.gz"
    bad.write_bytes(b"\x1f\x8b nothing")
    assert str(bad) in str(refused(hospital, tmp_path, mask=bad, drawn_on="arterial"))
    other = tmp_path / "m.dcm"
    other.write_bytes(b"\0" * 200)
    assert str(other) in str(refused(hospital, tmp_path, mask=other))


def test_the_digest_is_of_contents_and_choices(hospital: Hospital, tmp_path: Path) -> None:
    first = subject(hospital, tmp_path / "a").source.digest
    assert subject(hospital, tmp_path / "b").source.digest == first
    moved = Hospital(tmp_path / "h")
    moved.export.rmdir()
    shutil.copytree(hospital.export, moved.export)
    (moved.export / "0002").rename(moved.export / "renamed")
    assert subject(moved, tmp_path / "c").source.digest == first
    assert subject(hospital, tmp_path / "d", registration="rigid").source.digest != first
