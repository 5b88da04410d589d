"""Real processes under a real supervisor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from phcc_model.errors import StorageError
from phcc_model.marked import _bears_mark, stop_marked
from phcc_model.supervised import Status, is_locked, read_status
from phcc_model.supervision import start_detached, stop_detached

SERVE = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
from phcc_model.supervision import Program, Supervisor
folder = Path(sys.argv[1])
sleeper = Program("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
failing = Program("failing", [sys.executable, "-c", "raise SystemExit(7)"], dict(os.environ), 1.0)
Supervisor(folder, [sleeper, failing]).run()
"""


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """A zombie that nobody has collected yet does not count."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pid_of(folder: Path, name: str) -> int | None:
    status = read_status(folder)
    assert status is not None
    return {program.name: program.pid for program in status.programs}[name]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Status]]:
    folder = tmp_path / "served"
    yield folder, start_detached(folder, [sys.executable, "-c", SERVE, str(folder)])
    stop_detached(folder)


@pytest.mark.process
def test_a_killed_program_is_started_again_and_a_failing_one_is_tried_again(
    served: tuple[Path, Status],
) -> None:
    folder, _ = served
    first = pid_of(folder, "sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: pid_of(folder, "sleeper") not in (None, first))
    status = read_status(folder)
    assert status is not None
    sleeper, failing = status.programs
    assert (sleeper.restarts, sleeper.last_exit) == (1, -signal.SIGKILL)
    until(lambda: read_status(folder).programs[1].restarts >= 2)  # type: ignore[union-attr]
    assert failing.last_exit in (7, None)


@pytest.mark.process
def test_a_second_supervisor_is_refused_and_the_first_goes_on(served: tuple[Path, Status]) -> None:
    folder, status = served
    with pytest.raises(StorageError, match="is running already"):
        start_detached(folder, [sys.executable, "-c", SERVE, str(folder)])
    assert read_status(folder) is not None
    assert alive(status.pid)


@pytest.mark.process
def test_what_a_killed_supervisor_left_behind_is_stopped_by_the_next(served: tuple[Path, Status]) -> None:
    folder, status = served
    orphan = pid_of(folder, "sleeper")
    assert orphan is not None
    os.kill(status.pid, signal.SIGKILL)
    until(lambda: not is_locked(folder))
    assert read_status(folder) is None
    assert alive(orphan)
    start_detached(folder, [sys.executable, "-c", SERVE, str(folder)])
    assert not alive(orphan)
    assert pid_of(folder, "sleeper") not in (None, orphan)


@pytest.mark.process
def test_stopping_stops_everything_and_says_whether_there_was_anything(served: tuple[Path, Status]) -> None:
    folder, _ = served
    sleeper = pid_of(folder, "sleeper")
    assert stop_detached(folder)
    assert sleeper is not None
    assert not alive(sleeper)
    assert not stop_detached(folder)
    assert stop_marked(folder) == 0


@pytest.mark.process
def test_one_that_ends_at_once_is_told_with_its_last_word(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"did not start \(no such thing\)"):
        start_detached(tmp_path, [sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_a_program_that_hides_its_environment_is_known_by_its_arguments(tmp_path: Path) -> None:
    """Flower's SuperExec hides its environment from everybody but root."""

    class Hidden:
        def __init__(self, words: list[str], user: int) -> None:
            self.words, self.user = words, user

        def environ(self) -> dict[str, str]:
            raise psutil.AccessDenied

        def cmdline(self) -> list[str]:
            return self.words

        def uids(self) -> SimpleNamespace:
            return SimpleNamespace(real=self.user)

    ours = ["flower-superexec", "--root-certificates", f"{tmp_path}/tls/ca.pem"]
    assert _bears_mark(Hidden(ours, os.getuid()), tmp_path)  # type: ignore[arg-type]
    assert not _bears_mark(Hidden(ours, os.getuid() + 1), tmp_path)  # type: ignore[arg-type]
    assert not _bears_mark(Hidden(["sleep", f"{tmp_path}-other/x"], os.getuid()), tmp_path)  # type: ignore[arg-type]
