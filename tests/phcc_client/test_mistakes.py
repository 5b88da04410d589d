"""A hospital's own surest mistakes: kept where an order is carried out, ranked, shown, and never sent."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import Centre, evaluate_order, tiny_study, write_centre
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from phcc_client.cli import app
from phcc_client.desk import Desk
from phcc_client.home import ClientSettings, Home
from phcc_client.kept_scores import FORMAT, KeptScore, KeptScores
from phcc_client.mistakes import auc_line, look
from phcc_client.policy import Policy
from phcc_client.preparations import open_prepared, preparation_folder
from phcc_client.session import Session
from phcc_client.worker import Worker
from phcc_model.arms import arm_study
from phcc_model.build import first_weights
from phcc_model.cases import CaseSet
from phcc_model.checkpoint import state_digest
from phcc_model.command_line import run_program
from phcc_model.contract import keys
from phcc_model.contract.enrolment import StudyCard
from phcc_model.contract.messages import EvaluateOrder, EvaluateReply
from phcc_model.errors import DatasetError, StorageError
from phcc_model.study_file import dump_study

STUDY = tiny_study(name="liver", evaluation={"arms": ["full", "uniform", "phase:*"]})
ALMA = Centre((1, 0, 1, 0), (1, 0), (0, 1, (1, 1), 0, -1, 0))
TEST = evaluate_order(STUDY, keys.FINETUNE, "Alma", keys.TEST)
SECRET = "Alma-test-"
"""How every patient and case of the test is named here."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Alma's home, its cases prepared and the study approved."""
    settings = ClientSettings(
        hospital="Alma", server="localhost:1", minimum_count=1, heartbeat_s=0.2, threads=1
    )
    made = Home.make(tmp_path / "home", settings)
    write_centre(tmp_path, STUDY, "Alma", ALMA)
    made.site.rmdir()
    made.site.symlink_to(tmp_path / "sites" / "Alma")
    policy = Policy(made.folder)
    policy.see(dump_study(STUDY))
    policy.decide(STUDY.digest, "approved")
    return made


def carried_out(home: Home, order: EvaluateOrder = TEST) -> EvaluateReply:
    """The order, through the desk, the spool and the worker, as a hospital's."""
    desk = Desk(home)
    desk.evaluate(order)
    Worker(home).work()
    reply = desk.evaluate(order)
    assert isinstance(reply, EvaluateReply)
    return reply


