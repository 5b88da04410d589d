"""Following a run that Flower carries out: what the journal tells, and what Flower says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from phcc_model.errors import RoundError
from phcc_server.journal import Journal
from phcc_simulation import launcher


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(launcher, "SILENCE_SECONDS", 0.0)


@pytest.mark.usefixtures("quick")
def test_a_study_that_ends_while_flower_is_asked_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended_meanwhile(_run: str, _environment: Mapping[str, str]) -> str:
        Journal(tmp_path / "journal").write("done")
        return "finished:completed"

    monkeypatch.setattr(launcher, "_status", ended_meanwhile)
    events = launcher._follow("1", Journal(tmp_path / "journal"), tmp_path, {})
    assert [event.kind for event in events] == ["done"]


@pytest.mark.usefixtures("quick")
def test_a_run_that_flower_ended_and_the_study_did_not_is_an_error_that_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(("running", "unknown", "finished:failed"))
    monkeypatch.setattr(launcher, "_status", lambda *_: next(asked))
    with pytest.raises(RoundError, match=r"finished:failed\) before the study was done.*superlink\.log"):
        list(launcher._follow("1", Journal(tmp_path / "journal"), tmp_path, {}))
    assert next(asked, None) is None
