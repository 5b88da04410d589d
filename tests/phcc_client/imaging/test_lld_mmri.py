from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.case import Box, Remark
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.imaging.preprocess import prepare
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError, DatasetError

GOLDEN = Path(__file__).parents[2] / "data" / "lld_mmri" / "Annotation.json"


def study(**changes: object) -> DataSettings:
    return DataSettings.model_validate(
        {"crop": {"size": (4, 8, 8), "spacing_mm": (3.0, 1.5, 1.5)}, **changes}
    )


@pytest.fixture
def golden(tmp_path: Path, write_nifti: Any, textured: Any) -> Path:
    """The annotation as published, with files for all of its series but the portal venous one."""
    folder = tmp_path / "lld"
    (folder / "labels").mkdir(parents=True)
    shutil.copy(GOLDEN, folder / "labels" / "Annotation.json")
    for number in (1, 2, 3):
        write_nifti(folder / f"images/MR-100/1.2.100/1.2.100.{number}.nii.gz", textured((8, 16, 20), number))
    return folder


def test_the_golden_annotation(golden: Path) -> None:
    reading = read_lld_raw(golden, study())
    assert [(c.case, c.patient) for c in reading.cases] == [("MR-100", "MR-100"), ("MR-100_1", "MR-100")]
    first, second = reading.cases
    assert list(first.images) == ["pre-contrast", "arterial"]
    pre, arterial = first.images["pre-contrast"], first.images["arterial"]
    assert pre.path == golden / "images/MR-100/1.2.100/1.2.100.1.nii.gz"
    # z_max inclusive, x_max and y_max exclusive; the step between slices and not their thickness.
    assert pre.box == Box((2, 6, 4), (5, 11, 10))
    assert pre.spacing_mm_dhw == (2.5, 1.25, 1.5)
    # Without slice_spacing the thickness; corners that are no whole numbers are covered.
    assert arterial.spacing_mm_dhw == (5.0, 1.25, 1.5)
    assert arterial.box == Box((3, 6, 4), (6, 11, 10))
    assert second.images["pre-contrast"].box == Box((1, 3, 12), (2, 5, 15))
    assert list(second.images) == ["pre-contrast"]
    assert (first.label, first.centre) == (-1, None)
    assert reading.rejections == ()
    missing = golden / "images/MR-100/1.2.100/1.2.100.4.nii.gz"
    assert reading.remarks == (
        Remark("MR-100", f"phase portal-venous is annotated, but {missing} is not there: used without it"),
        Remark("MR-100", "lesion 1 has no box in phase arterial: used without this phase"),
    )


def test_a_category_can_be_the_label(golden: Path) -> None:
    cases = read_lld_raw(golden, study(label="category=Hepatocellular_carcinoma")).cases
    assert [case.label for case in cases] == [1, 0]


def test_the_clinical_table_gives_label_centre_scanner_and_afp(
    tmp_path: Path, write_lld: Any, textured: Any
) -> None:
    image = (textured(), (2, 4, 4), (5, 10, 12))
    patients = {p: {"pre-contrast": image, "arterial": image} for p in ("a", "b", "c", "d")}
    header = "patient,centre,scanner,afp_ng_ml,proliferative\n"
    clinical = f"{header}a,North,S1,12.5,1\nb,South,,,0\nd,North,S1,3,?!\nz,,,,1\n"
    reading = read_lld_raw(write_lld(tmp_path / "lld", patients, clinical=clinical), study())
    a, b, c = reading.cases
    assert (a.label, a.centre, a.scanner, a.afp) == (1, "North", "S1", 12.5)
    assert (b.label, b.centre, b.scanner) == (0, "South", None)
    assert (c.label, c.centre) == (-1, None)
    assert np.isnan(b.afp)
    assert np.isnan(c.afp)
    assert [(r.case, "'?!'" in r.reason) for r in reading.rejections] == [("d", True)]
    assert reading.remarks == (Remark("clinical.csv", "1 of its patients have no images here"),)
    with pytest.raises(DatasetError, match="has no column 'stage'"):
        read_lld_raw(tmp_path / "lld", study(label="stage"))


def test_a_case_is_read_with_the_annotation_s_spacing_and_not_the_file_s(
    tmp_path: Path, write_lld: Any, textured: Any
) -> None:
    array = textured((10, 24, 20))
    image = (array, (3, 8, 6), (7, 16, 14))
    raw = read_lld_raw(write_lld(tmp_path / "lld", {"a": {"arterial": image}}), study()).cases[0]
    prepared = prepare(raw, study(phases=("arterial",), normalisation="none"))
    assert np.array_equal(prepared.volumes_pdhw[0], array[3:7, 8:16, 6:14].astype(np.float16))
    assert prepared.lesion_dhw.all()


