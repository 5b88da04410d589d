"""Real scanners' files, where they are: each series is read or refused for the right reason."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.dicom_files import scan
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Series

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")

_NIBABEL: Any = nibabel
READ = "read"
EXPECTED = {
    "dcm_qa_ts/In": [READ],
    "dcm_qa_deident/In": [READ],
    "dcm_qa_enh/In": [READ] * 4,
    "dicom2nifti/ge/anatomical/001": [READ],
    "dicom2nifti/ge/anatomical/001_implicit": [READ],
    "dicom2nifti/ge/anatomical/001_single_slice": ["it has a single slice"],
    "dicom2nifti/generic/anatomical/001": [READ],
    "dicom2nifti/generic/anatomical/001_implicit": [READ],
    "dicom2nifti/generic/anatomical/002_non_isotropic": [READ],
    "dicom2nifti/generic/compressed/001": [READ],
    "dicom2nifti/generic/compressed_j2k/001": [READ],
    "dicom2nifti/generic/compressed_jpeg/001": [READ],
    "dicom2nifti/generic/compressed_jpegls/001": [READ],
    "dicom2nifti/generic/compressed_rle/001": [READ],
    "dicom2nifti/generic/rgb/001": ["4 of 4 files cannot be used: images are in colour"],
    "dicom2nifti/hitachi/anatomical/001": [READ],
    "dicom2nifti/hitachi/anatomical/001_implicit": [READ],
    "dicom2nifti/philips/anatomical/001": [READ],
    "dicom2nifti/philips/anatomical/001_implicit": [READ],
    "dicom2nifti/philips/anatomical/002": [READ, READ],
    "dicom2nifti/siemens/anatomical/001": [READ],
    "dicom2nifti/siemens/anatomical/001_implicit": [READ],
    "dicom_test_files/pydicom": ["headers describe 1 frames of 10", "it has a single slice"],
    "pyradiomics_mr": [],
}
"""Folder -> what becomes of each series in it."""


def series_in(folder: Path) -> list[Series]:
    return [series for exam in examinations(scan(folder)) for series in exam.series]


@pytest.mark.parametrize("folder", EXPECTED)
def test_every_series_is_read_or_refused_for_the_right_reason(folder: str) -> None:
    found = series_in(SHARED / folder)
    for series in found:
        grid = series.image.grid if series.image else None
        what = f"{grid.shape_dhw} {grid.spacing_mm_dhw.round(3)}" if grid else series.defect
        print(f"{folder:50s} {series.facts.manufacturer[:12]:12s} {series.files:4d} files  {what}")
    assert len(found) == len(EXPECTED[folder])
    for series, outcome in zip(found, EXPECTED[folder], strict=True):
        if outcome == READ:
            assert series.image is not None, series.defect
            assert series.image.read().shape == series.image.grid.shape_dhw
        else:
            assert outcome in series.defect
            assert series.remedy


def against_nifti(array: NDArray[np.float32], grid: Grid, path: Path) -> None:
    """Compare with a second reader's NIfTI: every corner to a micrometre, every voxel, whatever the axes."""
    image = _NIBABEL.load(path)
    voxels = np.asarray(image.dataobj)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    xyz = np.stack(np.meshgrid(*[range(n) for n in voxels.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    mm_zyx = (xyz @ affine[:3, :3].T + affine[:3, 3])[:, ::-1]
    index = np.linalg.solve(grid.matrix, (mm_zyx - grid.origin_mm).T).T
    nearest = np.rint(index).astype(int)
    off = (index - nearest) @ grid.matrix.T
    assert float(np.abs(off).max()) < 1e-3
    np.testing.assert_allclose(array[tuple(nearest.T)], voxels.reshape(-1), rtol=1e-6)


def test_nine_transfer_syntaxes_give_one_array_and_the_references(tmp_path: Path) -> None:
    arrays, syntaxes = [], set()
    for number in range(1, 10):
        file = SHARED / "dcm_qa_ts" / "In" / f"{number}.dcm"
        (tmp_path / f"{number}").mkdir()
        shutil.copy(file, tmp_path / f"{number}")
        (series,) = series_in(tmp_path / f"{number}")
        assert series.image is not None, series.defect
        arrays.append(series.image.read())
        against_nifti(arrays[-1], series.image.grid, SHARED / "dcm_qa_ts" / "Ref" / f"{number}.nii")
        syntaxes.add(str(dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID))
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])
    print(f"nine files, {len(syntaxes)} transfer syntaxes, one array {arrays[0].shape}")


def test_enhanced_time_points_are_the_references(tmp_path: Path) -> None:
    reference = SHARED / "dcm_qa_enh" / "Ref" / "Siemens_REST1_w_SMS_PF7-8_6.nii"
    four = _NIBABEL.load(reference)
    voxels, affine = np.asarray(four.dataobj), four.affine
    found = series_in(SHARED / "dcm_qa_enh" / "In")
    for number, series in enumerate(found):
        assert series.image is not None
        _NIBABEL.save(_NIBABEL.Nifti1Image(voxels[..., number], affine), tmp_path / "one.nii")
        against_nifti(series.image.read(), series.image.grid, tmp_path / "one.nii")


SECOND_READER = [name for name in EXPECTED if name.startswith("dicom2nifti") and EXPECTED[name] == [READ]]


@pytest.mark.parametrize("folder", [*SECOND_READER, "dcm_qa_deident/In"])
def test_geometry_and_voxels_equal_dicom2niftis(folder: str, tmp_path: Path) -> None:
    import dicom2nifti.settings

    some = tmp_path / "some"
    some.mkdir()
    for file in sorted((SHARED / folder).iterdir())[:24]:  # the other reader is slow
        shutil.copy(file, some)

    dicom2nifti.settings.disable_validate_slicecount()
    dicom2nifti.settings.disable_validate_slice_increment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dicom2nifti.dicom_series_to_nifti(str(some), str(tmp_path / "x.nii"), reorient_nifti=False)
    (series,) = series_in(some)
    assert series.image is not None
    against_nifti(series.image.read(), series.image.grid, tmp_path / "x.nii")


def test_an_organs_segmentation_is_no_lesion(tmp_path: Path) -> None:
    packed = SHARED / "dicom_test_files" / "dcmqi" / "segmentations"
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    for file in (packed / "liver.dcm.zst", *sorted((packed / "ct-3slice").glob("*.zst"))):
        out = tmp_path / file.stem
        subprocess.run(["zstd", "-q", "-d", str(file), "-o", str(out)], check=True)
    exams = examinations(scan(tmp_path))
    said = [why for exam in exams for _, why in exam.unreadable]
    assert any("named as an organ" in why for why in said)
    assert [s.facts.modality for exam in exams for s in exam.series] == ["CT"]
    assert all(exam.drawings == () for exam in exams)