class Command:
    """``phcc-client mistakes`` as its user types it."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._capsys, self.code = home, capsys, 0

    def __call__(self, *words: str) -> str:
        self.code = run_program(app, ["mistakes", *words, "--home", str(self._home.folder)])
        said = self._capsys.readouterr()
        return " ".join((said.out + said.err).split())


@pytest.fixture
def mistakes(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    return Command(home, capsys)


def kept_file(home: Home, arm: str = "full") -> Path:
    return home.scores / STUDY.digest[:16] / f"{arm}.csv"


def test_the_worker_keeps_each_labelled_test_case_by_the_models_score(home: Home) -> None:
    reply = carried_out(home)
    kept = KeptScores(home.scores).read(STUDY.digest, "full")
    cases = open_prepared(home.site, STUDY, "Alma", STUDY).load("test").labelled
    assert [(one.case, one.patient, one.label) for one in kept] == sorted(
        zip(cases.case, cases.patient, cases.label_n.tolist(), strict=True)
    )
    # The counts that left are of the very scores that stayed.
    bins = np.zeros((2, len(reply.positives)), int)
    for one in kept:
        bins[one.label, int(one.score * len(reply.positives))] += 1
    assert [reply.negatives, reply.positives] == bins.tolist()
    scored = {(one.split, one.round, one.weights) for one in kept}
    assert scored == {("test", 0, state_digest(first_weights(STUDY, keys.FINETUNE)))}


def test_the_same_order_keeps_the_same_bytes_for_its_owner_only(home: Home) -> None:
    carried_out(home)
    file = kept_file(home)
    first = file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.scores.stat().st_mode) == 0o700
    file.unlink()
    Session(home.site, "Alma", scores=KeptScores(home.scores)).evaluate(TEST)
    assert file.read_bytes() == first


def test_no_score_and_no_pseudonym_is_in_what_leaves(home: Home) -> None:
    reply = carried_out(home)
    kept = KeptScores(home.scores).read(STUDY.digest, "full")
    sent = json.dumps(reply.to_fields()).encode()
    spooled = b"".join(file.read_bytes() for file in home.spool.rglob("reply.safetensors"))
    assert not reply.arrays
    assert b"EvaluateReply" in spooled
    for what in (sent, spooled, home.outbox.read_bytes()):
        assert SECRET.encode() not in what
        for one in kept:
            assert f"{one.score:.6f}"[:-1].encode() not in what
            for kind in ("<d", "<f"):
                assert struct.pack(kind, one.score) not in what


def test_validation_pretraining_and_a_simulations_session_keep_nothing(home: Home, tmp_path: Path) -> None:
    carried_out(home, evaluate_order(STUDY, keys.FINETUNE, "Alma"))
    carried_out(home, evaluate_order(STUDY, keys.PRETRAIN, "Alma", keys.TEST))
    before = sorted(tmp_path.rglob("*"))
    Session(home.site, "Alma").evaluate(TEST)
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(home.scores.iterdir())


def test_a_full_disk_loses_the_scores_and_not_the_test(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("no space left on the disk")

    monkeypatch.setattr("phcc_client.kept_scores.write_atomically", full)
    assert carried_out(home).cases == 6
    assert "no space left" in (home.folder / "machine_notes.jsonl").read_text()


def test_an_arms_name_makes_no_folder(tmp_path: Path) -> None:
    kept = KeptScores(tmp_path / "scores")
    cases = open_cases(tmp_path)
    for arm in ("../../x", "phase:arterial", "full+labels-25", "..", "a%2Fb"):
        kept.keep(dataclasses.replace(TEST, arm=arm), "0" * 64, cases, np.full(len(cases), 0.5))
        assert {one.arm for one in kept.read(STUDY.digest, arm)} == {arm}
    assert {file.parent.name for file in tmp_path.rglob("*.csv")} == {STUDY.digest[:16]}
    assert "../../x" in kept.arms(STUDY.digest)


def open_cases(folder: Path) -> CaseSet:
    site = write_centre(folder, STUDY, "Alma", ALMA)
    return open_prepared(site, STUDY, "Alma", STUDY).load("test").labelled


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.splitlines()[0] + "\n",
        lambda text: text.replace(f"{FORMAT},", f"{FORMAT + 1},", 1),
        lambda text: text[:-20],
        lambda text: text.replace("full", "uniform"),
        lambda text: text.replace("score", "points"),
        lambda text: text + '"\x00',
    ],
)
def test_a_damaged_or_later_file_is_refused_in_a_line(home: Home, damage: Callable[[str], str]) -> None:
    carried_out(home)
    file = kept_file(home)
    file.write_text(damage(file.read_text()))
    with pytest.raises(StorageError, match="is damaged, or not what this version wrote"):
        KeptScores(home.scores).read(STUDY.digest, "full")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="is damaged"):
        KeptScores(home.scores).read(STUDY.digest, "full")


def scored(label: int, score: float, number: int = 0) -> KeptScore:
    return KeptScore(
        format=FORMAT,
        study="1" * 64,
        arm="full",
        split="test",
        round=3,
        weights="2" * 64,
        case=f"c{number:03d}",
        patient=f"p{number:03d}",
        label=label,
        score=score,
    )


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0.0, 1.0)), min_size=1, max_size=30),
    st.floats(0.0, 1.0),
    st.integers(1, 40),
)
def test_the_surest_come_first_and_only_the_wrong_ones(
    drawn: list[tuple[int, float]], threshold: float, most: int
) -> None:
    cases = [scored(label, score, number) for number, (label, score) in enumerate(drawn)]
    seen = look(cases, threshold, most)
    wrong = {one.case for one in cases if (one.score >= threshold) != bool(one.label)}
    assert seen.wrong == len(wrong)
    named = [one.scored.case for one in seen.mistakes]
    assert len(named) == len(set(named)) == min(most, len(wrong))
    assert set(named) <= wrong
    sure = [one.sureness for one in seen.mistakes]
    assert sure == sorted(sure, reverse=True)
    assert all(0.0 <= one <= 1.0 for one in sure)
    assert [one.rank for one in seen.mistakes] == list(range(1, len(named) + 1))
    assert look(cases[::-1], threshold, most).mistakes == seen.mistakes


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=30))
def test_without_a_threshold_the_farthest_from_a_half_is_the_surest(drawn: list[tuple[int, int]]) -> None:
    cases = [scored(label, step / 20, number) for number, (label, step) in enumerate(drawn)]
    far = [round(abs(one.scored.score - 0.5), 9) for one in look(cases, 0.5, 40).mistakes]
    assert far == sorted(far, reverse=True)


def test_the_auc_is_this_hospitals_or_says_why_there_is_none() -> None:
    drawn = np.random.default_rng(0)
    label = drawn.integers(0, 2, 60)
    score = np.clip(0.4 + 0.2 * label + drawn.normal(0, 0.2, 60), 0, 1)
    pairs = enumerate(zip(label, score, strict=True))
    seen = look([scored(int(y), float(s), n) for n, (y, s) in pairs], 0.5, 5)
    assert seen.auc.auc == pytest.approx(roc_auc_score(label, score))
    assert re.match(r"AUC 0\.\d{3} \(95 % interval 0\.\d{3} to [01]\.\d{3}, DeLong\)", auc_line(seen))
    alone = look([scored(1, 0.2, n) for n in range(4)], 0.5, 5)
    assert auc_line(alone) == "AUC not defined: one class only: all 4 cases are positive"


def test_the_command_names_them_and_the_page_shows_them(
    home: Home, mistakes: Command, tmp_path: Path
) -> None:
    carried_out(home)
    kept = KeptScores(home.scores).read(STUDY.digest, "full")
    wrong = sorted(
        (one for one in kept if (one.score >= 0.5) != (one.label == 1)), key=lambda one: -abs(one.score - 0.5)
    )
    assert wrong
    page = tmp_path / "out" / "mistakes.html"
    said = mistakes("liver", "--out", str(page))
    assert mistakes.code == 0
    assert "Research use only; stays at this hospital" in said
    assert "6 cases of 5 patients, 3 positive" in said
    assert re.search(r"AUC [01]\.\d{3} \(95 % interval", said)
    assert "synthetic AUC" in said
    assert "synthetic probability" in said
    assert "only 2 positive patients: too few to say anything" in said
    assert "An order carries no threshold" in said
    assert said.index(wrong[0].case) < said.index(wrong[-1].case)
    assert f"{wrong[0].score:.3f}" in said
    text = page.read_text(encoding="utf-8")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert text.count("data:image/png;base64,") == len(wrong)
    assert all(one.case in text for one in wrong)
    assert "Research use only; stays at this hospital" in text
    assert text.count("synthetic probability") == len(wrong)
    assert "<script" not in text
    assert not re.search(r"(src|href)=.https?:", text)
    for png in re.findall(r"base64,([A-Za-z0-9+/=]+)", text):
        assert base64.b64decode(png).startswith(b"\x89PNG")
    first = page.read_bytes()
    mistakes("liver", "--out", str(page))
    assert page.read_bytes() == first
    mistakes("liver", "--most", "1", "--threshold", "0.9", "--out", str(page))
    assert page.read_text(encoding="utf-8").count("data:image/png") == 1
    assert "that you named" in page.read_text(encoding="utf-8")


def test_a_withdrawn_studys_scores_are_still_this_hospitals(home: Home, mistakes: Command) -> None:
    carried_out(home)
    Policy(home.folder).decide(STUDY.digest, "withdrawn")
    assert "probability" in mistakes(STUDY.digest[:8])
    assert mistakes.code == 0


def test_images_that_are_gone_leave_the_table_and_say_so(
    home: Home, mistakes: Command, tmp_path: Path
) -> None:
    carried_out(home)
    for file in (tmp_path / "sites").rglob("site.json"):
        file.unlink()
    page = tmp_path / "mistakes.html"
    assert "probability" in mistakes("liver", "--out", str(page))
    assert mistakes.code == 0
    assert "No picture: " in page.read_text(encoding="utf-8")
    assert "data:image" not in page.read_text(encoding="utf-8")


def test_every_error_is_a_line_with_a_remedy(home: Home, mistakes: Command) -> None:
    said = mistakes("nothing")
    assert (mistakes.code, said.count("error:")) == (1, 1)
    assert "phcc-client studies lists them" in said
    said = mistakes("liver")
    assert mistakes.code == 1
    assert "error: arm full: has not been tested at this hospital yet" in said
    assert "phcc-client outbox" in said
    carried_out(home)
    said = mistakes("liver", "--arm", "uniform")
    assert mistakes.code == 1
    assert "Tested here: full; name one with --arm" in said
    said = mistakes("liver", "--threshold", "nan")
    assert (mistakes.code, said.count("error:")) == (1, 1)
    assert "threshold: must lie between 0 and 1" in said


def test_a_study_of_which_only_the_card_is_left_is_asked_for(home: Home, mistakes: Command) -> None:
    carried_out(home)
    for file in home.studies.glob("*.yaml"):
        file.unlink()
    card = StudyCard(name="liver", digest=STUDY.digest, purpose="Find it")
    Policy(home.folder).see_cards((card,))
    said = mistakes("liver")
    assert mistakes.code == 1
    assert "study liver: only its card is here" in said
    assert "phcc-client show FILE" in said


def test_a_model_without_a_mistake_is_said_to_have_none(
    home: Home, mistakes: Command, tmp_path: Path
) -> None:
    cases = open_cases(tmp_path)
    KeptScores(home.scores).keep(TEST, "0" * 64, cases, cases.label_n.astype(np.float64))
    page = tmp_path / "mistakes.html"
    said = mistakes("liver", "--out", str(page))
    assert "0 on the wrong side of 0.5" in said
    assert "Newcombe: DeLong's variance is zero" in said
    assert "No test case is on the wrong side" in page.read_text(encoding="utf-8")
    assert "data:image" not in page.read_text(encoding="utf-8")


def test_of_two_variants_the_tested_one_is_meant(home: Home, mistakes: Command) -> None:
    carried_out(home)
    variant = tiny_study(name="liver", seed=9)
    policy = Policy(home.folder)
    policy.see(dump_study(variant))
    assert STUDY.digest[:12] in mistakes("liver")
    assert mistakes.code == 0
    order = dataclasses.replace(TEST, study_digest=variant.digest)
    KeptScores(home.scores).keep(order, "0" * 64, open_cases(home.folder.parent), np.full(6, 0.5))
    said = mistakes("liver")
    assert mistakes.code == 1
    assert variant.digest[:12] in said
    assert "Name one by its digest" in said


def test_a_home_of_an_earlier_version_gets_its_folder_and_says_that_nothing_was_kept(
    home: Home, mistakes: Command
) -> None:
    home.scores.rmdir()
    with pytest.raises(DatasetError, match="has not been tested"):
        KeptScores(home.scores).read(STUDY.digest, "full")
    assert "has not been tested" in mistakes("liver")
    assert stat.S_IMODE(home.scores.stat().st_mode) == 0o700


def test_an_arm_of_one_phase_is_shown_with_that_phase(home: Home, mistakes: Command, tmp_path: Path) -> None:
    arm = "phase:arterial"
    single = arm_study(STUDY, arm)
    prepared = preparation_folder(write_centre(tmp_path / "single", single, "Alma", ALMA), single, "Alma")
    preparation_folder(home.site, single, "Alma", STUDY).symlink_to(prepared)
    order = evaluate_order(single, keys.FINETUNE, "Alma", keys.TEST)
    carried_out(home, dataclasses.replace(order, study_digest=STUDY.digest, study=dump_study(STUDY), arm=arm))
    page = tmp_path / "mistakes.html"
    assert "liver" in mistakes("liver", "--arm", arm, "--out", str(page))
    assert mistakes.code == 0
    width, height = size_of(page)
    carried_out(home)
    mistakes("liver", "--out", str(page))
    assert size_of(page)[0] == 2 * width
    assert size_of(page)[1] == height


def size_of(page: Path) -> tuple[int, int]:
    """Of the first picture, in pixels."""
    found = re.search(r"base64,([A-Za-z0-9+/=]+)", page.read_text(encoding="utf-8"))
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        return picture.size


def test_help_gives_an_example(mistakes: Command) -> None:
    assert "Example: phcc-client mistakes hospital" in mistakes("--help")
    assert mistakes.code == 0
