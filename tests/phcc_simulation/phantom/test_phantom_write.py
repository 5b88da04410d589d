"""Files on disk: layout, determinism whatever the jobs, idempotence, resumption, and a full disk."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from phcc_model.config import PhantomSettings
from phcc_model.errors import StorageError
from phcc_simulation.phantom import PHANTOM_VERSION, layout
from phcc_simulation.phantom.oracle import best_possible_auc
from phcc_simulation.phantom.patient import make_patient
from phcc_simulation.phantom.scanner import EXTERNAL_CENTRE, TRAINING_CENTRES
from phcc_simulation.phantom.write import PhantomSummary, phantom_digest, write_phantom

TINY = PhantomSettings(patients=4, external_patients=0, training_centres=1, seed=5)


def contents(root: Path) -> dict[str, str]:
    """Digest of every file below a folder, by its path there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as text:
        return list(csv.DictReader(text))


def test_layout_is_lld_mmris(small_phantom: PhantomSummary) -> None:
    root = small_phantom.root
    annotation = json.loads((root / "labels/Annotation.json").read_text())
    assert annotation["Category_info"]["Hepatocellular_carcinoma"] == 6
    assert len(annotation["Annotation_info"]) == 9
    profiles = {p.centre: p for p in (*TRAINING_CENTRES, EXTERNAL_CENTRE)}
    seen = set()
    for patient, entries in annotation["Annotation_info"].items():
        profile = profiles[patient.split("-")[0]]
        assert 3 <= len(entries) <= 4
        for entry in entries:
            seen.add(entry["phase"])
            for uid in (entry["studyUID"], entry["seriesUID"]):
                assert re.fullmatch(r"2\.25\.(0|[1-9]\d*)", uid)
                assert len(uid) <= 64
            image: Any = SimpleITK.ReadImage(
                str(root / "images" / patient / entry["studyUID"] / f"{entry['seriesUID']}.nii.gz")
            )
            voxels = SimpleITK.GetArrayFromImage(image)
            assert voxels.dtype == np.int16
            assert voxels.shape == profile.shape_zyx
            spacing = (*entry["pixel_spacing"][::-1], entry["slice_spacing"])
            assert image.GetSpacing() == pytest.approx(spacing, rel=1e-5)
            assert image.GetOrigin() == pytest.approx(entry["origin"], rel=1e-5)
            assert entry["slice_thickness"] == entry["slice_spacing"] == profile.spacing_zyx[0]
            lesion = entry["annotation"]["lesion"]["0"]
            assert lesion["category"] == 6
            box = lesion["bbox"]["3D_box"]
            depth, height, width = voxels.shape
            assert 0 <= box["z_min"] <= box["z_max"] < depth  # inclusive
            assert 0 <= box["y_min"] < box["y_max"] <= height  # exclusive
            assert 0 <= box["x_min"] < box["x_max"] <= width
    assert seen == {"C-pre", "C+A", "C+V", "C+Delay"}


