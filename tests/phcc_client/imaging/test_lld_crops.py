from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.lld_crops import read_lld_crops
from phcc_client.imaging.preprocess import prepare
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError

STUDY = DataSettings.model_validate({"source": "lld-crops"})


@pytest.fixture
def crops(tmp_path: Path, write_nifti: Any, textured: Any) -> Path:
    """Three patients, the second with two lesions; crops of a patient differ in size from phase to phase."""
    root = tmp_path / "lld" / "classification_dataset"
    for case in ("MR-1", "MR-2", "MR-2_1", "MR-3_7"):
        for number, phase in enumerate(("C-pre", "C+A", "C+V", "C+Delay", "T2WI", "In Phase")):
            shape = (5 + number, 30 + number, 28)
            write_nifti(root / "images" / case / f"{phase}.nii.gz", textured(shape, number))
    (root / "images" / "MR-1" / "C+V.nii.gz").unlink()
    (root / "labels").mkdir()
    (root / "labels" / "labels.txt").write_text("MR-1 1\nMR-2 0\n\nMR-2_1 1\n")
    (root / "labels" / "labels_val_inaccessible.txt").write_text("MR-3_7 -1\n")
    return tmp_path / "lld"


def test_published_crops(crops: Path) -> None:
    reading = read_lld_crops(crops, STUDY)
    found = [(c.case, c.patient, c.label, list(c.images)) for c in reading.cases]
    four = ["arterial", "delayed", "portal-venous", "pre-contrast"]
    assert found == [
        ("MR-1", "MR-1", 1, ["arterial", "delayed", "pre-contrast"]),
        ("MR-2", "MR-2", 0, four),
        ("MR-2_1", "MR-2", 1, four),
        ("MR-3_7", "MR-3_7", -1, four),
    ]
    assert reading.rejections == ()
    assert read_lld_crops(crops / "classification_dataset", STUDY) == reading


def test_crops_without_spacing_fill_the_grid(crops: Path) -> None:
    prepared = prepare(read_lld_crops(crops, STUDY).cases[0], STUDY)
    assert prepared.volumes_pdhw.shape == (4, 12, 48, 48)
    assert prepared.present_p.tolist() == [True, True, False, True]
    assert prepared.lesion_dhw.all()
    assert np.isfinite(prepared.volumes_pdhw).all()


def test_labels_of_several_kinds(crops: Path) -> None:
    labels = crops / "classification_dataset" / "labels"
    (labels / "labels.txt").write_text("MR-1 6\nMR-2 0\nMR-2_1 6\nMR-9 6\n")
    reading = read_lld_crops(crops, STUDY)
    assert [c.label for c in reading.cases] == [-1] * 4
    assert "set data.label, for example to category=6" in reading.remarks[0].text
    assert [(r.case, "no images" in r.reason) for r in reading.rejections] == [("MR-9", True)]
    chosen = STUDY.model_copy(update={"label": "category=6"})
    assert [c.label for c in read_lld_crops(crops, chosen).cases] == [1, 0, 1, -1]
    # What one file hides and another tells is known; what they tell differently is not.
    (labels / "labels_test.txt").write_text("MR-3_7 6\nMR-1 2\n")
    reading = read_lld_crops(crops, chosen)
    assert [(c.case, c.label) for c in reading.cases] == [("MR-2", 0), ("MR-2_1", 1), ("MR-3_7", 1)]
    assert "its classes disagree (2, 6)" in reading.rejections[0].reason


def test_a_clinical_table_goes_before_the_classes(crops: Path) -> None:
    (crops / "clinical.csv").write_text("patient,proliferative,centre\nMR-2,1,North\n")
    cases = read_lld_crops(crops, STUDY).cases
    assert [(c.label, c.centre) for c in cases] == [(-1, None), (1, "North"), (1, "North"), (-1, None)]


def test_two_files_of_one_phase_are_not_chosen_between(crops: Path, write_nifti: Any, textured: Any) -> None:
    write_nifti(crops / "classification_dataset" / "images" / "MR-2" / "arterial.nii", textured())
    reading = read_lld_crops(crops, STUDY)
    assert [(r.case, "two of its files are phase arterial" in r.reason) for r in reading.rejections] == [
        ("MR-2", True)
    ]


def test_unusable_folders_and_labels(crops: Path, tmp_path: Path) -> None:
    (crops / "classification_dataset" / "labels" / "labels.txt").write_text("MR-1 six\n")
    with pytest.raises(DatasetError, match="line 1 is not a case and its class"):
        read_lld_crops(crops, STUDY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    with pytest.raises(DatasetError, match=r"images: there is no such folder"):
        read_lld_crops(tmp_path / "other", STUDY)
