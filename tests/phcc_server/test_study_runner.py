"""A whole run of the coordinator without Flower: every arm, the test at the sites, the report, and its proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders import CENTRES, Centre, open_sessions, tiny_study

from phcc_model.chain import Chain, read_records
from phcc_model.errors import ConfigError, RoundError, StorageError
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger, RoundRecord, cards_of
from phcc_server.real_arms import arms_at_sites
from phcc_server.report.again import report_again
from phcc_server.run_folder import RunFolder
from phcc_server.site_tests import SiteTests
from phcc_server.study_runner import StudyRunner
from phcc_server.verification import faults_of
from phcc_simulation.federation import MemorySites

SITES = ("Alma", "Berg", "Cork", "Ende")
STUDY = tiny_study(
    data={"centres": {"external": ["Ende"]}},
    federation={"minimum_sites": 2},
    evaluation={"arms": ["full", "no-pretraining", "afp", "pooled"]},
)
HOSPITALS = CENTRES | {"Ende": Centre(test=(1, 0, 1, 0, 0))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("coordinator")
    sessions = open_sessions(folder / "hospitals", STUDY, HOSPITALS)
    run = RunFolder.create(folder / "runs", STUDY, SITES)
    StudyRunner(run, MemorySites(sessions)).run()
    return run


def copied(run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(run.folder, tmp_path / run.name)))


def test_a_run_ends_with_figures_of_every_site_and_of_the_external_one(finished: RunFolder) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    assert set(summary["arms"]) == {"full", "no-pretraining"}
    full = summary["arms"]["full"]
    assert full["external"]["n"] == 5
    assert full["Ende"]["n_pos"] == 2
    assert full["internal"]["n"] == 2  # only Alma has patients to be tested
    assert summary["digests"]["study"] == STUDY.digest
    page = (finished.folder / "report.html").read_text()
    assert "score left a hospital" in page
    assert "arm afp is left out" in page
    assert "it would need patients of several hospitals in one place" in page


def test_a_site_that_only_judges_is_missed_in_no_round(finished: RunFolder) -> None:
    rounds = [json.loads(line)["record"] for line in finished.ledger.read_text().splitlines()]
    assert {record["status"] for record in rounds} == {"COMPLETE"}
    assert all("Ende" not in record["sites"] for record in rounds)


def test_binned_figures_are_near_those_of_the_scores(finished: RunFolder) -> None:
    tests = SiteTests.load(finished.tests / "full.json")
    assert tests is not None
    assert tests.external == ("Ende",)
    cases = list(tests.cases("full", 0.5))
    assert sum(case.centre == "Ende" for case in cases) == 5
    assert len({case.case for case in cases}) == len(cases)
    # The loss is of the scores themselves: from the middles of bins it comes out nearly the same.
    ende = [case for case in cases if case.centre == "Ende"]
    score, label = np.array([c.score for c in ende]), np.array([c.label for c in ende])
    loss = -np.mean(np.where(label == 1, np.log(score), np.log(1 - score)))
    assert loss == pytest.approx(tests.replies["Ende"].loss, abs=0.05)


def test_a_second_run_of_a_finished_one_asks_no_site(finished: RunFolder, tmp_path: Path) -> None:
    again = copied(finished, tmp_path)
    before = (again.folder / "summary.json").read_text()
    sessions = open_sessions(tmp_path / "hospitals", STUDY, HOSPITALS)
    for session in sessions.values():
        session.train = session.evaluate = None  # type: ignore[assignment, method-assign]
    StudyRunner(again, MemorySites(sessions)).run()
    after = json.loads((again.folder / "summary.json").read_text())
    assert after["arms"] == json.loads(before)["arms"]


def test_the_report_is_worked_out_again_from_the_record_alone(finished: RunFolder, tmp_path: Path) -> None:
    again = copied(finished, tmp_path)
    before = json.loads((again.folder / "summary.json").read_text())
    pictures = {file.name: file.read_bytes() for file in (again.folder / "figures").iterdir()}
    for name in ("summary.json", "report.html", "model-card.md", "checklists.md"):
        (again.folder / name).unlink()
    page = report_again(again.folder)
    after = json.loads((again.folder / "summary.json").read_text())
    assert {**after, "timing": {}} == {**before, "timing": {}}
    assert {file.name: file.read_bytes() for file in (again.folder / "figures").iterdir()} == pictures
    assert page.read_text() == (finished.folder / "report.html").read_text().replace(page_times(finished), "")
    assert report_again(again.folder).read_text() == page.read_text()
    assert faults_of(again) == ()


def page_times(run: RunFolder) -> str:
    page = (run.folder / "report.html").read_text()
    return page[page.index("<h3>Time</h3>") : page.index("<h3>Digests")]


def test_a_report_is_worked_out_from_a_record_that_holds_only(finished: RunFolder, tmp_path: Path) -> None:
    altered = copied(finished, tmp_path / "a")
    altered.ledger.write_text(altered.ledger.read_text().replace('"auc": 0.', '"auc": 1.', 1))
    with pytest.raises(StorageError, match="has been altered"):
        report_again(altered.folder)
    untested = copied(finished, tmp_path / "b")
    untested.tests_of("full").unlink()
    with pytest.raises(StorageError, match="has not been tested"):
        report_again(untested.folder)


def test_a_run_of_an_earlier_version_is_still_reported(finished: RunFolder, tmp_path: Path) -> None:
    old = copied(finished, tmp_path)
    records = [RoundRecord.model_validate(r) for r in read_records(old.ledger)]
    for file in (old.ledger, old.ledger.with_name("ledger.jsonl.head")):
        file.unlink()
    chain = Chain(old.ledger, "the record of rounds", "x")
    for record in records:
        chain.append(record.model_dump(mode="json", exclude={"cards": True, "validation": {"counts"}}))
    for path in old.tests.iterdir():
        plain = json.loads(path.read_text())
        del plain["cards"]
        for fields in plain["replies"].values():
            fields["contract"] = 2
        path.write_text(json.dumps(plain))
    before = json.loads((old.folder / "summary.json").read_text())
    del before["data"]["outcome"]
    (old.folder / "summary.json").write_text(json.dumps(before))
    report_again(old.folder)
    after = json.loads((old.folder / "summary.json").read_text())
    assert after["data"]["split"] == before["data"]["split"]
    assert after["arms"]["full"]["external"] == before["arms"]["full"]["external"]
    assert "validation" not in after["arms"]["full"]


def test_validation_counts_and_cards_are_in_the_ledger(finished: RunFolder) -> None:
    rounds = Ledger(finished.ledger).read()
    chosen = [r for r in rounds if (r.arm, r.stage) == ("full", "finetune") and r.best][-1]
    assert chosen.validation is not None
    assert set(chosen.validation.counts) == {"Alma", "Berg", "Cork"}
    assert chosen.validation.histogram.positives == 3
    assert chosen.validation.histogram.negatives == 4
    cards = cards_of(rounds, "full")
    assert set(cards) == set(SITES)
    assert sum(cards["Alma"].patients.values()) == 10
    # Written once for each arm, not in every round.
    assert [bool(r.cards) for r in rounds if r.arm == "full"] == [True, False, False, False]


def test_patients_and_validation_are_in_the_report(finished: RunFolder) -> None:
    summary = json.loads((finished.folder / "summary.json").read_text())
    full = summary["arms"]["full"]["validation"]
    assert (full["n"], full["n_pos"]) == (7, 3)
    assert sum(point["n"] for point in full["calibration"]) == 7
    assert summary["data"]["funnel"]["Alma"] == {"found": 10, "used": 10, "set_aside": {}}
    page = (finished.folder / "report.html").read_text()
    assert "Calibration, validation patients" in page
    assert "found" in page
    assert all("cards" not in record for record in summary["rounds"])


def test_a_whole_record_is_proved_whole(finished: RunFolder) -> None:
    assert faults_of(finished) == ()


def test_what_was_altered_is_found(finished: RunFolder, tmp_path: Path) -> None:
    ledger = copied(finished, tmp_path / "ledger")
    ledger.ledger.write_text(ledger.ledger.read_text().replace('"patients": 4', '"patients": 3', 1))
    assert "has been altered" in faults_of(ledger)[0]

    report = copied(finished, tmp_path / "report")
    path = report.folder / "summary.json"
    digests = json.loads(path.read_text())["digests"]
    path.write_text(path.read_text().replace(digests["weights.full"], "0" * 64))
    assert "are not the outcome of any round" in faults_of(report)[0]

    weights = copied(finished, tmp_path / "weights")
    kept = sorted(weights.checkpoints.glob("full/*.safetensors"))
    others = sorted(weights.checkpoints.glob("no-pretraining/*.safetensors"))
    shutil.copyfile(others[0], kept[0])
    assert faults_of(weights)

    study = copied(finished, tmp_path / "study")
    text = (study.folder / "study.yaml").read_text()
    (study.folder / "study.yaml").write_text(text.replace("seed: 0", "seed: 3"))
    with pytest.raises(StorageError, match="changed after it was submitted"):
        faults_of(study)


def test_a_run_below_its_quorum_ends_with_a_reason_and_is_told(tmp_path: Path) -> None:
    sessions = open_sessions(tmp_path / "hospitals", STUDY, {"Alma": CENTRES["Alma"]})
    run = RunFolder.create(tmp_path / "runs", STUDY, SITES)
    with pytest.raises(RoundError, match="1 of 4 sites can take part"):
        StudyRunner(run, MemorySites(sessions)).run()
    kinds = [event.kind for event in Journal(run.folder / "progress.jsonl").new_events()]
    assert kinds[0] == "plan"


def test_a_study_without_an_arm_for_real_hospitals_is_refused() -> None:
    with pytest.raises(ConfigError, match="no arm can run in real hospitals"):
        arms_at_sites(tiny_study(evaluation={"arms": ["afp"]}), SITES)


def test_an_arm_whose_stages_are_at_different_places_is_left_to_the_simulation() -> None:
    arms = ["full", "pretrained-at:Alma", "finetuned-at:Alma"]
    kept, notes = arms_at_sites(tiny_study(evaluation={"arms": arms}), SITES)
    assert [plan.name for plan in kept] == ["full"]
    assert notes == tuple(f"arm {arm} is left out: it runs in the simulation only" for arm in arms[1:])


@pytest.mark.parametrize("content", ["", "{", '{"replies": {}}', '{"replies": {"A": {}}, "left_out": {}}'])
def test_a_damaged_file_of_tests_is_refused_with_a_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "full.json").write_text(content)
    with pytest.raises(StorageError, match="Remove it: the sites are asked again"):
        SiteTests.load(tmp_path / "full.json")
