from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_client.ingest.duplicates import NEAR, SIDE, Duplicate, duplicate_findings, duplicates, signature
from phcc_client.ingest.record import PatientRecord, PhaseRecord, Stage
from phcc_model.config import PhantomSettings, Phase
from phcc_model.errors import CaseError
from phcc_simulation.phantom.centres import centres_of
from phcc_simulation.phantom.patient import make_patient

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
Picture = tuple[NDArray[np.float32], Grid, NDArray[np.float64]]


def record(
    patient: str,
    looks: str = "",
    pixels: dict[Phase, str] | None = None,
    label: int = 0,
    **more: object,
) -> PatientRecord:
    phases = tuple(
        PhaseRecord(phase=phase, file=f"images/{patient}/{phase}.nii.gz", sha256="", pixels=p, aligned="off")
        for phase, p in (pixels or {}).items()
    )
    return PatientRecord.model_validate(
        {
            "patient": patient,
            "inputs": "",
            "reached": Stage.USABLE,
            "signature": looks,
            "phases": phases,
            "label": label,
            **more,
        }
    )


def phantoms(each: int) -> Iterator[Picture]:
    for profile, _ in centres_of(PhantomSettings()):
        for number in range(each):
            patient = make_patient(PhantomSettings(), profile, number)
            image = next(iter(patient.images.values()))
            grid = Grid.plain(profile.shape_zyx, profile.spacing_zyx)
            yield image.volume_zyx.astype(np.float32), grid, grid.to_mm(np.array(image.box.centre_zyx))


def exported_again(picture: Picture, seed: int) -> str:
    """Another scale, another rounding, a centre one voxel further on along every axis."""
    array, grid, centre = picture
    rng = np.random.default_rng(seed)
    other = np.round(array / np.ptp(array) * rng.integers(200, 4000) + rng.integers(0, 50))
    return signature(other.astype(np.int16), grid, centre + grid.matrix @ rng.choice([-1.0, 1.0], 3))


def must_part(pictures: list[Picture]) -> None:
    """No two of them are one, and each is found again when it was exported once more."""
    first = [record(f"P-{i:04d}", signature(*picture)) for i, picture in enumerate(pictures)]
    assert [d for d in duplicates(first) if d.kind == "near"] == []
    second = [record(f"Q-{i:04d}", exported_again(picture, i)) for i, picture in enumerate(pictures)]
    found = {(d.first, d.second) for d in duplicates([*first, *second])}
    assert found == {(f"P-{i:04d}", f"Q-{i:04d}") for i in range(len(pictures))}


def test_distinct_phantom_patients_part_and_second_exports_are_found() -> None:
    must_part(list(phantoms(8)))


@pytest.mark.skipif(not (SHARED / "msd_hippocampus").is_dir(), reason="shared data are not there")
def test_distinct_hippocampi_part_and_second_exports_are_found() -> None:
    pictures = []
    for file in sorted((SHARED / "msd_hippocampus").rglob("images*/*.nii.gz"))[:90]:
        try:
            header = read_header(file)
            array = header.scaled(read_voxels(header))
        except CaseError:
            continue
        pictures.append((array, header.grid, header.grid.to_mm((np.array(array.shape) - 1) / 2)))
    assert len(pictures) > 50
    must_part(pictures)


@pytest.mark.skipif(not (SHARED / "pyradiomics_mr").is_dir(), reason="shared data are not there")
def test_brain_and_breast_part() -> None:
    looks = []
    for file in sorted((SHARED / "pyradiomics_mr").rglob("*.nii.gz")):
        header = read_header(file)
        array = header.scaled(read_voxels(header))
        looks.append(signature(array, header.grid, header.grid.to_mm((np.array(array.shape) - 1) / 2)))
    records = [record(f"P-{i}", one) for i, one in enumerate(looks)]
    assert [d for d in duplicates(records) if d.likeness < NEAR] == []


@given(gain=st.floats(0.01, 1000.0), offset=st.floats(-1000.0, 1000.0))
@settings(max_examples=15)
def test_a_signature_does_not_see_gain_and_offset(gain: float, offset: float) -> None:
    array, grid, centre = next(phantoms(1))
    one = np.frombuffer(base64.b64decode(signature(array, grid, centre)), np.uint8).astype(int)
    other = signature((array * gain + offset).astype(np.float64), grid, centre)
    assert np.abs(np.frombuffer(base64.b64decode(other), np.uint8).astype(int) - one).max() <= 2


