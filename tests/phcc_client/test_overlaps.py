"""Who is tested in one study of a hospital and trained on in another is said, wherever somebody decides."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_study
from exports import write_data
from test_admin_commands import Client, client  # noqa: F401 - a fixture

from phcc_client.home import ClientSettings, Home
from phcc_client.overlaps import overlaps
from phcc_client.policy import Policy
from phcc_client.preparing import prepare_site
from phcc_client.readiness import Readiness
from phcc_client.site import SITE_FILE, Site
from phcc_model.config import StudyConfig
from phcc_model.study_file import dump_study


def study(name: str, **sections: Any) -> StudyConfig:
    return tiny_study(name=name, **({"data": {"source": "nifti-csv"}} | sections))


FIRST, REPEAT = study("first"), study("repeat", finetune={"rounds": 5})
SECOND = study("second", seed=5)
NUMBERS = re.compile(
    r"trains on (\d+) patients? that this study tests and tests (\d+) patients? that this study trains on"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "export", {"H1": 20})


@pytest.fixture
def home(tmp_path: Path, data: Path) -> Home:
    home = Home.make(
        tmp_path / "home", ClientSettings(hospital="H1", server="a:1", threads=1, data=str(data))
    )
    for known in (FIRST, SECOND, REPEAT):
        Policy(home.folder).see(dump_study(known))
    return home


def approved_and_prepared(home: Home, known: StudyConfig) -> Site:
    Policy(home.folder).decide(known.digest, "approved")
    return prepare_site(home, known)


def sides(site: Site) -> tuple[set[str], set[str]]:
    """Patients that are trained on, and those that are tested."""
    cases = site.record.cases
    return {c.patient for c in cases if c.split != "test"}, {c.patient for c in cases if c.split == "test"}


def test_the_patients_that_stand_on_both_sides_are_counted_and_foretold(home: Home) -> None:
    assert list(overlaps(home, FIRST.digest)) == []
    trained, tested = sides(approved_and_prepared(home, FIRST))
    (foretold,) = overlaps(home, SECOND.digest)
    assert "before it is prepared" in foretold
    theirs_trained, theirs_tested = sides(approved_and_prepared(home, SECOND))
    (line,) = overlaps(home, SECOND.digest)
    assert foretold == line.replace(": weights", " (as far as can be told before it is prepared): weights")
    assert line.startswith(f"first {FIRST.digest[:12]} ")
    found = NUMBERS.search(line)
    assert found is not None
    assert [int(n) for n in found.groups()] == [len(trained & theirs_tested), len(tested & theirs_trained)]
    (other_way,) = overlaps(home, FIRST.digest)
    seen = NUMBERS.search(other_way)
    assert seen is not None
    assert seen.groups() == found.groups()[::-1]


def test_studies_that_share_their_split_have_nothing_to_say_of_each_other(home: Home) -> None:
    approved_and_prepared(home, FIRST)
    approved_and_prepared(home, REPEAT)
    assert list(overlaps(home, REPEAT.digest)) == []


def test_a_study_that_was_never_approved_has_no_weights(home: Home) -> None:
    prepare_site(home, FIRST)
    assert list(overlaps(home, SECOND.digest)) == []
    for choice in ("approved", "withdrawn"):
        Policy(home.folder).decide(FIRST.digest, choice)
    assert len(list(overlaps(home, SECOND.digest))) == 1


def test_a_list_that_is_damaged_and_a_study_that_nobody_knows_say_nothing(home: Home) -> None:
    site = approved_and_prepared(home, FIRST)
    (site.folder / SITE_FILE).write_text("{")
    assert list(overlaps(home, SECOND.digest)) == []
    assert list(overlaps(home, "0" * 64)) == []


def test_a_hospital_that_is_external_in_one_study_and_trains_in_another_is_warned(home: Home) -> None:
    approved_and_prepared(home, FIRST)
    judged = study("judged", data={"source": "nifti-csv", "centres": {"external": ["H1"]}})
    Policy(home.folder).see(dump_study(judged))
    (line,) = overlaps(home, judged.digest)
    assert "trains on 16 patients that this study tests (as far" in line


def test_the_worker_s_log_says_it(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phcc_client.readiness.LOOK_S", 0.0)
    caplog.set_level(logging.INFO, "phcc_client")
    readiness = Readiness(home)
    for known in (FIRST, SECOND):
        Policy(home.folder).decide(known.digest, "approved")
        readiness.see_to_it()
    said = [record.message for record in caplog.records if "must not be used" in record.message]
    assert len(said) == 1
    assert said[0].startswith("study second: first ")
    caplog.clear()
    readiness.see_to_it()
    Readiness(home).see_to_it()
    assert caplog.records == []


def test_show_approve_and_prepare_say_it(client: Client, data: Path, tmp_path: Path) -> None:  # noqa: F811
    client("set", f"data={data}", "threads=1")
    for known in (FIRST, SECOND):
        (tmp_path / f"{known.name}.yaml").write_text(dump_study(known), encoding="utf-8")
    words = "must not be used in the other"
    assert words not in client("approve", str(tmp_path / "first.yaml"), "--yes")
    assert words not in client("prepare", "first")
    assert client.code == 0
    assert words in client("show", str(tmp_path / "second.yaml"))
    assert words in client("approve", "second", "--yes")
    said = client("prepare", "second")
    assert client.code == 0
    assert said.count(words) == 1
    assert "before it is prepared" not in said
    assert words not in client("withdraw", "second", "--yes")
