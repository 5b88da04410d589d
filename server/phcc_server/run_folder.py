"""One run on disk: who asked for it, how it was tried, how it ended.

::

    RUN/request.json     which sites, and whether it is to go on: written by people's commands
    RUN/study.yaml       the study as it was submitted
    RUN/attempts.jsonl   every time Flower was asked to run it: written by the keeper
    RUN/progress.jsonl   what happens: written by the coordinator's app
    RUN/ledger.jsonl     every round, hash-chained; RUN/checkpoints/ and RUN/tests/ what it gave
    RUN/verdict.json     how it ended; not there while it goes on

Each file has one writer, so that a crash of one leaves the words of the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, RoundError, StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_model.study_file import dump_study, load_study
from phcc_server.journal import Journal

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,80}")
HELD_S = 150.0
"""How long a new attempt waits for the one before it to let go: Flower needs a minute to end a lost one."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Request(_File):
    """What is asked for; `go_on` is the only thing that changes."""

    study_digest: str
    sites: tuple[Name, ...]
    submitted: AwareDatetime
    go_on: bool = True


class Attempt(_File):
    """One time that Flower was asked to run it; `number` is Flower's own."""

    number: int
    started: AwareDatetime


class Verdict(_File):
    """How a run ended."""

    state: Literal["finished", "failed"]
    text: str
    at: AwareDatetime


class RunFolder:
    """One run.

    Args:
        folder: of the run; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.ledger = folder / "ledger.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.tests = folder / "tests"

    @classmethod
    def create(cls, runs: Path, study: StudyConfig, sites: Sequence[str]) -> RunFolder:
        """Make the folder of a new run, named after its study.

        Raises:
            StorageError: it cannot be written.
        """
        number = 1
        while (folder := runs / f"{study.name}-{number}").exists():
            number += 1
        write_atomically(folder / "study.yaml", dump_study(study))
        run = cls(folder)
        run._save(Request(study_digest=study.digest, sites=tuple(sites), submitted=_now()))
        return run

    @classmethod
    def open(cls, runs: Path, name: str) -> RunFolder:
        """The run of this name.

        Raises:
            ConfigError: there is none.
        """
        folder = runs / name
        if not RUN_NAME.fullmatch(name) or not (folder / "request.json").is_file():
            known = ", ".join(run.name for run in cls.all(runs)) or "none yet"
            raise ConfigError(f"there is no run {name!r}", where=str(runs), remedy=f"Runs are: {known}")
        return cls(folder)

    @classmethod
    def all(cls, runs: Path) -> tuple[RunFolder, ...]:
        """Every run, the oldest first."""
        found = [path.parent for path in runs.glob("*/request.json") if RUN_NAME.fullmatch(path.parent.name)]
        return tuple(cls(folder) for folder in sorted(found, key=lambda f: (f.stat().st_ctime, f.name)))

    def tests_of(self, arm: str) -> Path:
        """Where it stands what the sites said of an arm's model on their test patients."""
        return self.tests / f"{re.sub(r'[^a-z0-9-]+', '-', arm)}.json"

    @property
    def request(self) -> Request:
        """What was asked for.

        Raises:
            StorageError: the file is damaged.
        """
        path = self.folder / "request.json"
        try:
            return Request.model_validate_json(path.read_bytes())
        except OSError as error:
            raise storage_error(path, error) from error
        except ValidationError as error:
            raise StorageError("is damaged", where=str(path), remedy="Restore it from a backup") from error

    @property
    def study(self) -> StudyConfig:
        """The study, if it is the one that was submitted.

        Raises:
            ConfigError: it is not valid.
            StorageError: it was changed after it was submitted.
        """
        study = load_study(self.folder / "study.yaml")
        if study.digest != self.request.study_digest:
            raise StorageError(
                "was changed after it was submitted",
                where=str(self.folder / "study.yaml"),
                remedy="Submit the changed study as a new run",
            )
        return study

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every time that Flower was asked to run it; a line that a crash cut short is left out."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValidationError):
                    found.append(Attempt.model_validate_json(line))
        return tuple(found)

    @property
    def verdict(self) -> Verdict | None:
        """How it ended; None while it goes on."""
        with contextlib.suppress(OSError, ValidationError):
            return Verdict.model_validate_json((self.folder / "verdict.json").read_bytes())
        return None

    @property
    def journal(self) -> Journal:
        """What happens in it."""
        return Journal(self.folder / "progress.jsonl")

    @property
    def state(self) -> str:
        """In a word: finished, failed, stopped, running, or waiting for its first attempt."""
        if (verdict := self.verdict) is not None:
            return verdict.state
        if not self.request.go_on:
            return "stopped"
        return "running" if self.attempts else "waiting"

    def ask_to_go_on(self, go_on: bool) -> None:
        """Let the keeper run it, or stop it. A failed run that is to go on is tried again.

        Raises:
            RoundError: it is finished.
            StorageError: it cannot be written.
        """
        verdict = self.verdict
        if verdict is not None and verdict.state == "finished":
            raise RoundError("this run is finished", where=self.name)
        self._save(self.request.model_copy(update={"go_on": go_on}))
        if go_on and verdict is not None:
            (self.folder / "verdict.json").unlink(missing_ok=True)

    def tried(self, number: int) -> None:
        """Note an attempt.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.folder / "attempts.jsonl"
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(Attempt(number=number, started=_now()).model_dump_json() + "\n")
        except OSError as error:
            raise storage_error(path, error) from error

    def conclude(self, state: Literal["finished", "failed"], text: str) -> None:
        """Write down how it ended.

        Raises:
            StorageError: it cannot be written.
        """
        verdict = Verdict(state=state, text=text, at=_now())
        write_atomically(self.folder / "verdict.json", verdict.model_dump_json(indent=1))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other attempts out; one that was lost may take a while to let go.

        Raises:
            RoundError: another attempt holds the run.
            StorageError: the folder cannot be written.
        """
        path = self.folder / "run.lock"
        try:
            file = path.open("ab")
        except OSError as error:
            raise storage_error(path, error) from error
        end = time.monotonic() + HELD_S
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        raise RoundError("another attempt holds this run", where=self.name) from error
                    time.sleep(0.5)
            yield

    def _save(self, request: Request) -> None:
        write_atomically(self.folder / "request.json", json.dumps(request.model_dump(mode="json"), indent=1))


def _now() -> datetime:
    return datetime.now(UTC)
