"""Real MR volumes through the whole ingest, where the shared data are: masks without partner, organs, scales."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hospital import write_mask

from phcc_client.cli import app
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.imaging.volume import read_header
from phcc_client.ingest.nifti_image import NiftiImage
from phcc_client.ingest.record import Stage
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.command_line import run_program
from phcc_model.config import CropSettings, DataSettings

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
NIBABEL: Any = nibabel
ITK: Any = SimpleITK
ONE_IMAGE = DataSettings(
    source="nifti-csv",
    phases=("image",),
    normalisation="z-score",
    crop=CropSettings(size=(16, 24, 24), spacing_mm=(2.0, 2.0, 2.0)),
)


def ingest(source: Path, site: Path) -> int:
    return run_program(app, ["ingest", str(source), "--into", str(site), "--require", "image"])


def test_hippocampi_with_and_without_a_partner(tmp_path: Path) -> None:
    """Every file of the set that has a mask is used; one without its image is set aside, with its reason."""
    data = SHARED / "msd_hippocampus" / "TrainingSet"
    images = {path.name.split(".")[0]: path for path in sorted((data / "images").glob("*.nii*"))}
    labels = {path.name.split(".")[0]: path for path in sorted((data / "labels").glob("*.nii*"))}
    lonely = sorted(images.keys() ^ labels.keys())
    assert lonely, "the set is known to have files without a partner"
    chosen = [*lonely[:6], *sorted(images.keys() & labels.keys())[:12]]
    source = tmp_path / "source"
    rows = []
    for name in chosen:
        cells = []
        for kind, files in (("labels", labels), ("images", images)):
            file = files.get(name, Path(f"{name}.nii.gz"))
            cells.append(f"{kind}/{file.name}")
            (source / kind).mkdir(parents=True, exist_ok=True)
            if name in files:
                shutil.copy(file, source / kind / file.name)
        rows.append(f"{name},{name},,{','.join(cells)}")
    (source / "cases.csv").write_text("\n".join(["case,patient,proliferative,mask,image", *rows]) + "\n")
    assert ingest(source, tmp_path / "site") == 0
    records = SiteFolder(tmp_path / "site").records()
    assert len(records) == len(chosen)
    usable = [record for record in records if record.reached == Stage.USABLE]
    stopped = [record for record in records if record.reached != Stage.USABLE]
    assert 8 <= len(usable) <= 12  # some are thinner than a liver lesion's surroundings: field-too-small
    assert len(stopped) >= len(lonely[:6])
    assert all(f.remedy for record in stopped for f in record.findings if f.stops is not None)
    prepared = prepare_all(read_cases(ONE_IMAGE, tmp_path / "site"), ONE_IMAGE, tmp_path / "cache")
    assert len(prepared.entries) == len(usable)


def _same_in_space(written: Path, source: Path) -> None:
    """The written image against the source as a second reader has it: voxels, and where each corner lies."""
    theirs = NIBABEL.load(source)
    ours = NiftiImage(written)
    grid = ours.grid
    world = np.asarray(theirs.affine)
    voxels = np.asarray(theirs.dataobj)
    for corner in np.ndindex(2, 2, 2):
        at = np.array(corner) * (np.array(grid.shape_dhw) - 1)
        mm = grid.to_mm(at)[::-1] * [-1, -1, 1]
        index = np.linalg.solve(world, [*mm, 1.0])[:3]
        assert np.allclose(index, np.round(index), atol=1e-3)
        i, j, k = np.round(index).astype(int)
        assert ours.read()[tuple(at)] == pytest.approx(float(voxels[i, j, k]), rel=1e-6)


def test_an_abdomen_with_its_liver(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(SHARED / "totalsegmentator" / "example_mr_sm.nii.gz", source / "mr.nii.gz")
    organs = NiftiImage(SHARED / "totalsegmentator" / "example_seg_mr.nii.gz")
    liver = organs.read() == 5
    # A lesion-like part of the liver: its middle third, for the liver as a whole is no lesion.
    places = np.argwhere(liver)
    low, high = np.percentile(places, (40, 60), axis=0).astype(int)
    lesion = np.zeros_like(liver)
    lesion[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1] = True
    write_mask(source / "lesion.nii.gz", lesion & liver, organs.grid)
    (source / "cases.csv").write_text(
        "case,patient,proliferative,mask,image\nA,A,1,lesion.nii.gz,mr.nii.gz\n"
    )
    assert ingest(source, tmp_path / "site") == 0
    (record,) = SiteFolder(tmp_path / "site").records()
    assert record.reached == Stage.USABLE
    _same_in_space(tmp_path / "site" / record.phases[0].file, source / "mr.nii.gz")
    mask = NiftiImage(tmp_path / "site" / record.lesions[0].mask)
    assert (mask.read() != 0).sum() == (lesion & liver).sum()


@pytest.mark.parametrize("name", ["brain1", "brain2", "breast1"])
def test_other_organs_as_nifti_are_taken_as_their_table_says(tmp_path: Path, name: str) -> None:
    """NIfTI has no body part: what is in a table is believed; geometry is that of the NRRD it came from."""
    source = tmp_path / "source"
    source.mkdir()
    folder = SHARED / "pyradiomics_mr" / "data"
    for kind in ("image", "label"):
        ITK.WriteImage(ITK.ReadImage(str(folder / f"{name}_{kind}.nrrd")), str(source / f"{kind}.nii.gz"))
    (source / "cases.csv").write_text(
        "case,patient,proliferative,mask,image\nA,A,0,label.nii.gz,image.nii.gz\n"
    )
    assert ingest(source, tmp_path / "site") in (0, 1)
    (record,) = SiteFolder(tmp_path / "site").records()
    if record.reached != Stage.USABLE:  # a breast's image is cut around the tumour: too small a field, say so
        assert {f.code for f in record.findings if f.stops} <= {
            "field-too-small",
            "too-few-slices",
            "mask-too-large",
        }
        return
    _same_in_space(tmp_path / "site" / record.phases[0].file, source / "image.nii.gz")
    original = read_header(source / "image.nii.gz").grid
    written = NiftiImage(tmp_path / "site" / record.phases[0].file).grid
    assert np.allclose(written.spacing_mm_dhw, original.spacing_mm_dhw, atol=1e-3)
