"""Sources that name their phases: LLD-MMRI's two layouts and NIfTI with a table, through the whole ingest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hospital import SHAPE, examination, write_mask

from phcc_client.cli import app
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.named_sources import kind_of, named_candidates
from phcc_client.ingest.nifti_image import nifti_bytes
from phcc_client.ingest.record import Stage
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.command_line import run_program
from phcc_model.config import CropSettings, DataSettings

GRID = Grid.plain(SHAPE, (4.0, 2.5, 2.5))
PHASES = ("C-pre", "C+A", "C+V", "C+Delay")
STUDY = DataSettings(source="nifti-csv", crop=CropSettings(size=(8, 24, 24), spacing_mm=(4.0, 2.5, 2.5)))


def write(path: Path, array: np.ndarray, grid: Grid = GRID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(nifti_bytes(array, grid))


@pytest.fixture
def lld(tmp_path: Path) -> Path:
    """Three patients as LLD-MMRI has them; the second's arterial phase lies 8 mm lower, the third lacks one."""
    information: dict[str, list[dict[str, object]]] = {}
    for number in (1, 2, 3):
        phases, mask = examination(number)
        patient = f"MR-{number}"
        sides = [np.flatnonzero(mask.any(axis=a)) for a in ((1, 2), (0, 2), (0, 1))]
        for place, (name, image) in enumerate(zip(PHASES, phases.values(), strict=True)):
            if number == 3 and name == "C+V":
                continue
            down = 2 if (number, name) == (2, "C+A") else 0
            write(tmp_path / f"images/{patient}/study/s{place}.nii.gz", np.roll(image, down, axis=0))
            low = [int(side[0]) for side in sides]
            high = [int(side[-1]) + 1 for side in sides]
            corners = {"z_min": low[0] + down, "z_max": high[0] + down - 1, "y_min": low[1], "y_max": high[1]}
            corners |= {"x_min": low[2], "x_max": high[2]}
            lesion = {"category": "HCC", "bbox": {"3D_box": corners}}
            information.setdefault(patient, []).append({
                "studyUID": "study", "seriesUID": f"s{place}", "phase": name, "pixel_spacing": [2.5, 2.5],
                "slice_thickness": 4.0, "origin": [0, 0, 0], "annotation": {"lesion": {"0": lesion}},
            })  # fmt: skip
    (tmp_path / "labels").mkdir()
    text = json.dumps({"Annotation_info": information, "Category_info": {}})
    (tmp_path / "labels" / "Annotation.json").write_text(text)
    (tmp_path / "clinical.csv").write_text("patient,proliferative\nMR-1,1\nMR-2,0\nMR-3,1\n")
    return tmp_path


def ingest(source: Path, site: Path, *options: str) -> int:
    return run_program(app, ["ingest", str(source), "--into", str(site), "--registration", "off", *options])


