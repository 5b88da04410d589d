"""A hospital's own preparation, and that it is the one that a simulation gives its centre."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import study_of, write_data

from phcc_client.home import ClientSettings, Home
from phcc_client.preparations import open_prepared
from phcc_client.preparing import prepare_site
from phcc_client.site import Site
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, DatasetError, SplitError
from phcc_simulation.workspace import Preparer, Workspace

CENTRES = ("Alma", "Berg", "Ende")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "export")


@pytest.fixture(scope="module")
def simulated(export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, StudyConfig]:
    study = study_of(export)
    preparer = Preparer(tmp_path_factory.mktemp("run"), 1, lambda *_: None)
    return preparer.prepare(study), study


def hospital(folder: Path, name: str, **settings: Any) -> Home:
    return Home.make(folder, ClientSettings(hospital=name, server="a:1", threads=1, **settings))


def own_export(export: Path, centre: str, folder: Path) -> Path:
    """What one hospital has of an export that holds all of them, without a column of centres."""
    folder.mkdir()
    with (export / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["centre"] == centre]
    for row in rows:
        del row["centre"]
        for phase in ("pre-contrast", "arterial"):
            (folder / row[phase]).write_bytes((export / row[phase]).read_bytes())
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def places(site: Site) -> dict[str, tuple[str, str, int, str]]:
    return {case.case: (case.patient, case.split, case.label, case.key) for case in site.record.cases}


@pytest.mark.parametrize("centre", CENTRES)
def test_a_hospital_has_the_split_and_the_crops_that_its_virtual_centre_has(
    simulated: tuple[Workspace, StudyConfig], export: Path, tmp_path: Path, centre: str
) -> None:
    workspace, study = simulated
    expected = places(open_prepared(workspace.site(centre), study.data))
    data = own_export(export, centre, tmp_path / "data")
    alone = prepare_site(hospital(tmp_path / "alone", centre, data=str(data)), study)
    filtered = prepare_site(hospital(tmp_path / "f", centre, data=str(export), centre=centre), study)
    assert places(alone) == places(filtered) == expected
    assert {split for _, split, _, _ in expected.values()} == (
        {"test"} if centre == "Ende" else {"train", "validation", "test"}
    )


def test_what_was_prepared_is_where_an_order_looks_for_it(export: Path, tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", "Alma", data=str(export), centre="Alma")
    study = study_of(export)
    told: list[tuple[int, int]] = []
    site = prepare_site(home, study, lambda done, total: told.append((done, total)))
    opened = open_prepared(home.site, study.data)
    assert opened.name == "Alma"
    assert places(opened) == places(site)
    assert told == [(at, 14) for at in range(1, 15)]
    crops = {path: path.stat().st_mtime_ns for path in (home.site / "cache").rglob("*.safetensors")}
    assert len(crops) == 14
    before = (site.folder / "site.json").read_bytes()
    prepare_site(home, study)
    assert (site.folder / "site.json").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in crops} == crops


def test_a_case_that_is_set_aside_is_kept_with_its_reason(export: Path, tmp_path: Path) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    (data / "Alma2-0-arterial.nii.gz").unlink()
    site = prepare_site(hospital(tmp_path / "home", "Alma", data=str(data)), study_of(export))
    assert [setaside.case for setaside in site.record.funnel.rejections] == ["Alma2-0"]
    assert site.record.funnel.read == 14


def test_a_centre_that_the_data_do_not_name_is_refused_with_those_that_they_do(
    export: Path, tmp_path: Path
) -> None:
    home = hospital(tmp_path / "home", "H1", data=str(export), centre="Nowhere")
    with pytest.raises(DatasetError, match=r"no case is of centre Nowhere.*Alma, Berg, Ende"):
        prepare_site(home, study_of(export))


@pytest.mark.parametrize(("data", "words"), [(None, "nobody said yet"), ("nowhere", "no such file")])
def test_data_that_are_not_there_say_how_to_name_them(
    export: Path, tmp_path: Path, data: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"{words}.*phcc-client set data=FOLDER"):
        prepare_site(hospital(tmp_path / "home", "H1", data=data), study_of(export))


@pytest.mark.parametrize("change", ["seed", "labels", "more"])
def test_no_patient_moves_once_it_has_its_place(export: Path, tmp_path: Path, change: str) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    home = hospital(tmp_path / "home", "Alma", data=str(data))
    before = prepare_site(home, study_of(export))
    study = study_of(export, seed=5) if change == "seed" else study_of(export)
    if change == "labels":
        alter(data, lambda row: {**row, "proliferative": str(1 - int(row["proliferative"]))})
    if change == "more":
        alter(data, lambda row: None if row["patient"] in ("Alma1", "Alma3", "Alma5", "Alma7") else row)
    with pytest.raises(SplitError, match=r"patient Alma\d would move .*--again"):
        prepare_site(home, study)
    assert places(open_prepared(home.site, study.data)) == places(before)
    assert places(prepare_site(home, study, again=True)) != places(before)


def alter(data: Path, change: Callable[[dict[str, str]], dict[str, str] | None]) -> None:
    with (data / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = [new for row in csv.DictReader(stream) if (new := change(row)) is not None]
    with (data / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
