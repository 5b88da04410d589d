"""A hospital's own preparation, and that it is the one that a simulation gives its centre."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import study_of, write_data

from phcc_client.announcement import card_of
from phcc_client.guard import suppressed
from phcc_client.home import ClientSettings, Home
from phcc_client.imaging.cache import preparation_digest
from phcc_client.imaging.case import PREPROCESS_VERSION
from phcc_client.imaging.dataset import Preparation
from phcc_client.imaging.readers import read_cases
from phcc_client.ingest.record import PatientRecord, SeriesRecord, Stage
from phcc_client.ingest.site_folder import ABOUT, RECORDS
from phcc_client.policy import arms_of
from phcc_client.preparations import is_prepared, open_prepared, preparation_folder
from phcc_client.preparing import prepare_site, tell_of_damage
from phcc_client.site import SITE_FILE, Site
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
    expected = places(open_prepared(workspace.site(centre), study, centre))
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
    opened = open_prepared(home.site, study, "Alma")
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


@pytest.mark.parametrize("change", ["labels", "more"])
def test_no_patient_moves_once_it_has_its_place(export: Path, tmp_path: Path, change: str) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    home = hospital(tmp_path / "home", "Alma", data=str(data))
    study = study_of(export)
    before = prepare_site(home, study)
    if change == "labels":
        alter(data, lambda row: {**row, "proliferative": str(1 - int(row["proliferative"]))})
    if change == "more":
        alter(data, lambda row: None if row["patient"] in ("Alma1", "Alma3", "Alma5", "Alma7") else row)
    with pytest.raises(SplitError, match=r"patient Alma\d would move .*--again"):
        prepare_site(home, study)
    assert places(open_prepared(home.site, study, "Alma")) == places(before)
    assert places(prepare_site(home, study, again=True)) != places(before)


OTHERWISE: dict[str, dict[str, Any]] = {
    "seed": {"seed": 5},
    "shares": {"data": {"split": {"test": 0.5, "validation": 0.1}}},
    "label": {"data": {"label": "steatotic"}},
    "required phase": {"data": {"required_phases": ["arterial"]}},
    "external": {"centres": {"external": ["Alma"]}},
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_study_with_other_terms_stands_beside_the_first_and_shares_its_crops(
    export: Path, tmp_path: Path, what: str
) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    alter(data, lambda row: {**row, "steatotic": str(int(int(row["patient"][-1]) % 3 == 0))})
    home = hospital(tmp_path / "home", "Alma", data=str(data))
    first, second = study_of(export), study_of(export, **OTHERWISE[what])
    before = prepare_site(home, first)
    crops = sorted((home.site / "cache").rglob("*.safetensors"))
    after = prepare_site(home, second)
    assert sorted((home.site / "cache").rglob("*.safetensors")) == crops
    assert places(open_prepared(home.site, first, "Alma")) == places(before)
    assert places(open_prepared(home.site, second, "Alma")) == places(after)
    assert (places(after) == places(before)) == (what == "required phase")
    assert after.folder != before.folder


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "another", "finetune": {"rounds": 9}},
        {"centres": {"external": ["Berg", "Ende"]}},  # other hospitals' matter
        {"evaluation": {"arms": ["uniform"]}},
    ],
)
def test_studies_that_differ_in_nothing_that_concerns_the_cases_share_a_preparation(
    export: Path, tmp_path: Path, sections: dict[str, Any]
) -> None:
    same = study_of(export, **sections)
    assert same.digest != study_of(export).digest
    assert preparation_folder(tmp_path, same, "Alma") == preparation_folder(
        tmp_path, study_of(export), "Alma"
    )


# ---- Arms


def test_every_arm_has_the_study_s_split_in_the_hospital_as_in_the_simulation(
    export: Path, tmp_path: Path
) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    alter(data, lambda row: {**row, "arterial": ""} if row["patient"] in ("Alma4", "Alma6") else row)
    study = study_of(
        data, centres={"mode": "iid", "count": 1, "external": []}, evaluation={"arms": ["phase:arterial"]}
    )
    home = hospital(tmp_path / "home", "virtual-1", data=str(data))
    (arm,) = arms_of(study).values()
    sites = {whole: prepare_site(home, arm, whole=whole) for whole in (study, None)}
    preparer = Preparer(tmp_path / "run", 1, lambda *_: None)
    workspace = preparer.prepare(study)
    preparer.variant(workspace, arm)
    simulated = open_prepared(workspace.site("virtual-1"), arm, "virtual-1", study)
    assert places(sites[study]) == places(simulated)
    assert places(open_prepared(home.site, arm, "virtual-1", study)) == places(sites[study])
    split_of = {c.patient: c.split for c in open_prepared(home.site, study, "virtual-1").record.cases}
    assert {c.patient: c.split for c in sites[study].record.cases}.items() < split_of.items()
    alone = {c.patient: c.split for c in sites[None].record.cases}
    assert not alone.items() <= split_of.items()  # dealt for itself, somebody would have stood elsewhere


def test_an_arm_that_sees_what_its_study_sees_shares_its_preparation(export: Path, tmp_path: Path) -> None:
    study = study_of(export, evaluation={"arms": ["full", "no-pretraining", "mean", "pooled", "afp"]})
    folders = {preparation_folder(tmp_path, arm, "Alma", study) for arm in arms_of(study).values()}
    assert folders == {preparation_folder(tmp_path, study, "Alma")}


def test_a_case_that_an_arm_has_and_its_study_has_not_is_set_aside_with_its_reason(
    export: Path, tmp_path: Path
) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    alter(data, lambda row: {**row, "pre-contrast": ""} if row["patient"] == "Alma4" else row)
    study = study_of(
        data,
        data={"required_phases": ["pre-contrast", "arterial"]},
        evaluation={"arms": ["phase:arterial"]},
    )
    (arm,) = arms_of(study).values()
    site = prepare_site(hospital(tmp_path / "home", "Alma", data=str(data)), arm, whole=study)
    assert [(case.case, case.reason) for case in site.record.funnel.rejections] == [
        ("Alma4-0", "its patient is not among those of the study itself")
    ]
    assert site.record.funnel.read == site.record.funnel.prepared + 1 == 14


# ---- A home from before


def as_an_earlier_version_left_it(home: Home, study: StudyConfig) -> Path:
    """The list under a name that only the voxels decided, and without its terms."""
    site = prepare_site(home, study)
    folder = home.site / f"prepared-{preparation_digest(study.data)[:16]}"
    site.folder.rename(folder)
    plain = json.loads((folder / SITE_FILE).read_text())
    del plain["terms"]
    (folder / SITE_FILE).write_text(json.dumps(plain))
    return folder


def test_a_home_from_before_goes_on_and_is_listed_anew_with_one_line(
    export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, study = hospital(tmp_path / "home", "Alma", data=str(export), centre="Alma"), study_of(export)
    folder = as_an_earlier_version_left_it(home, study)
    before = open_prepared(home.site, study, "Alma")
    assert before.folder == folder
    assert len(before.load("train")) > 0
    assert not is_prepared(home.site, study, "Alma")
    caplog.set_level("INFO", "phcc_client")
    after = prepare_site(home, study)
    assert after.folder != folder
    assert places(after) == places(before)
    assert [record.message for record in caplog.records] == [
        "study tiny: an earlier version prepared its cases; they are listed anew"
    ]
    assert is_prepared(home.site, study, "Alma")


def test_a_home_from_before_stands_for_the_study_that_it_was_made_for_alone(
    export: Path, tmp_path: Path
) -> None:
    home = hospital(tmp_path / "home", "Alma", data=str(export), centre="Alma")
    as_an_earlier_version_left_it(home, study_of(export))
    other = study_of(export, seed=5)
    with pytest.raises(DatasetError, match="there is no prepared site here"):
        open_prepared(home.site, other, "Alma")
    prepare_site(home, other)


def test_data_that_grew_since_an_earlier_version_still_move_nobody(export: Path, tmp_path: Path) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    home = hospital(tmp_path / "home", "Alma", data=str(data))
    as_an_earlier_version_left_it(home, study_of(export))
    alter(data, lambda row: None if row["patient"] in ("Alma1", "Alma3", "Alma5", "Alma7") else row)
    with pytest.raises(SplitError, match=r"patient Alma\d would move"):
        prepare_site(home, study_of(export))


def test_a_list_of_another_study_that_is_damaged_is_in_nobody_s_way(export: Path, tmp_path: Path) -> None:
    home = hospital(tmp_path / "home", "Alma", data=str(export), centre="Alma")
    folder = as_an_earlier_version_left_it(home, study_of(export))
    (folder / SITE_FILE).write_text("{")
    assert prepare_site(home, study_of(export, seed=5)).counts()["train"]["positive"] > 0


def test_crops_of_another_version_are_made_anew_and_nobody_moves_meanwhile(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own_export(export, "Alma", tmp_path / "data")
    home, study = hospital(tmp_path / "home", "Alma", data=str(data)), study_of(export)
    before = prepare_site(home, study)
    monkeypatch.setattr("phcc_client.imaging.cache.PREPROCESS_VERSION", PREPROCESS_VERSION + 1)
    assert not is_prepared(home.site, study, "Alma")
    with pytest.raises(DatasetError, match="prepared with other phases"):
        open_prepared(home.site, study, "Alma")
    whole = (data / "cases.csv").read_text()
    alter(data, lambda row: None if row["patient"] in ("Alma1", "Alma3", "Alma5", "Alma7") else row)
    with pytest.raises(SplitError, match=r"patient Alma\d would move"):
        prepare_site(home, study)
    (data / "cases.csv").write_text(whole)
    after = prepare_site(home, study)
    assert after.folder == before.folder
    assert {case: place[:3] for case, place in places(after).items()} == {
        case: place[:3] for case, place in places(before).items()
    }
    assert is_prepared(home.site, study, "Alma")


def alter(data: Path, change: Callable[[dict[str, str]], dict[str, str] | None]) -> None:
    with (data / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = [new for row in csv.DictReader(stream) if (new := change(row)) is not None]
    with (data / "cases.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_damaged_crops_are_said_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    tell_of_damage(Preparation((), (), 0))
    assert not caplog.records
    tell_of_damage(Preparation((), (), 0, ("case-1", "case-2")))
    (record,) = caplog.records
    assert "2 prepared crops were damaged and made again: case-1, case-2" in record.getMessage()


def test_what_its_images_look_like_and_who_was_set_aside_is_announced(tmp_path: Path) -> None:
    """Of an ingested site field strength too; a card holds ranges and counts, and no case's value."""
    data = own_export(write_data(tmp_path / "export", {"Alma": 16}), "Alma", tmp_path / "data")
    broken = sorted({case.patient for case in read_cases(study_of(data).data, data).cases})[:2]
    for path in data.glob("*.nii.gz"):
        if path.name.split("-")[0] in broken:
            path.write_bytes(b"no image")
    (data / RECORDS).mkdir()
    (data / ABOUT).write_text("{}")
    for number in range(16):
        series = SeriesRecord(
            number=1,
            taken_for="arterial",
            rule="by name",
            certainty="sure",
            used=True,
            field_strength_t=1.5 if number % 2 else 3.0,
        )
        record = PatientRecord(
            patient=f"Alma{number}", inputs="", reached=Stage.USABLE, label=1, series=(series,)
        )
        (data / RECORDS / f"Alma{number}.json").write_text(record.model_dump_json())
    lost = PatientRecord(patient="P-lost", inputs="", reached=Stage.PHASES)
    (data / RECORDS / "P-lost.json").write_text(lost.model_dump_json())
    study = study_of(data)
    home = hospital(tmp_path / "home", "Alma", data=str(data))
    site = prepare_site(home, study)
    card = card_of(site, "Alma", study.digest)
    assert card.aside == {"no-lesion": 1, "not-prepared": 2}
    assert card.patients["train"] >= 5
    spacing = {name: value for name, value in card.seen.items() if name.startswith("spacing")}
    assert spacing == {
        f"spacing.{axis}.{end}": mm
        for axis, mm in zip("dhw", (3.0, 2.0, 2.0), strict=True)
        for end in ("low", "high")
    }
    assert (card.seen["field.low"], card.seen["field.high"]) == (1.5, 3.0)
    assert card.seen["enhancement.arterial.low"] <= card.seen["enhancement.arterial.high"]
    assert suppressed(card, 5).aside == {}
    assert card_of(site, "Alma", study.digest, card.patients["train"] + 1).seen == {}
    reopened = open_prepared(home.site, study, "Alma")
    assert card_of(reopened, "Alma", study.digest) == card
