"""``phcc-client ingest`` as its user runs it: every patient's fate, second runs, training on what came of it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospital import NAMES, Hospital, examination, write_mask

from phcc_client.cli import app
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.preprocess import prepare
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.record import PatientRecord, Stage
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.command_line import run_program
from phcc_model.config import CropSettings, DataSettings

STUDY = DataSettings(
    source="nifti-csv",
    required_phases=("pre-contrast", "arterial", "portal-venous"),
    crop=CropSettings(size=(8, 24, 24), spacing_mm=(4.0, 2.5, 2.5)),
)


def ingest(hospital: Hospital, site: Path, *options: str) -> int:
    """The exit code of the command."""
    words = ["ingest", str(hospital.export), "--into", str(site), "--patients", str(hospital.table)]
    return run_program(app, [*words, *options])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file's content by its name below the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fates(site: Path) -> dict[str, PatientRecord]:
    """Each patient's record by the name that the hospital knows."""
    with (site.with_name(site.name + ".private") / "patients.csv").open(newline="") as file:
        names = {row["pseudonym"]: row["patient"] for row in csv.DictReader(file)}
    return {names[record.patient]: record for record in SiteFolder(site).records()}


def codes(record: PatientRecord) -> set[str]:
    return {finding.code for finding in record.findings if finding.stops is not None}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Good patients, and one for each thing that goes wrong."""
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    made.patient(1)
    made.patient(2, lesion="seg", label=0)
    made.patient(3, lesion="box", multiframe=True)
    made.patient(4, label="")
    made.patient(11, lesion="none")
    made.patient(12, label="maybe")
    made.patient(13, drop=(NAMES[1],))
    made.patient(14, tags={"Modality": "CT"})
    made.patient(15, tags={"BodyPartExamined": "HEAD"})
    made.patient(5)
    made.patient(16, look=5)
    made.patient(17, rename={NAMES[1]: NAMES[2] + "_b", NAMES[2]: NAMES[1] + "_b"})
    made.patient(19, tags={"BurnedInAnnotation": "YES"})
    made.row("PAT-0099", proliferative=1)
    made.patient(18, name="0018")
    (made.export / "0018" / "1" / "IM00003").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (made.export / "readme.txt").write_text("exported by somebody")
    return made


@pytest.fixture(scope="module")
def site(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "site"
    assert ingest(hospital, folder, "--registration", "off") == 0
    return folder


@pytest.mark.parametrize(
    ("patient", "reached", "why"),
    [
        ("PAT-0001", Stage.USABLE, set()),
        ("PAT-0002", Stage.USABLE, set()),
        ("PAT-0003", Stage.USABLE, set()),
        ("PAT-0004", Stage.USABLE, set()),
        ("PAT-0011", Stage.PHASES, {"no-lesion"}),
        ("PAT-0012", Stage.LESION, {"label-unknown-word"}),
        ("PAT-0013", Stage.MR_LIVER, {"no-arterial"}),
        ("PAT-0014", Stage.READABLE, {"wrong-modality"}),
        ("PAT-0015", Stage.READABLE, {"wrong-body-part"}),
        ("PAT-0017", Stage.MR_LIVER, {"no-arterial", "no-portal-venous"}),
        ("PAT-0019", Stage.FOUND, {"nothing-readable"}),
        ("PAT-0099", Stage.FOUND, {"no-images"}),
        ("0018", Stage.MR_LIVER, {"no-pre-contrast"}),
    ],
)
def test_what_becomes_of_each(site: Path, patient: str, reached: Stage, why: set[str]) -> None:
    record = fates(site)[patient]
    assert record.reached == reached
    assert codes(record) >= why
    assert all(finding.remedy for finding in record.findings if finding.stops is not None)
    assert bool(record.phases) == (reached == Stage.USABLE)


def test_pixels_that_may_hold_a_name_are_not_used_and_that_is_said(site: Path) -> None:
    texts = [finding.text for finding in fates(site)["PAT-0019"].findings]
    assert any("a name may be drawn into its pixels" in text for text in texts)


def test_of_identical_patients_one_is_listed(site: Path) -> None:
    with (site / "cases.csv").open(newline="") as file:
        listed = {row["patient"] for row in csv.DictReader(file)}
    known = fates(site)
    pair = {known["PAT-0005"].patient, known["PAT-0016"].patient}
    assert len(listed & pair) == 1
    assert {known[f"PAT-000{n}"].patient for n in (1, 2, 3, 4)} <= listed
    assert len(listed) == 5


@pytest.mark.parametrize("number", [1, 2, 3])
def test_voxels_and_lesion_are_those_that_were_measured(site: Path, number: int) -> None:
    """Mask, segmentation and box; classic and enhanced."""
    phases, mask = examination(number)
    record = fates(site)[f"PAT-{number:04d}"]
    reading = read_cases(STUDY, site)
    (raw,) = [raw for raw in reading.cases if raw.patient == record.patient]
    for name, phase in zip(NAMES, ("pre-contrast", "arterial", "portal-venous", "delayed"), strict=True):
        path = raw.images[phase].path  # type: ignore[index]
        assert path is not None
        assert np.array_equal(NiftiImage(path).read(), phases[name])
    assert raw.mask is not None
    drawn = NiftiImage(raw.mask).read() != 0
    if number != 3:
        assert np.array_equal(drawn, mask)
    else:
        assert drawn[mask].all()
        assert drawn.sum() == np.prod([np.ptp(np.flatnonzero(mask.any(axis=o))) + 1 for o in OTHERS])
    crop = prepare(raw, STUDY)
    assert crop.present_p.all()
    assert 0 < crop.lesion_dhw.mean() < 0.9


OTHERS = ((1, 2), (0, 2), (0, 1))


def test_a_study_trains_on_it(site: Path, tmp_path: Path) -> None:
    prepared = prepare_all(read_cases(STUDY, site), STUDY, tmp_path / "cache")
    assert sorted(entry.label for entry in prepared.entries) == [-1, 0, 1, 1, 1]
    assert prepared.rejections == ()


def test_nothing_in_the_folder_names_anybody(site: Path, hospital: Hospital) -> None:
    text = b"".join(content for content in tree(site).values())
    for name in (b"PAT-00", b"0018", str(hospital.export).encode()):
        assert name not in text
    private = site.with_name("site.private")
    assert private.stat().st_mode & 0o077 == 0
    assert json.loads((private / "audit.json").read_text())["clean"] is True


def test_a_second_run_has_nothing_to_do_and_says_so(
    hospital: Hospital, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in site.rglob("*")}
    assert ingest(hospital, site, "--registration", "off") == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in site.rglob("*")} == before


def test_the_same_again_elsewhere_is_the_same_but_for_the_key(
    hospital: Hospital, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "site.private").mkdir(mode=0o700)
    shutil.copy(site.with_name("site.private") / "key", tmp_path / "site.private" / "key")
    assert ingest(hospital, tmp_path / "site", "--registration", "off", "--jobs", "3") == 0
    assert tree(tmp_path / "site") == tree(site)


@pytest.fixture
def copied(hospital: Hospital, site: Path, tmp_path: Path) -> Path:
    """A site of its own, to be changed."""
    shutil.copytree(site, tmp_path / "site")
    shutil.copytree(site.with_name("site.private"), tmp_path / "site.private")
    return tmp_path / "site"


def test_a_file_that_was_altered_is_made_anew(hospital: Hospital, site: Path, copied: Path) -> None:
    victim = next(copied.glob("images/*/arterial.nii.gz"))
    victim.write_bytes(b"altered")
    assert ingest(hospital, copied, "--registration", "off") == 0
    assert tree(copied) == tree(site)


def test_a_site_whose_key_is_lost_is_not_given_new_names(
    hospital: Hospital, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied.with_name("site.private") / "key").unlink()
    before = tree(copied)
    assert ingest(hospital, copied, "--registration", "off") == 1
    assert "the key of its pseudonyms is gone" in capsys.readouterr().err
    assert tree(copied) == before


def test_a_name_that_slipped_through_is_found_and_the_site_refused(
    hospital: Hospital, copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit does not trust the rest of the program."""
    import phcc_client.ingest.choice as choice

    monkeypatch.setattr(choice, "scrub", lambda text, identity: f"{text} {sorted(identity['PatientName'])}")
    (copied.with_name("site.private") / "phases.yaml").write_text("rules: []\n")
    assert ingest(hospital, copied, "--registration", "off") == 1
    streams = capsys.readouterr()
    assert "FOUND PatientName" in streams.out
    assert "identifies patients" in streams.err
    assert json.loads((copied.with_name("site.private") / "audit.json").read_text())["clean"] is False


