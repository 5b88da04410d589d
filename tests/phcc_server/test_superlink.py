"""A SuperLink under its supervisor: it takes a new certificate up without the server being stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from phcc_model.errors import RoundError
from phcc_model.supervised import ProgramStatus, read_status
from phcc_model.supervision import Program, Supervisor
from phcc_server import certificates, superlink
from phcc_server.instance import Instance

PATIENCE_S = 120.0


def until(holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


@contextmanager
def supervised(instance: Instance, *programs: Program) -> Iterator[None]:
    """The programs under a supervisor of their own."""
    context = multiprocessing.get_context("spawn")
    supervisor = context.Process(target=Supervisor(instance.folder, programs).run)
    supervisor.start()
    try:
        until(lambda: read_status(instance.folder) is not None)
        yield
    finally:
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGTERM)
        supervisor.join(60)
        assert supervisor.exitcode == 0


def program_of(instance: Instance, name: str) -> ProgramStatus:
    status = read_status(instance.folder)
    assert status is not None
    return next(program for program in status.programs if program.name == name)


def serial(instance: Instance) -> str:
    return ssl.get_server_certificate((superlink.LOOPBACK, instance.settings.superlink_port), timeout=5)


def test_where_no_server_runs_nothing_is_started(instance: Instance) -> None:
    assert not superlink.restart(instance)


@pytest.mark.process
def test_a_new_certificate_is_taken_up_and_nothing_else_is_restarted(instance: Instance) -> None:
    link = superlink.programs(instance)[0]
    beside = Program("beside", ["sleep", "600"], dict(os.environ))
    with supervised(instance, link, beside):
        until(lambda: superlink._shows_its_certificate(instance))
        before, runs, other = (
            serial(instance),
            program_of(instance, "superlink"),
            program_of(instance, "beside"),
        )
        with superlink.Control(instance) as control:
            assert control.nodes() == ()
        certificates.renew(instance.tls, instance.settings.hosts, 30)
        assert serial(instance) == before  # this is why it has to be started anew
        assert superlink.restart(instance)
        assert serial(instance) == instance.server_pem.read_text() != before
        until(lambda: program_of(instance, "superlink").restarts == 1)
        assert program_of(instance, "superlink").pid != runs.pid
        assert program_of(instance, "beside") == other
        with superlink.Control(instance) as control:
            assert control.nodes() == ()


@pytest.mark.process
def test_one_that_does_not_end_is_killed_and_one_that_does_not_come_back_is_said(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(superlink, "GRACE_S", 1.0)
    monkeypatch.setattr(superlink, "RESTART_S", 3.0)
    ready = tmp_path / "ready"
    once = f"[ -e '{ready}' ] && exec sleep 600; trap '' TERM; echo > '{ready}'; while :; do sleep 1; done"
    with supervised(instance, Program(superlink.NAME, ["sh", "-c", once], dict(os.environ))):
        until(ready.exists)
        pid = program_of(instance, superlink.NAME).pid
        assert pid is not None
        with pytest.raises(RoundError, match=r"does not show the new certificate\. Look at phcc-server logs"):
            superlink.restart(instance)
        until(lambda: not psutil.pid_exists(pid))
        assert program_of(instance, superlink.NAME).last_exit == -signal.SIGKILL
