from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.case import Box, anchor_phase
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.nifti_csv import read_nifti_csv
from phcc_client.imaging.preprocess import prepare
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
STUDY = DataSettings.model_validate(
    {"source": "nifti-csv", "crop": {"size": (4, 8, 8), "spacing_mm": (3.0, 1.5, 1.5)}}
)


def table(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cases.csv").write_text(text)
    return folder


def test_a_table_of_cases(tmp_path: Path) -> None:
    folder = table(
        tmp_path / "data",
        "case,patient,centre,scanner,proliferative,afp_ng_ml,C+A,pre-contrast,T2,mask,"
        "x_min,x_max,y_min,y_max,z_min,z_max,C+A.x_min,C+A.x_max,C+A.y_min,C+A.y_max,C+A.z_min,C+A.z_max\n"
        "a,p,North,S1,1,40,p/art.nii,p/pre.nii,p/t2.nii,,4,9,5,10,1,3,6,11,5,10,1,3\n"
        "b,p,North,S1,0,<2,p/art.nii,,,p/mask.nii,,,,,,,,,,,,\n"
        "c,q,,,,,q/art.nii,,,,4,9,5,10,1,3,,,,,,\n"
        "d,r,,,,,r/art.nii,r/pre.nii,,,4,9,5,10,1,3,,,,,,\n",
    )
    reading = read_nifti_csv(folder, STUDY)
    a, b, c, d = reading.cases
    assert (a.patient, a.centre, a.scanner, a.label, a.afp) == ("p", "North", "S1", 1, 40.0)
    assert list(a.images) == ["pre-contrast", "arterial"]
    assert a.images["pre-contrast"].box == Box((1, 5, 4), (3, 10, 9))
    assert a.images["arterial"].box == Box((1, 5, 6), (3, 10, 11))
    assert a.images["arterial"].path == folder / "p/art.nii"
    assert a.images["arterial"].spacing_mm_dhw is None
    assert (b.label, b.afp, b.mask) == (0, 2.0, folder / "p/mask.nii")
    assert b.images["arterial"].box is None
    # A missing first phase: the box is the first one's that is there.
    assert (c.label, c.images["arterial"].box) == (-1, Box((1, 5, 4), (3, 10, 9)))
    # One box is drawn on one image: the other phase finds the place in millimetres.
    assert d.images["pre-contrast"].box == Box((1, 5, 4), (3, 10, 9))
    assert d.images["arterial"].box is None
    assert [remark.case for remark in reading.remarks] == ["b"]
    assert reading.rejections == ()


def test_a_split_that_comes_with_the_data(tmp_path: Path) -> None:
    rows = "a,p,0,a.nii,train\nb,q,1,b.nii,Test\nc,r,1,c.nii,\nd,s,1,d.nii,fold-1\n"
    folder = table(tmp_path / "data", f"case,patient,proliferative,arterial,given_split\n{rows}")
    reading = read_nifti_csv(folder, STUDY)
    assert [case.given_split for case in reading.cases] == ["train", "validation", None]
    assert "its given_split is 'fold-1'" in reading.rejections[0].reason


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (",p,1,a.nii,,", "without case or patient"),
        ("x,,1,a.nii,,", "without case or patient"),
        ("x,p,2,a.nii,,", "its label is '2'"),
        ("x,p,1,../a.nii,,", "leads out"),
        ("x,p,1,/etc/passwd,,", "absolute path"),
        ("x,p,1,link.nii,,", "leads out"),
        ("x,p,1,a.nii,../m.nii,", "leads out"),
        ("x,p,1,a.nii,,4", "its box is not six whole numbers"),
        ("good,p,1,a.nii,,", "2 rows have this name"),
    ],
)
def test_a_bad_row_is_set_aside(tmp_path: Path, row: str, what: str) -> None:
    (tmp_path / "a.nii").write_text("outside")
    folder = table(
        tmp_path / "data", f"case,patient,proliferative,arterial,mask,x_min\ngood,p,0,a.nii,,\n{row}\n"
    )
    (folder / "link.nii").symlink_to(tmp_path / "a.nii")
    reading = read_nifti_csv(folder, STUDY)
    assert what in reading.rejections[-1].reason
    assert reading.rejections[-1].remedy
    assert len(reading.cases) + len(reading.rejections) == 2
    assert [case.case for case in reading.cases] == ([] if row.startswith("good") else ["good"])


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("patient,proliferative,arterial", "no column 'case'"),
        ("case,proliferative,arterial", "no column 'patient'"),
        ("case,patient,arterial", "no column 'proliferative'"),
        ("case,patient,proliferative", "none of its columns is a phase"),
        ("case,patient,proliferative,T2,mask", "none of its columns is a phase"),
        ("case,patient,proliferative,arterial,C+A", "columns 'arterial' and 'C+A' are both phase arterial"),
    ],
)
def test_an_unusable_table_ends_in_one_line(tmp_path: Path, header: str, what: str) -> None:
    folder = table(tmp_path / "data", f"{header}\n")
    with pytest.raises(DatasetError) as caught:
        read_nifti_csv(folder, STUDY)
    assert what in str(caught.value)
    assert str(folder / "cases.csv") in str(caught.value)