def test_rules_of_the_hospital_win(hospital: Hospital, copied: Path) -> None:
    (copied.with_name("site.private") / "phases.yaml").write_text(
        f'rules:\n  - description: "{NAMES[2]}_b"\n    phase: arterial\n'
        f'  - description: "{NAMES[1]}_b"\n    phase: portal-venous\n'
    )
    assert ingest(hospital, copied, "--registration", "off") == 0
    assert fates(copied)["PAT-0017"].reached == Stage.USABLE


def test_a_mask_that_is_drawn_again_or_comes_later_is_seen(tmp_path: Path) -> None:
    """Masks lie beside the table, not in the source, and neither of them changes here."""
    small = Hospital(tmp_path / "small")
    for number in (1, 2):
        small.patient(number)
    first, second = (small.tables / f"{number}.nii.gz" for number in (1, 2))
    late = second.read_bytes()
    second.unlink()
    site = tmp_path / "site"
    assert ingest(small, site, "--registration", "off") == 0
    before = fates(site)
    assert before["PAT-0002"].reached == Stage.PHASES
    smaller = NiftiImage(first).read()
    smaller[: smaller.shape[0] // 2] = 0
    write_mask(first, smaller != 0)
    second.write_bytes(late)
    assert ingest(small, site, "--registration", "off") == 0
    after = fates(site)
    assert after["PAT-0002"].reached == Stage.USABLE
    assert after["PAT-0001"].lesions[0].volume_ml < before["PAT-0001"].lesions[0].volume_ml


def test_patients_who_leave_the_source_leave_the_site(site: Path, tmp_path: Path) -> None:
    small = Hospital(tmp_path / "small")
    for number in (1, 2):
        small.patient(number)
    assert ingest(small, tmp_path / "site", "--registration", "off") == 0
    gone = fates(tmp_path / "site")["PAT-0002"].patient
    shutil.rmtree(small.export / "0002")
    small._rows.pop()
    assert ingest(small, tmp_path / "site", "--registration", "off") == 0
    assert set(fates(tmp_path / "site")) == {"PAT-0001"}
    assert not [name for name in tree(tmp_path / "site") if gone in name]


def test_check_says_what_is_to_be_done(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(app, ["check", str(site)]) == 0
    said = capsys.readouterr().out
    for words in ("phases complete", "wrong-modality", "duplicate-identical", "check.html"):
        assert words in said


def test_check_with_a_study_says_who_is_used(site: Path, tmp_path: Path) -> None:
    study: dict[str, Any] = {"name": "here", "data": STUDY.model_dump(mode="json", exclude={"path"})}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    assert run_program(app, ["check", str(copy), "--study", str(tmp_path / "study.yaml")]) == 0
    stages = {row["stage"]: row for row in json.loads((copy / "check.json").read_text())["funnel"]["stages"]}
    assert stages["used"] != stages["found"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--registration", "magic"], "no kind of registration"),
        (["--require", "artrial"], "artrial: no phase"),
        (["--phases", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_choices_that_are_none(
    hospital: Hospital, tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(hospital, tmp_path / "site", *options) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said


def test_a_source_with_nobody_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("nothing here")
    assert run_program(app, ["ingest", str(tmp_path / "source"), "--into", str(tmp_path / "site")]) == 1
    assert "no DICOM image of anybody" in capsys.readouterr().err
