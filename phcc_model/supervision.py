"""Keeps a machine's programs running: starts them, restarts them when they end, stops them together.

One supervisor serves one folder and says in it how things are (`supervised`); every program writes to a log of
its own. Programs that an earlier supervisor left behind (it was killed, say) are found by their mark (`marked`),
and stopped before their successors start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from phcc_model.errors import StorageError
from phcc_model.marked import GRACE_S, MARK, stop_marked
from phcc_model.supervised import STATUS, TICK_S, ProgramStatus, Status, is_locked, locked, read_status

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
STEADY_S = 60.0
"""A program that ran so long is well: its next pause is the shortest again."""
LARGEST_LOG = 20 * 2**20


@dataclass(frozen=True)
class Program:
    """One program to keep running.

    Attributes:
        name: for its log (``logs/<name>.log``) and the status.
        command: program and arguments.
        environment: in place of the supervisor's own; the mark is added.
        longest_pause_s: between two starts, at most.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    longest_pause_s: float = LONGEST_PAUSE_S


@dataclass
class _Running:
    """A program's process and what happened to it."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    due: float = 0.0
    pause: float = FIRST_PAUSE_S
    restarts: int = -1
    last_exit: int | None = None
    log: IO[bytes] | None = field(default=None, repr=False)

    @property
    def status(self) -> ProgramStatus:
        pid = self.process.pid if self.process is not None else None
        return ProgramStatus(self.program.name, pid, self.since, max(self.restarts, 0), self.last_exit)


class Supervisor:
    """Runs programs until it is told to stop.

    Args:
        folder: the supervisor's own; its lock, its status and ``logs/`` stand in it.
        programs: started in this order, stopped in the reverse one.
        tick: called every quarter of a second, for whoever has a little to do besides.
    """

    def __init__(
        self, folder: Path, programs: Sequence[Program], tick: Callable[[], None] | None = None
    ) -> None:
        self.folder = folder
        self._running = [_Running(program) for program in programs]
        self._tick = tick
        self._stopping = False
        self._started = time.time()
        self._written = ""

    def run(self) -> None:
        """Keep the programs running until SIGTERM or SIGINT.

        Raises:
            StorageError: another supervisor serves this folder, or the folder cannot be written.
        """
        with locked(self.folder):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            stop_marked(self.folder)
            try:
                while not self._stopping:
                    for running in self._running:
                        self._look_after(running)
                    self._write_status()
                    if self._tick is not None:
                        self._tick()
                    time.sleep(TICK_S)
            finally:
                self._stop_all()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _look_after(self, running: _Running) -> None:
        now = time.time()
        if running.process is not None:
            if (code := running.process.poll()) is None:
                _shorten(running.log)
                return
            steady = now - running.since > STEADY_S
            running.pause = FIRST_PAUSE_S if steady else running.pause
            running.due = now + running.pause
            running.pause = min(running.pause * 2, running.program.longest_pause_s)
            running.process, running.last_exit, running.since = None, code, now
            return
        if now >= running.due and not self._stopping:
            self._start(running)

    def _start(self, running: _Running) -> None:
        program = running.program
        log = self.folder / "logs" / f"{program.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        if running.log is None:
            running.log = log.open("ab")
        running.since = time.time()
        running.restarts += 1
        try:
            running.process = subprocess.Popen(  # noqa: S603 - a command of our own
                list(program.command),
                cwd=self.folder,
                env={**program.environment, MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=running.log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            running.log.write(f"{program.command[0]} cannot be started: {error.strerror}\n".encode())
            running.log.flush()
            running.due = running.since + running.program.longest_pause_s

    def _write_status(self) -> None:
        status = Status(os.getpid(), self._started, tuple(running.status for running in self._running))
        text = status.to_json()
        if text != self._written:
            # A full disk must not end the supervisor: it says nothing new until there is room again.
            with contextlib.suppress(OSError):
                part = self.folder / f".{STATUS}.part"
                part.write_text(text, encoding="utf-8")
                part.replace(self.folder / STATUS)
                self._written = text

    def _stop_all(self) -> None:
        for running in reversed(self._running):
            if running.process is not None:
                _end(running.process)
            if running.log is not None:
                running.log.close()
        stop_marked(self.folder)
        (self.folder / STATUS).unlink(missing_ok=True)


def start_detached(folder: Path, command: Sequence[str], patience_s: float = 30.0) -> Status:
    """Start a supervisor as a process of its own that outlives this one.

    Args:
        folder: the supervisor's.
        command: a program that calls `Supervisor.run` for this folder.
        patience_s: for its first status.

    Raises:
        StorageError: one is running already, or this one ended at once; its log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_locked(folder):
        raise StorageError("is running already", where=str(folder), remedy="Stop it first")
    log = folder / "logs" / "supervisor.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - a command of our own
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        status = read_status(folder)
        if status is not None and status.pid == process.pid and all(p.since for p in status.programs):
            process.returncode = 0  # it is on its own now, and Python would warn of a child left behind
            return status
        if process.poll() is not None:
            break
        time.sleep(TICK_S)
    last = (log.read_text(encoding="utf-8", errors="replace").strip() or "no output").splitlines()[-1]
    raise StorageError(f"did not start ({last})", where=str(folder), remedy=f"Read {log}")


def stop_detached(folder: Path, patience_s: float = 60.0) -> bool:
    """Stop the supervisor of a folder and all that it started; False where nothing was running.

    Raises:
        StorageError: it does not end.
    """
    status = read_status(folder)
    if status is None:
        return stop_marked(folder) > 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(status.pid, signal.SIGTERM)
    end = time.monotonic() + patience_s
    while is_locked(folder):
        if time.monotonic() > end:
            raise StorageError("does not end", where=str(folder), remedy=f"Kill process {status.pid}")
        time.sleep(TICK_S)
    return True


def program_path(name: str) -> str:
    """The program that was installed beside this Python, or the one on the PATH.

    Raises:
        StorageError: there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise StorageError("is not installed", where=name, remedy=f"Install {name} and try again")
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to stop, then make it."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _shorten(log: IO[bytes] | None) -> None:
    """Move a log that has grown too long aside; its writers append, so it can be emptied under them."""
    if log is None:
        return
    with contextlib.suppress(OSError):
        path = Path(log.name)
        if path.stat().st_size > LARGEST_LOG:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            os.truncate(path, 0)