def test_boxes_mean_what_the_layout_says(
    small_phantom: PhantomSummary, small_settings: PhantomSettings
) -> None:
    """z_max names the lesion's last slice; x_max and y_max lie one past its last column and row."""
    patient = make_patient(small_settings, TRAINING_CENTRES[0], 1)
    annotation = json.loads((small_phantom.root / "labels/Annotation.json").read_text())
    entry = next(e for e in annotation["Annotation_info"][patient.patient] if e["phase"] == "C-pre")
    box = entry["annotation"]["lesion"]["0"]["bbox"]["3D_box"]
    z, y, x = np.nonzero(patient.labels_zyx)
    assert (box["z_min"], box["z_max"]) == (z.min(), z.max())
    assert (box["y_min"], box["y_max"]) == (y.min(), y.max() + 1)
    assert (box["x_min"], box["x_max"]) == (x.min(), x.max() + 1)
    truth = SimpleITK.ReadImage(str(small_phantom.root / "truth" / f"{patient.patient}.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(truth), patient.labels_zyx)


def test_tables_and_manifest(small_phantom: PhantomSummary, small_settings: PhantomSettings) -> None:
    root = small_phantom.root
    clinical, signs = rows(root / "clinical.csv"), rows(root / "truth/signs.csv")
    assert list(clinical[0]) == ["patient", "centre", "scanner", "afp_ng_ml", "proliferative"]
    assert [row["patient"] for row in clinical] == [row["patient"] for row in signs]
    assert {row["centre"] for row in clinical} == {"C1", "C2", "C3", "X1"}
    assert all(float(row["afp_ng_ml"]) > 0 for row in clinical)
    for row in signs:
        planted = row["washout"] == "1" and row["rim"] == row["core"] == "0"
        assert row["kinetics_only"] == str(int(planted))
    manifest = json.loads((root / "phantom.json").read_text())
    assert manifest["synthetic"] is True
    assert manifest["complete"] is True
    assert manifest["phantom_version"] == PHANTOM_VERSION
    assert manifest["digest"] == small_phantom.digest == phantom_digest(small_settings)
    assert manifest["best_possible_auc"] == best_possible_auc(small_settings)
    assert PhantomSettings(**manifest["settings"]) == small_settings
    assert small_phantom.patients == small_phantom.written == 9
    assert sum(centre["patients"] for centre in small_phantom.by_centre.values()) == 9
    assert small_phantom.oracle_auc.keys() == {"all", "C1", "C2", "C3", "X1"}


def test_files_do_not_depend_on_jobs_and_a_second_call_writes_nothing(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    one = write_phantom(tmp_path / "one", TINY, jobs=1, progress=lambda i, n: done.append((i, n)))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    two = write_phantom(tmp_path / "two", TINY, jobs=2)
    first = contents(one.root)
    assert first == contents(two.root)
    assert not [name for name in first if Path(name).name.startswith(".")]
    times = {path: path.stat().st_mtime_ns for path in one.root.rglob("*")}
    done.clear()
    again = write_phantom(one.root, TINY, progress=lambda i, n: done.append((i, n)))
    assert again.written == 0
    assert again.by_centre == one.by_centre
    assert done == [(4, 4)]
    assert {path: path.stat().st_mtime_ns for path in one.root.rglob("*")} == times


def test_an_interrupted_write_is_completed(tmp_path: Path, small_phantom: PhantomSummary) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise StoppedError

    whole = write_phantom(tmp_path / "whole", TINY)
    with pytest.raises(StoppedError):
        write_phantom(tmp_path / "half", TINY, progress=stop)
    assert json.loads((tmp_path / "half/phantom.json").read_text())["complete"] is False
    victim = next((tmp_path / "half/images/C1-0000").rglob("*.nii.gz"))
    victim.unlink()
    resumed = write_phantom(tmp_path / "half", TINY)
    assert resumed.written == 3  # two that were not there and the one that lost a file
    assert contents(tmp_path / "half") == contents(whole.root)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    write_phantom(tmp_path / "a", TINY)
    before = contents(tmp_path / "a")
    with pytest.raises(StorageError, match="other settings"):
        write_phantom(tmp_path / "a", TINY.model_copy(update={"seed": 6}))
    assert contents(tmp_path / "a") == before
    (tmp_path / "b").mkdir()
    (tmp_path / "b/thesis.tex").write_text("mine")
    with pytest.raises(StorageError, match="not empty"):
        write_phantom(tmp_path / "b", TINY)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/phantom.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be understood"):
        write_phantom(tmp_path / "c", TINY)
    (tmp_path / "d").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        write_phantom(tmp_path / "d", TINY)


def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path.write_bytes

    def write_until_full(self: Path, data: bytes) -> int:
        if "images" in self.parts:
            full(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return full(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_until_full)
        with pytest.raises(StorageError, match=r"no space is left.*Free some space"):
            write_phantom(tmp_path / "data", TINY)
    assert not [path for path in (tmp_path / "data/images").rglob("*") if path.is_file()]
    assert write_phantom(tmp_path / "data", TINY).written == 4


def test_a_short_write_by_the_nifti_library_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports no error of its own when the disk is full."""
    patient = make_patient(TINY, TRAINING_CENTRES[0], 0)

    def write_half(image: object, name: str) -> None:
        Path(name).write_bytes(b"\0" * 1000)

    monkeypatch.setattr(SimpleITK, "WriteImage", write_half)
    with pytest.raises(StorageError, match="no space is left"):
        layout.write_volume(tmp_path / "x.nii.gz", patient.labels_zyx, patient)
    assert list(tmp_path.iterdir()) == []


def test_digest_covers_version_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = phantom_digest(TINY)
    assert digest != phantom_digest(TINY.model_copy(update={"noise_scale": 2.0}))
    monkeypatch.setattr("phcc_simulation.phantom.write.PHANTOM_VERSION", "another")
    assert digest != phantom_digest(TINY)