def test_a_table_says_which_phase_the_lesion_was_drawn_on(tmp_path: Path) -> None:
    folder = table(
        tmp_path / "data",
        "case,patient,proliferative,pre,arterial,delayed,mask,lesion_phase,"
        "x_min,x_max,y_min,y_max,z_min,z_max\n"
        "a,p,1,pre.nii,art.nii,del.nii,m.nii,delayed,,,,,,\n"
        "b,p,1,pre.nii,art.nii,del.nii,,C+A,4,9,5,10,1,3\n"
        "c,p,1,pre.nii,art.nii,del.nii,m.nii,,,,,,,\n"
        "d,p,1,pre.nii,,del.nii,m.nii,arterial,,,,,,\n"
        "e,p,1,pre.nii,,del.nii,m.nii,portal-venous,,,,,,\n"
        "f,p,1,pre.nii,,del.nii,m.nii,T2,,,,,,\n"
        "g,p,1,pre.nii,,del.nii,m.nii,late,,,,,,\n",
    )
    reading = read_nifti_csv(folder, STUDY)
    assert [(c.case, anchor_phase(c)) for c in reading.cases] == [
        ("a", "delayed"),
        ("b", "arterial"),
        ("c", "pre-contrast"),
    ]
    b = reading.cases[1]
    assert [p for p in b.images if b.images[p].box is not None] == ["arterial"]
    assert [r.case for r in reading.rejections] == ["d", "e", "f", "g"]
    assert (
        "its lesion_phase is 'arterial', of which the row has no image (it has: pre-contrast, delayed)"
        in (reading.rejections[0].reason)
    )
    assert all(r.remedy for r in reading.rejections)


def test_files_and_table_together(tmp_path: Path, write_nifti: Any, textured: Any) -> None:
    array = textured((10, 24, 20))
    write_nifti(tmp_path / "data" / "a.nii.gz", array, (3.0, 1.5, 1.5), origin=(7.0, -30.0, 4.0))
    folder = table(
        tmp_path / "data",
        "case,patient,proliferative,arterial,x_min,x_max,y_min,y_max,z_min,z_max\na,p,1,a.nii.gz,6,14,8,16,3,7\n",
    )
    chosen = STUDY.model_copy(update={"phases": ("arterial",), "normalisation": "none"})
    prepared = prepare(read_nifti_csv(folder, chosen).cases[0], chosen)
    assert np.array_equal(prepared.volumes_pdhw[0], array[3:7, 8:16, 6:14].astype(np.float16))


def test_real_volumes_of_the_hippocampus(tmp_path: Path) -> None:
    source = SHARED / "msd_hippocampus" / "TrainingSet"
    if not source.is_dir():
        pytest.skip("the real volumes are not here")
    both = {f.name for f in (source / "images").iterdir()} & {f.name for f in (source / "labels").iterdir()}
    names = sorted(both)[:6]
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for name in names:
            shutil.copy(source / part / name, tmp_path / "data" / part / name)
    rows = [f"{name},{name},{i % 2},images/{name},labels/{name}" for i, name in enumerate(names)]
    folder = table(
        tmp_path / "data",
        "\n".join(["case,patient,proliferative,image,mask", *rows, "gone,gone,,images/gone.nii,"]),
    )
    crop = {"size": (40, 48, 40), "spacing_mm": (1.0, 1.0, 1.0)}
    chosen = DataSettings.model_validate(
        {"source": "nifti-csv", "phases": ("image",), "normalisation": "z-score", "crop": crop}
    )
    preparation = prepare_all(read_nifti_csv(folder, chosen), chosen, tmp_path / "cache", jobs=2)
    assert [entry.case for entry in preparation.entries] == names
    assert [r.case for r in preparation.rejections] == ["gone"]
    for raw in read_nifti_csv(folder, chosen).cases[:-1]:
        prepared = prepare(raw, chosen)
        share = prepared.lesion_dhw.mean()
        assert 0.01 < share < 0.2  # a hippocampus has about 3 mL, the crop 77
        centre = np.argwhere(prepared.lesion_dhw).mean(axis=0)
        assert np.all(np.abs(centre - (np.array(crop["size"]) - 1) / 2) < 6)
