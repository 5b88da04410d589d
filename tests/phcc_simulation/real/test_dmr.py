from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_curves import curve, write_archive

from phcc_model.errors import DatasetError
from phcc_simulation.real.dmr import find_dmr, read_dmr


def test_columns_become_recordings(tmp_path: Path) -> None:
    long, short = curve(1.0), curve(2.0, samples=12)
    path = write_archive(
        tmp_path / "deep" / "x.dmr.zip",
        [("R1", "Day_1", long, {"center": "A"}), ("R1", "Day_2", short, {"center": "B"})],
    )
    assert find_dmr(tmp_path) == [path]
    first, second = read_dmr(path)
    assert (first.name, second.name) == ("x/R1/Day_1", "x/R1/Day_2")
    np.testing.assert_array_equal(first.signals["liver"], long)
    np.testing.assert_array_equal(second.signals["liver"][:12], short)
    assert np.isnan(second.signals["liver"][12:]).all()  # what is empty is not a zero
    assert (first.parameters["center"], second.parameters["center"]) == ("A", "B")


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"pars.csv": "subject,study,parameter,value\n"}, r"holds no rois\.csv"),
        ({"rois.csv": "a\nd\ntime\n1\n"}, r"holds no pars\.csv"),
        (
            {"rois.csv": "a,a\nd\ntime\n1\n", "pars.csv": "subject,study,parameter,value\n"},
            "three header lines",
        ),
        (
            {"rois.csv": "a\nd\ntime\nx\n", "pars.csv": "subject,study,parameter,value\n"},
            "'x' where a number",
        ),
        ({"rois.csv": "a\nd\ntime\n1\n", "pars.csv": "subject,value\n"}, "does not have the columns"),
        (
            {"rois.csv": "a\nd\ntime\n1\n", "pars.csv": "subject,study,parameter,value\na,d,n0\n"},
            "short line",
        ),
    ],
)
def test_a_spoilt_archive_is_named(tmp_path: Path, files: dict[str, str], what: str) -> None:
    path = tmp_path / "x.dmr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    with pytest.raises(DatasetError, match=what) as caught:
        read_dmr(path)
    assert caught.value.where == str(path)


def test_no_archive_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no \.dmr\.zip file"):
        find_dmr(tmp_path)
    (tmp_path / "x.dmr.zip").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_dmr(tmp_path / "x.dmr.zip")