def test_a_signature_lies_in_the_patient_not_in_the_file() -> None:
    array, grid, centre = next(phantoms(1))
    turned = Grid.turned(
        (array.shape[2], array.shape[0], array.shape[1]), grid.matrix[:, [2, 0, 1]], grid.origin_mm
    )
    stored = np.ascontiguousarray(np.transpose(array, (2, 0, 1)))
    assert signature(np.asarray(turned.turn(stored)), turned, centre) == signature(array, grid, centre)


def test_where_there_is_no_picture_there_is_no_signature() -> None:
    grid = Grid.plain((20, 30, 30), (3.0, 2.0, 2.0))
    assert signature(np.zeros((20, 30, 30)), grid, np.zeros(3)) == ""
    assert signature(np.full((20, 30, 30), np.nan), grid, np.zeros(3)) == ""
    far = signature(np.random.default_rng(0).normal(size=(20, 30, 30)), grid, np.full(3, 9999.0))
    assert far == ""


@pytest.mark.parametrize("looks", ["", "!!", "AAAA", base64.b64encode(bytes(SIDE**3)).decode()])
def test_damaged_signatures_are_left_out(looks: str) -> None:
    assert duplicates([record("P-1", looks), record("P-2", looks)]) == ()


def test_identical_pixels_are_found_whatever_their_phase_and_one_stays() -> None:
    records = [
        record("P-1", pixels={"arterial": "a", "delayed": "b"}),
        record("P-2", pixels={"portal-venous": "a"}),
        record("P-3", pixels={"arterial": "c"}),
        record("P-4", pixels={"arterial": "a"}),
    ]
    assert [(d.first, d.second, d.kind) for d in duplicates(records)] == [
        ("P-1", "P-2", "identical"),
        ("P-2", "P-4", "identical"),
    ]
    found = duplicate_findings(records)
    assert [name for name, f in found.items() if any(one.stops for one in f)] == ["P-2", "P-4"]
    assert "P-3" not in found


def test_of_copies_the_labelled_one_stays_and_none_where_labels_disagree() -> None:
    unknown_first = [
        record("P-1", pixels={"arterial": "a"}, label=-1),
        record("P-2", pixels={"arterial": "a"}, label=1),
    ]
    found = duplicate_findings(unknown_first)
    assert [name for name, f in found.items() if any(one.stops for one in f)] == ["P-1"]
    disagree = [
        *unknown_first,
        record("P-3", pixels={"arterial": "a"}, label=0),
    ]
    found = duplicate_findings(disagree)
    assert {name for name, f in found.items() if any(one.stops for one in f)} == {"P-1", "P-2", "P-3"}
    assert "differ in label" in found["P-2"][0].text


def test_one_person_in_two_splits_is_said() -> None:
    looks = signature(*next(phantoms(1)))
    records = [record("P-1", looks, split="train"), record("P-2", looks, split="validation")]
    (pair,) = duplicates(records, {"P-1": "train", "P-2": "test"})
    assert pair == Duplicate(
        "P-1", "P-2", "near", 1.0, ("split (train, validation)", "part of the study (train, test)")
    )
    (finding,) = duplicate_findings(records)["P-1"]
    assert finding.stops is None
    assert "P-2" in finding.text
    assert "split (train, validation)" in finding.text


def test_one_image_as_two_phases_of_a_patient_stops() -> None:
    found = duplicate_findings([record("P-1", pixels={"arterial": "a", "portal-venous": "a"})])
    assert [(f.code, f.stops) for f in found["P-1"]] == [("one-image-twice", Stage.USABLE)]


def test_a_thousand_patients_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(SIDE,) * 3)
    looks = []
    for _ in range(1000):
        cube = 1.4 * common + rng.normal(size=(SIDE,) * 3)
        grey = np.clip(cube * 40 + 128, 0, 255).astype(np.uint8)
        looks.append(base64.b64encode(grey.tobytes()).decode())
    looks[700] = looks[3]
    records = [record(f"P-{i:04d}", one, {"arterial": str(i)}) for i, one in enumerate(looks)]
    before = time.process_time()
    found = duplicates(records)
    took = time.process_time() - before
    assert [(d.first, d.second) for d in found] == [("P-0003", "P-0700")]
    print(f"\n1,000 patients: {took:.2f} s")
    assert took < 4.0  # of the processor, on a machine that does other things too