def test_lld_raw_with_boxes_that_breathe(lld: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    site = tmp_path_factory.mktemp("site") / "site"
    assert kind_of(lld) == "lld-raw"
    assert ingest(lld, site) == 0
    records = SiteFolder(site).records()
    usable = [record for record in records if record.reached == Stage.USABLE]
    assert [record.label for record in sorted(usable, key=lambda r: r.label)] == [0, 1]
    (missing,) = [record for record in records if record.reached != Stage.USABLE]
    assert {f.code for f in missing.findings if f.stops} == {"no-portal-venous"}
    (breathed,) = [record for record in usable if record.label == 0]
    shifts = {phase.phase: phase.shift_mm for phase in breathed.phases}
    assert shifts == {"pre-contrast": 0.0, "arterial": 8.0, "portal-venous": 0.0, "delayed": 0.0}
    prepared = prepare_all(read_cases(STUDY, site), STUDY, site.parent / "cache")
    assert len(prepared.entries) == 2
    assert prepared.rejections == ()
    assert b"MR-" not in b"".join(p.read_bytes() for p in site.rglob("*") if p.is_file())


def test_lld_crops_keep_having_no_spacing(tmp_path: Path) -> None:
    root = tmp_path / "lld" / "classification_dataset"
    for number, case in enumerate(("MR-1", "MR-2", "MR-2_1")):
        phases, _ = examination(number)
        for place, (name, image) in enumerate(zip(PHASES, phases.values(), strict=True)):
            crop = image[4 : 12 + place, 10:40, 12 : 44 - place]
            write(root / "images" / case / f"{name}.nii.gz", crop, Grid.plain(crop.shape, (1.0, 1.0, 1.0)))
    (root / "labels").mkdir()
    (root / "labels" / "labels.txt").write_text("MR-1 1\nMR-2 0\nMR-2_1 0\n")
    site = tmp_path / "site"
    assert kind_of(tmp_path / "lld") == "lld-crops"
    assert ingest(tmp_path / "lld", site) == 0
    with (site / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fitted"] for row in rows] == ["1", "1"]
    assert [row["mask"] for row in rows] == ["", ""]
    said = {f.code for record in SiteFolder(site).records() for f in record.findings}
    assert "images-of-their-own" in said
    raws = read_cases(STUDY, site).cases
    assert all(image.fitted for raw in raws for image in raw.images.values())
    assert len(prepare_all(read_cases(STUDY, site), STUDY, tmp_path / "cache").entries) == 2


def test_nifti_with_a_table_keeps_patients_and_lesions_together(tmp_path: Path) -> None:
    source = tmp_path / "source"
    phases, mask = examination(5)
    names = []
    for place, image in enumerate(phases.values()):
        names.append(f"a/{place}.nii.gz")
        write(source / names[-1], image)
    write_mask(source / "m1.nii.gz", mask, GRID)
    second = np.zeros(SHAPE, bool)
    second[3:6, 20:24, 40:44] = True
    write_mask(source / "m2.nii.gz", second, GRID)
    head = "case,patient,proliferative,mask,pre-contrast,arterial,portal-venous,delayed"
    rows = [f"A-{n},A,1,m{n}.nii.gz,{','.join(names)}" for n in (1, 2)]
    (source / "cases.csv").write_text("\n".join([head, *rows, f"B-1,B,0,gone.nii.gz,{','.join(names)}"]))
    assert kind_of(source) == "nifti-csv"
    found = {
        candidate.patient: candidate for candidate in named_candidates("nifti-csv", source, "proliferative")
    }
    assert len(found["A"].drawings) == 2
    site = tmp_path / "site"
    assert ingest(source, site) == 0
    raws = read_cases(STUDY, site).cases
    assert len(raws) == 2
    assert len({raw.patient for raw in raws}) == 1
    (other,) = [r for r in SiteFolder(site).records() if r.reached != Stage.USABLE]
    assert any(f.stops == Stage.LESION for f in other.findings)


@pytest.mark.parametrize(("phase", "usable"), [("delayed", True), ("arterial", False)])
def test_a_damaged_phase_costs_the_patient_only_where_it_is_required(
    tmp_path: Path, phase: str, usable: bool
) -> None:
    source = tmp_path / "source"
    phases, mask = examination(6)
    names = {}
    for name, image in zip(
        ("pre-contrast", "arterial", "portal-venous", "delayed"), phases.values(), strict=True
    ):
        names[name] = f"a/{name}.nii.gz"
        write(source / names[name], image)
    torn = source / names[phase]
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    write_mask(source / "m.nii.gz", mask, GRID)
    row = f"A-1,A,1,m.nii.gz,{','.join(names.values())}"
    (source / "cases.csv").write_text(f"case,patient,proliferative,mask,{','.join(names)}\n{row}\n")
    assert ingest(source, tmp_path / "site") == (0 if usable else 1)
    (record,) = SiteFolder(tmp_path / "site").records()
    assert (record.reached == Stage.USABLE) == usable
    assert any("truncated" in finding.text for finding in record.findings)
    assert (phase in {written.phase for written in record.phases}) is False


def test_a_mask_that_lies_mostly_outside_its_image_is_no_lesion(tmp_path: Path) -> None:
    source = tmp_path / "source"
    phases, _ = examination(7)
    names = {}
    for name, image in zip(("pre-contrast", "arterial", "portal-venous"), phases.values(), strict=False):
        names[name] = f"a/{name}.nii.gz"
        write(source / names[name], image)
    mask = np.zeros(SHAPE, bool)
    mask[4:12, 10:30, 10:30] = True
    away = Grid(
        SHAPE, GRID.matrix, GRID.origin_mm + np.array([0.0, 0.0, -60.0])
    )  # 6 of 20 columns are inside
    write_mask(source / "m.nii.gz", mask, away)
    row = f"A-1,A,1,m.nii.gz,{','.join(names.values())}"
    (source / "cases.csv").write_text(f"case,patient,proliferative,mask,{','.join(names)}\n{row}\n")
    assert ingest(source, tmp_path / "site") == 1
    (record,) = SiteFolder(tmp_path / "site").records()
    assert "mask-outside" in {finding.code for finding in record.findings if finding.stops == Stage.LESION}


def test_anything_else_is_taken_for_dicom(tmp_path: Path) -> None:
    assert kind_of(tmp_path) == "dicom"
