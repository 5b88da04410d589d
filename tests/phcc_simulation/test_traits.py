"""By what the report parts patients: what the data say, and nothing that they do not."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from phcc_client.imaging.case import Box, PhaseImage, RawCase
from phcc_client.ingest.record import PatientRecord, SeriesRecord, Stage
from phcc_model.config import DataSettings, StudyConfig
from phcc_server.report.summary import ScoredCase
from phcc_simulation.traits import (
    lesion_diameter_mm,
    read_facts,
    scanner_of,
    third_of,
    thirds_of,
    with_traits,
)
from phcc_simulation.workspace import Workspace


@pytest.mark.parametrize(
    ("text", "vendor", "field"),
    [
        ("Aster 1.5T", "Aster", "1.5 T"),
        ("SIEMENS Avanto 1.50 Tesla", "Siemens", "1.5 T"),
        ("GE MEDICAL SYSTEMS, Signa HDxt 3T", "GE", "3 T"),
        ("3 T Achieva", "Achieva", "3 T"),
        ("Philips", "Philips", ""),
        ("UIH uMR780", "UIH", ""),
        ("TX3T", "Tx3t", ""),
        ("3.0T", "", "3 T"),
        ("", "", ""),
    ],
)
def test_a_scanners_name_is_taken_apart(text: str, vendor: str, field: str) -> None:
    assert scanner_of(text) == (vendor, field)


@given(st.lists(st.floats(1.0, 200.0), min_size=3, max_size=60))
def test_thirds_part_every_lesion_and_are_about_alike(sizes: list[float]) -> None:
    cuts = thirds_of(sizes)
    assert cuts is not None
    names = [third_of(size, cuts) for size in sizes]
    assert all(names)
    assert sorted(names) == [third_of(size, cuts) for size in sorted(sizes)]
    if len(set(sizes)) == len(sizes) and min(np.diff(sorted(sizes))) > 0.2:
        counts = [sum(name.startswith(start) for name in names) for start in ("1st", "2nd", "3rd")]
        assert max(counts) - min(counts) <= 2


def test_without_enough_sizes_there_are_no_thirds() -> None:
    assert thirds_of([10.0, 20.0]) is None
    assert third_of(10.0, None) == ""
    assert third_of(None, (1.0, 2.0)) == ""


def image(phase: str = "arterial", **changes: Any) -> PhaseImage:
    return PhaseImage(cast("Any", phase), changes.pop("path", Path("nowhere.nii.gz")), **changes)


def raw(one: PhaseImage, **changes: Any) -> RawCase:
    return RawCase("c", "p", {one.phase: one}, **changes)


def write(path: Path, array_dhw: np.ndarray[Any, Any], spacing_mm_dhw: tuple[float, float, float]) -> Path:
    volume = SimpleITK.GetImageFromArray(array_dhw)
    volume.SetSpacing(spacing_mm_dhw[::-1])
    SimpleITK.WriteImage(volume, str(path))
    return path


def test_a_box_stands_for_the_ellipsoid_within_it() -> None:
    box = Box((2, 10, 10), (7, 20, 30))  # 5 x 10 x 20 voxels
    lesion = raw(image(box=box, spacing_mm_dhw=(4.0, 1.0, 2.0)))
    assert lesion_diameter_mm(lesion) == pytest.approx((20.0 * 10.0 * 40.0) ** (1 / 3), abs=0.01)


def test_a_box_on_a_file_takes_the_files_spacing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", np.zeros((8, 9, 10), np.int16), (3.0, 2.0, 1.5))
    lesion = raw(image(path=path, box=Box((1, 1, 2), (5, 4, 8))))
    assert lesion_diameter_mm(lesion) == pytest.approx((12.0 * 6.0 * 9.0) ** (1 / 3), abs=0.01)


def test_a_masks_volume_is_counted_and_a_ball_has_its_own_diameter(tmp_path: Path) -> None:
    at = np.indices((30, 40, 40)).astype(float)
    inside = ((at[0] - 15) * 2.0) ** 2 + ((at[1] - 20) * 1.0) ** 2 + ((at[2] - 20) * 1.0) ** 2 <= 14.0**2
    mask = write(tmp_path / "m.nii.gz", inside.astype(np.uint8), (2.0, 1.0, 1.0))
    found = lesion_diameter_mm(raw(image(), mask=mask))
    assert found == pytest.approx(28.0, abs=0.3)
    assert found == round((6 * inside.sum() * 2.0 / math.pi) ** (1 / 3), 2)


def test_where_nothing_says_how_large_a_lesion_is_nothing_is_said(tmp_path: Path) -> None:
    box = Box((0, 0, 0), (1, 1, 1))
    assert lesion_diameter_mm(raw(image())) is None
    assert lesion_diameter_mm(raw(image(box=box, fitted=True))) is None
    assert lesion_diameter_mm(raw(image(box=box))) is None  # its file is gone
    empty = write(tmp_path / "m.nii.gz", np.zeros((3, 3, 3), np.uint8), (1.0, 1.0, 1.0))
    assert lesion_diameter_mm(raw(image(), mask=empty)) is None


@pytest.fixture
def hospital(tmp_path: Path) -> Workspace:
    """Six patients as an ingest leaves them: NIfTI files, a table, and records of two of them."""
    rows = ["case,patient,proliferative,scanner,pre-contrast,arterial,mask"]
    for number in range(6):
        path = f"{number}.nii.gz"
        write(tmp_path / path, np.zeros((9, 9, 9), np.int16), (2.0, 2.0, 2.0))
        mask = np.zeros((9, 9, 9), np.uint8)
        mask[1 : 3 + number] = 1
        write(tmp_path / f"mask-{path}", mask, (2.0, 2.0, 2.0))
        pre = path if number else ""
        scanner = "" if number == 5 else "Borea 3T"
        rows.append(f"c{number},p{number},{number % 2},{scanner},{pre},{path},mask-{path}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "records").mkdir()
    series = SeriesRecord(number=1, taken_for="arterial", rule="", certainty="sure", used=True)
    told = {
        "p3": [("SIEMENS", 1.5), ("Siemens Healthineers", 1.5)],
        "p4": [("SIEMENS", 1.5), ("GE MEDICAL SYSTEMS", 3.0)],
    }
    for patient, scanners in told.items():
        used = tuple(
            series.model_copy(update={"manufacturer": maker, "field_strength_t": tesla})
            for maker, tesla in scanners
        )
        record = PatientRecord(patient=patient, inputs="", reached=Stage.USED, series=used)
        (tmp_path / "records" / f"{patient}.json").write_text(record.model_dump_json())
    data = DataSettings(source="nifti-csv", phases=("pre-contrast", "arterial"))
    whole = SimpleNamespace(study=StudyConfig(data=data), data=tmp_path)
    return cast("Workspace", whole)


def test_what_a_data_set_says_of_its_cases(hospital: Workspace) -> None:
    facts = read_facts(hospital)
    assert facts["c0"].missing == ("pre-contrast",)
    assert facts["c1"].missing == ()
    assert (facts["c1"].vendor, facts["c1"].field) == ("Borea", "3 T")  # the table's scanner
    assert (facts["c3"].vendor, facts["c3"].field) == ("Siemens", "1.5 T")  # the ingest's record
    assert (facts["c4"].vendor, facts["c4"].field) == ("Borea", "3 T")  # whose series disagree: the table's
    assert (facts["c5"].vendor, facts["c5"].field) == ("", "")
    sizes = [facts[f"c{number}"].lesion_mm for number in range(6)]
    assert sizes == sorted(sizes, key=lambda size: size or 0.0)
    assert sizes[0] == pytest.approx((6 * 2 * 81 * 8 / math.pi) ** (1 / 3), abs=0.01)


def test_thirds_are_those_of_the_training_patients(hospital: Workspace) -> None:
    def row(case: str, split: str) -> ScoredCase:
        return ScoredCase("full", case, f"p{case[1:]}", "A", split, 1, 0.5)

    scored = [row(f"c{n}", "train" if n < 3 else "test") for n in range(6)] + [row("gone", "test")]
    found = {one.case: one for one in with_traits(scored, hospital)}
    assert [found[f"c{n}"].traits["lesion size"][:3] for n in range(6)] == [
        "1st",
        "2nd",
        "3rd",
        "3rd",
        "3rd",
        "3rd",
    ]
    assert found["c0"].traits["phases missing"] == "1: pre-contrast"
    assert found["c1"].traits == {
        "lesion size": found["c1"].traits["lesion size"],
        "phases missing": "none",
        "vendor": "Borea",
        "field strength": "3 T",
    }
    assert found["gone"] == row("gone", "test")
