from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_client.imaging.case import Box
from phcc_client.imaging.preprocess import prepare
from phcc_client.imaging.readers import read_cases
from phcc_client.preparing import split_entries
from phcc_model.errors import DatasetError
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study
from phcc_simulation.real.hippocampus import (
    BOX_ZYX,
    Hippocampus,
    counts_of,
    hold_out,
    read_hippocampi,
    table_of,
    training_median_mm3,
)
from phcc_simulation.real.hippocampus_command import write_hippocampus

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
SCALES = {"eight-bit": 60.0, "hundreds": 500.0, "hundred-thousands": 2e5}


def write_image(folder: Path, name: str, scale: float, volume: int | None, shape_xyz=(35, 51, 33)) -> None:
    source = np.random.default_rng(sum(map(ord, name)))
    voxels = (scale * (1.0 + 0.2 * source.standard_normal(shape_xyz))).astype(np.float32)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "images" / name)
    if volume is not None:
        mask = np.zeros(voxels.size, dtype=np.uint8)
        mask[:volume] = 1 + np.arange(volume) % 2
        nib.save(nib.Nifti1Image(mask.reshape(shape_xyz), np.eye(4)), folder / "labels" / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hippocampi") / "TrainingSet"
    for centre, scale in SCALES.items():
        for k in range(6):
            write_image(folder, f"{centre}_{k}.nii.gz", scale, 2000 + 100 * k)
    write_image(folder, "maskless.nii.gz", 60.0, None)
    write_image(folder, "narrow.nii.gz", 60.0, 2000, (27, 51, 33))
    write_image(folder, "empty.nii.gz", 60.0, 0)
    write_image(folder, "gone.nii.gz", 60.0, 100)
    (folder / "images" / "gone.nii.gz").unlink()
    return folder.parent


def hippocampus(case: str, volume: float | None, centre: str = "a", test: bool = False) -> Hippocampus:
    return Hippocampus(case, Path(case), centre, Box((0, 0, 0), BOX_ZYX), 1, volume, test)


@given(
    volumes=st.lists(st.one_of(st.none(), st.floats(1.0, 1e4)), min_size=4, max_size=40),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
)
def test_who_is_held_out_does_not_depend_on_any_volume_nor_the_label_on_who_is(
    volumes: list[float | None], share: float, seed: int
) -> None:
    cases = [hippocampus(f"c{i}", volume, "ab"[i % 2]) for i, volume in enumerate(volumes)]
    held = hold_out(cases, share, seed)
    turned = [None if volume is None else 1e5 - volume for volume in volumes]
    other = hold_out([replace(one, volume_mm3=v) for one, v in zip(cases, turned, strict=True)], share, seed)
    assert [one.test for one in held] == [one.test for one in other]
    assert not any(one.test for one in held if one.volume_mm3 is None)
    for centre in "ab":
        known = [one for one in held if one.centre == centre and one.volume_mm3 is not None]
        assert abs(sum(one.test for one in known) - share * len(known)) <= 0.5 + 1e-9
    if any(one.volume_mm3 is not None and not one.test for one in held):
        huge = [replace(one, volume_mm3=1e9) if one.test else one for one in held]
        assert training_median_mm3(huge) == training_median_mm3(held)  # the test has no say


def test_labels_and_counts() -> None:
    cases = [hippocampus("s", 10.0), hippocampus("l", 30.0), hippocampus("m", 20.0), hippocampus("n", None)]
    cases.append(hippocampus("t", 25.0, test=True))
    median = training_median_mm3(cases)
    rows = {row["case"]: row for row in csv.DictReader(table_of(cases, median).splitlines())}
    assert median == 20.0
    assert {case: row["large"] for case, row in rows.items()} == {
        "s": "0",
        "l": "1",
        "m": "0",
        "n": "",
        "t": "1",
    }
    assert rows["t"]["given_split"] == "test"
    assert counts_of(cases, median) == {
        ("a", "test"): {"large": 1, "small": 0, "no mask": 0},
        ("a", "training"): {"large": 1, "small": 2, "no mask": 1},
    }
    with pytest.raises(DatasetError, match="no image of the training side has a mask"):
        training_median_mm3([hippocampus("t", 25.0, test=True)])


def test_what_is_read(made: Path) -> None:
    found, aside = read_hippocampi(made)
    assert len(found) == 3 * 6 + 1
    assert {one.centre for one in found if one.case.startswith("hundred-thousands")} == {"hundred-thousands"}
    assert {one.case: one.volume_mm3 for one in found}["hundreds_3"] == 2300.0
    reasons = dict(aside)
    assert reasons["gone.nii.gz"] == "a mask without an image"
    assert "do not hold a box" in reasons["narrow.nii.gz"]
    assert reasons["empty.nii.gz"] == "its mask is empty"
    with pytest.raises(DatasetError, match="holds no folder images"):
        read_hippocampi(made / "TrainingSet" / "labels")


def test_the_shipped_study_reads_what_is_written_and_is_shown_no_mask(made: Path, tmp_path: Path) -> None:
    facts = write_hippocampus(made, tmp_path / "data", 0.33, 0)
    assert not list((tmp_path / "data").rglob("labels"))
    study = load_study(find_study("hippocampus"))
    assert study.data.crop.size == BOX_ZYX
    reading = read_cases(study.data, tmp_path / "data")
    assert len(reading.cases) == 19
    for raw in reading.cases:
        assert raw.mask is None
        prepared = prepare(raw, study.data)
        assert prepared.lesion_dhw.all()  # of one size for all: it says nothing of the hippocampus
        image = np.asarray(nib.load(raw.images["image"].path).dataobj).transpose(2, 1, 0)
        middle = tuple(
            slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(image.shape, BOX_ZYX, strict=True)
        )
        crop = image[middle][:, ::-1, ::-1]  # from RAS, as stored, to LPS
        np.testing.assert_allclose(  # the file's own voxels, in units of their own mean and spread
            prepared.volumes_pdhw[0], (crop - crop.mean()) / crop.std(), atol=5e-3
        )
    splits = split_entries(reading.cases, {raw.patient: raw.centre for raw in reading.cases}, study)
    tested = sum(len(splits.patients(centre, "test")) for centre in splits.centres)
    assert (
        tested
        == sum(sum(kinds.values()) for side, kinds in facts.counts.items() if side.endswith("test"))
        == 6
    )
    assert splits.centres == tuple(sorted(SCALES))
    again = write_hippocampus(made, tmp_path / "again", 0.33, 0)
    assert again == facts


def test_real_hippocampi(tmp_path: Path) -> None:
    folder = SHARED / "msd_hippocampus"
    if not folder.is_dir():
        pytest.skip("the hippocampi are not on this machine")
    facts = write_hippocampus(folder, tmp_path, 0.33, 0)
    assert {name.partition(",")[0] for name in facts.counts} == set(SCALES)
    assert sum(sum(kinds.values()) for kinds in facts.counts.values()) == 192
    assert [name for name, _ in facts.aside] == ["hippocampus_010.nii.gz", "hippocampus_281.nii.gz"]
    assert facts.size_auc is not None
    assert facts.size_auc > 0.6  # why the border must not be seen