Change = Callable[[dict[str, Any]], None]


def _edit(folder: Path, change: Change) -> None:
    file = folder / "labels" / "Annotation.json"
    content = json.loads(file.read_text())
    change(content["Annotation_info"])
    file.write_text(json.dumps(content))


def _corners(info: dict[str, Any]) -> dict[str, Any]:
    corners: dict[str, Any] = info["bad"][0]["annotation"]["lesion"]["0"]["bbox"]["3D_box"]
    return corners


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda i: _corners(i).update(x_max=_corners(i)["x_min"]), "holds no voxel along x"),
        (lambda i: _corners(i).update(z_max=_corners(i)["z_min"] - 1), "holds no voxel along z"),
        (lambda i: _corners(i).update(y_min=-2), "begins at y = -2"),
        (lambda i: _corners(i).pop("y_min"), "y_min: field required"),
        (lambda i: i["bad"][0].pop("seriesUID"), "seriesUID: field required"),
        (lambda i: i["bad"][0].update(pixel_spacing=[0.0, 1.0]), r"pixel_spacing.0: .* greater than 0"),
        (lambda i: i["bad"][0].update(slice_spacing=None, slice_thickness=None), "neither slice_spacing nor"),
        (lambda i: i["bad"][0].update(phase=7), "names no phase"),
        (lambda i: i["bad"][1].update(phase="C-pre"), "two of its series are phase pre-contrast"),
        (lambda i: i.update(bad="nothing"), "no list of phases"),
        (lambda i: i["bad"][0].update(studyUID="../../secret"), "leads out of the data set's folder"),
        (lambda i: i["bad"][0]["annotation"].update(lesion={}) or i["bad"].pop(1), "has a lesion"),
        (
            lambda i: i["bad"][0]["annotation"]["lesion"]["0"].update(category="x"),
            "name different categories",
        ),
        (lambda i: [s.update(studyUID="elsewhere") for s in i["bad"]], "no image of it is there"),
    ],
)
def test_a_bad_patient_is_set_aside_and_the_others_stay(
    tmp_path: Path, write_lld: Any, textured: Any, change: Change, what: str
) -> None:
    image = (textured(), (2, 4, 4), (5, 10, 12))
    patients = {p: {"pre-contrast": image, "arterial": image} for p in ("good", "bad")}
    folder = write_lld(tmp_path / "lld", patients)
    _edit(folder, change)
    reading = read_lld_raw(folder, study())
    assert [case.case for case in reading.cases] == ["good"]
    assert [r.patient for r in reading.rejections] == ["bad"]
    rejection = reading.rejections[0]
    assert rejection.remedy
    with pytest.raises(CaseError, match=what):
        raise CaseError(rejection.reason)


def test_an_unknown_phase_is_named_and_left_out(tmp_path: Path, write_lld: Any, textured: Any) -> None:
    image = (textured(), (2, 4, 4), (5, 10, 12))
    folder = write_lld(tmp_path / "lld", {"a": {"arterial": image, "C+Q": image, "DWI": image}})
    reading = read_lld_raw(folder, study())
    assert list(reading.cases[0].images) == ["arterial"]
    assert reading.remarks == (Remark("a", "series 'C+Q' is no phase known here and is not used"),)


def test_uncompressed_series_are_found(
    tmp_path: Path, write_lld: Any, textured: Any, write_nifti: Any
) -> None:
    folder = write_lld(tmp_path / "lld", {"a": {"arterial": (textured(), (2, 4, 4), (5, 10, 12))}})
    (folder / "images/a/study/s0.nii.gz").unlink()
    plain = write_nifti(folder / "images/a/study/s0.nii", textured())
    assert read_lld_raw(folder, study()).cases[0].images["arterial"].path == plain


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "no such file"),
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "no table Annotation_info"),
        ('{"Annotation_info": []}', "no table Annotation_info"),
        (b"\xff\xfe\x00", "is no JSON"),
    ],
)
def test_an_unusable_annotation_ends_in_one_line(
    tmp_path: Path, content: str | bytes | None, what: str
) -> None:
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels" / "Annotation.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=what) as caught:
        read_lld_raw(tmp_path, study())
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
