"""A run on disk: who wrote what, how it stands, and what a damaged or altered file leads to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from builders import tiny_study
from hypothesis import given
from hypothesis import strategies as st

from phcc_model.errors import ConfigError, RoundError, StorageError
from phcc_server import run_folder
from phcc_server.run_folder import RunFolder

STUDY = tiny_study()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, STUDY, ["Alma", "Berg"])


def test_runs_are_named_after_their_study_and_found_again(tmp_path: Path, run: RunFolder) -> None:
    second = RunFolder.create(tmp_path, STUDY, ["Alma"])
    assert [r.name for r in RunFolder.all(tmp_path)] == [run.name, second.name] == ["tiny-1", "tiny-2"]
    found = RunFolder.open(tmp_path, "tiny-1")
    assert found.study == STUDY
    assert found.request.sites == ("Alma", "Berg")


def test_the_state_follows_what_was_written(run: RunFolder) -> None:
    assert run.state == "waiting"
    run.tried(17)
    assert (run.state, run.attempts[-1].number) == ("running", 17)
    run.ask_to_go_on(False)
    assert run.state == "stopped"
    run.ask_to_go_on(True)
    run.conclude("failed", "too few sites")
    assert run.state == "failed"
    run.ask_to_go_on(True)  # a failed run that is to go on is tried again
    assert run.state == "running"
    run.conclude("finished", "done")
    with pytest.raises(RoundError, match="is finished"):
        run.ask_to_go_on(True)


@given(st.text(max_size=40))
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no run"):
        RunFolder.open(Path("/nowhere"), name)


def test_a_study_that_was_changed_after_it_was_submitted_is_not_run(run: RunFolder) -> None:
    path = run.folder / "study.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(StorageError, match="changed after it was submitted"):
        _ = run.study


def test_an_attempt_that_a_crash_cut_short_is_left_out(run: RunFolder) -> None:
    run.tried(1)
    with (run.folder / "attempts.jsonl").open("a") as file:
        file.write('{"number": 2, "sta')
    assert [attempt.number for attempt in run.attempts] == [1]
    (run.folder / "verdict.json").write_text("{")
    assert run.verdict is None


def test_one_attempt_at_a_time(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "HELD_S", 0.2)
    let_go = threading.Event()

    def hold() -> None:
        with run.held():
            let_go.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    time.sleep(0.1)
    with pytest.raises(RoundError, match="another attempt"), RunFolder(run.folder).held():
        pass
    let_go.set()
    thread.join()
    with RunFolder(run.folder).held():
        pass
