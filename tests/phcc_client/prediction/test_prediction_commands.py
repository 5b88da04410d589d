"""``phcc-client predict`` as its user runs it: from a package and a patient to the folder that is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from examples import SETTINGS
from hospital import GRID, Hospital, examination
from pydicom import dcmread

from phcc_client.cli import app
from phcc_client.found import with_records
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.facts import ranges_of
from phcc_client.imaging.readers import read_cases
from phcc_client.prediction.result import NOTICE, Prediction
from phcc_model.build import build_classifier, state_of
from phcc_model.command_line import run_program
from phcc_model.config import ModelSettings, StudyConfig
from phcc_model.package import write_package
from phcc_model.package_schema import Recalibration, Seen, Span, Threshold
from phcc_server.ledger import CardRecord
from phcc_server.seen import seen_of

STUDY = StudyConfig(
    name="small",
    data=SETTINGS,
    model=ModelSettings(size="custom", depths=(1, 1), dims=(8, 16), stem=(1, 2, 2), downsample=((2, 2, 2),)),
)
WRITTEN = {
    "prediction.json", "prediction.html", "prediction.pdf", "heatmap.png", "dicom/prediction-pdf.dcm",
    "dicom/prediction-picture.dcm", *(f"heatmaps/{phase}.nii.gz" for phase in SETTINGS.phases),
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "model"
    write_package(
        folder,
        STUDY,
        "full",
        state_of(build_classifier(STUDY)),
        stage_round=0,
        threshold=Threshold(value=0.4, source="test"),
        calibration=Recalibration(intercept=0.1, slope=0.8, source="test"),
        seen=Seen(patients=50, field_t=Span(low=3, high=3)),
        card="# A card",
    )
    return folder


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    made.patient(2, lesion="seg")
    return made


def predict(package: Path, source: Path, out: Path, *options: str) -> int:
    return run_program(app, ["predict", str(package), str(source), "--out", str(out), *options])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(out: Path) -> Prediction:
    return Prediction.model_validate_json((out / "prediction.json").read_text())


@pytest.fixture(scope="module")
def out(package: Path, hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "prediction"
    assert predict(package, hospital.export, folder, "--registration", "off") == 0
    return folder


def test_everything_is_written_and_says_what_it_is(out: Path) -> None:
    files = tree(out)
    assert set(files) == WRITTEN
    one = read(out)
    assert set(one.files) == WRITTEN - {"prediction.json"}
    assert NOTICE in one.notice
    assert NOTICE in (out / "prediction.html").read_text()
    for name in ("dicom/prediction-pdf.dcm", "dicom/prediction-picture.dcm"):
        assert NOTICE in dcmread(out / name).SeriesDescription
    assert 0.0 < one.score < 1.0
    assert one.probability != one.score
    assert (one.verdict == "positive") == (one.score >= 0.4)
    assert {c.code for c in one.warnings} == {"field-strength-not-seen"}
    assert sum(n.attention or 0.0 for n in one.phases) == pytest.approx(1.0, abs=1e-3)


def test_the_same_input_gives_the_same_bytes(
    package: Path, hospital: Hospital, out: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert predict(package, hospital.export, again, "--registration", "off") == 0
    assert tree(again) == tree(out)
    assert predict(package, hospital.export, again, "--registration", "off", "--no-dicom") == 0
    assert set(tree(again)) == {name for name in WRITTEN if not name.startswith("dicom")}


def test_a_heat_map_lies_on_the_lesion(out: Path) -> None:
    image: Any = nibabel.load(out / "heatmaps" / "arterial.nii.gz")
    d, h, w = SETTINGS.crop.size
    assert image.shape == (w, h, d)
    middle = image.affine @ [(w - 1) / 2, (h - 1) / 2, (d - 1) / 2, 1]
    hit = np.argwhere(examination(2)[1])
    z, y, x = GRID.to_mm((hit.min(axis=0) + hit.max(axis=0)) / 2)
    assert np.allclose(middle[:3], (-x, -y, z), atol=1e-3)


def test_an_ingested_site_and_its_prepared_crop_give_the_same_score(
    package: Path, hospital: Hospital, out: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    words = ["ingest", str(hospital.export), "--into", str(site), "--patients", str(hospital.table)]
    assert run_program(app, [*words, "--registration", "off"]) == 0
    assert predict(package, site, tmp_path / "a") == 0
    first = read(tmp_path / "a")
    assert first.score == read(out).score
    assert first.input.kind == "nifti-csv"
    assert first.phases[1].rule == read(out).phases[1].rule
    assert not (tmp_path / "a" / "dicom").exists()
    settings = SETTINGS.model_copy(update={"source": "nifti-csv"})
    entry = prepare_all(read_cases(settings, site), settings, tmp_path / "cache").entries[0]
    crop = next((tmp_path / "cache").rglob(f"{entry.key}.safetensors"))
    assert predict(package, crop, tmp_path / "b") == 0
    assert read(tmp_path / "b").score == first.score
    assert predict(package, site, tmp_path / "c", "--case", "nobody") == 1
    crop.write_bytes(crop.read_bytes()[:-3])
    assert predict(package, crop, tmp_path / "d") == 1


def test_a_package_that_was_altered_is_refused(
    package: Path, hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(package, other)
    weights = other / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert predict(other, hospital.export, tmp_path / "x") == 1
    assert "does not match its digest" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_bad_words_are_one_line_and_nothing_is_overwritten(
    package: Path, hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("years of work")
    for source, out, options in (
        (hospital.export, full, ()),
        (hospital.export, hospital.export / "out", ()),
        (tmp_path / "nowhere", tmp_path / "y", ()),
        (hospital.export, tmp_path / "y", ("--box", "1:2")),
        (hospital.export, tmp_path / "y", ("--registration", "elastic")),
        (hospital.export, tmp_path / "y", ("--lesion", "7")),
        (full / "thesis.txt", tmp_path / "y", ()),
    ):
        assert predict(package, source, out, *options) == 1
        said = capsys.readouterr().err.strip()
        assert said.startswith("error:")
        assert "\n" not in said
        assert "fault of the program" not in said
    assert tree(full) == {"thesis.txt": b"years of work"}
    assert not (hospital.export / "out").exists()


def test_a_case_like_those_of_training_is_not_warned_of_and_another_is(
    hospital: Hospital, tmp_path: Path
) -> None:
    """Ranges as a site announces them, of patients like this one; then of patients unlike it."""
    site = tmp_path / "site"
    words = ["ingest", str(hospital.export), "--into", str(site), "--patients", str(hospital.table)]
    assert run_program(app, [*words, "--registration", "off"]) == 0
    settings = SETTINGS.model_copy(update={"source": "nifti-csv"})
    entries = prepare_all(read_cases(settings, site), settings, tmp_path / "cache").entries
    (entry,) = with_records(entries, site)
    ends = ranges_of({f"P-{n}": [entry.facts] for n in range(6)}, 5)
    assert {"spacing.d.low", "enhancement.arterial.low"} <= set(ends)
    cards = {"A": CardRecord(patients={"train": 6}, seen=ends)}
    like = written(tmp_path / "like", seen_of(cards))
    assert predict(like, hospital.export, tmp_path / "a", "--registration", "off") == 0
    assert not [c for c in read(tmp_path / "a").warnings if c.basis == "model"]
    # Half as many slices, and hardly any contrast: nobody here is like that.
    other = {**ends, "spacing.d.low": 8.0, "spacing.d.high": 8.0} | {
        f"enhancement.arterial.{end}": 2.0 for end in ("low", "high")
    }
    unlike = written(tmp_path / "unlike", seen_of({"A": CardRecord(patients={"train": 6}, seen=other)}))
    assert predict(unlike, hospital.export, tmp_path / "b", "--registration", "off") == 0
    found = {c.code: c.text for c in read(tmp_path / "b").warnings if c.basis == "model"}
    assert set(found) == {"spacing-not-seen", "enhancement-not-seen"}
    assert "slices 4.00 mm apart, 8 mm in nine of ten of the 6 patients" in found["spacing-not-seen"]


def test_a_model_that_finds_lesions_by_itself_warns_where_it_looked_elsewhere(
    hospital: Hospital, tmp_path: Path
) -> None:
    model = STUDY.model.model_copy(
        update={"classifier": STUDY.model.classifier.model_copy(update={"pooling": "found+spread"})}
    )
    folder = written(tmp_path / "package", None, STUDY.model_copy(update={"model": model}))
    assert predict(folder, hospital.export, tmp_path / "a", "--registration", "off") == 0
    found = {c.code: c.text for c in read(tmp_path / "a").warnings}
    assert "of where it looked lies in the lesion as it is drawn" in found["looked-elsewhere"]


def written(folder: Path, seen: Seen | None, study: StudyConfig = STUDY) -> Path:
    write_package(
        folder,
        study,
        "full",
        state_of(build_classifier(study)),
        stage_round=0,
        threshold=Threshold(value=0.4, source="test"),
        seen=seen,
        card="# A card",
    )
    return folder
