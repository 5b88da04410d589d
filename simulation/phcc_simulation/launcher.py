"""Starts Flower's simulation engine for one run, in private, and says truthfully how it ended.

A SuperLink of our own on a free loopback port, with a home of its own under the run's folder, so that two
checkouts never meet; `flwr run` submits a bundle that holds nothing but a pyproject; the run's journal tells
what happens and how it ended, and `flwr list` finds a run that died without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from phcc_model.errors import RoundError, StorageError
from phcc_model.machine import fast_environment
from phcc_server.bundle import README, bundle
from phcc_server.journal import Event, Journal

STARTUP_SECONDS = 60.0
POLL_SECONDS = 0.25
SILENCE_SECONDS = 20.0
"""Without an event for so long, Flower is asked whether the run is still alive."""

CONFIG = """\
study = ""
set = ""
out = ""
threads = 1
device = "cpu"
"""

CONNECTIONS = """\
[superlink]
default = "private"

[superlink.private]
address = "127.0.0.1:{port}"
insecure = true
"""


@dataclass(frozen=True)
class Launch:
    """What to run.

    Attributes:
        out: the run's folder; it holds ``study.yaml`` and the journal.
        nodes: virtual sites, one SuperNode each.
        clients_at_once: clients that train side by side.
        threads: threads of each client.
        device: of each client; a GPU is shared by the clients that train side by side.
    """

    out: Path
    nodes: int
    clients_at_once: int
    threads: int
    device: str = "cpu"


def launch(plan: Launch, journal: Journal) -> Iterator[Event]:
    """Run to the end, yielding the journal's events as they happen.

    Raises:
        RoundError: the run failed; the message is the run's own last word.
        StorageError: the run's folder cannot be written.
    """
    home = plan.out / "flower"
    folder = home / "bundle"
    try:
        shutil.rmtree(home, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(bundle("phcc_simulation", "phcc_simulation", CONFIG))
        (folder / "README.md").write_text(README)
    except OSError as error:
        raise StorageError(
            f"the run's folder cannot be written ({error.strerror})",
            where=str(plan.out),
            remedy="Free some space or choose another --out",
        ) from error
    port, control_port = _free_ports(2)
    (home / "config.toml").write_text(CONNECTIONS.format(port=port))
    environment = _environment(home, plan, port, control_port)
    with _superlink(home, port, control_port, environment):
        run_id = _submit(folder, plan, environment)
        yield from _follow(run_id, journal, home, environment)


def _environment(home: Path, plan: Launch, port: int, control_port: int) -> dict[str, str]:
    programs = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **fast_environment(plan.threads),
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control_port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def _superlink(home: Path, port: int, control_port: int, environment: Mapping[str, str]) -> Iterator[None]:
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--control-api-address",
        f"127.0.0.1:{control_port}",
    ]
    command += ["--database", str(home / "state.db"), "--disable-runtime-dependency-installation"]
    log_path = home / "superlink.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - a fixed command of our own
            [_program(command[0], environment), *command[1:]],
            cwd=home,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_healthy(process, port, log_path)
            yield
        finally:
            _stop_all(home)
            process.wait()


def _program(name: str, environment: Mapping[str, str]) -> str:
    found = shutil.which(name, path=environment["PATH"])
    if found is None:
        raise RoundError(f"{name} is not installed", remedy='Install with the "simulation" extra')
    return found


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise RoundError("Flower's SuperLink did not start", remedy=f"Read {log_path}")


def _stop_all(home: Path) -> None:
    """Stop everything that this run started.

    Flower and Ray put their processes into sessions of their own, so the process group does not reach them; what
    they all have is this run's FLWR_HOME in their environment.
    """
    for stop, patience in ((psutil.Process.terminate, 10.0), (psutil.Process.kill, 5.0)):
        running = _started_by(home)
        for process in running:
            with contextlib.suppress(psutil.Error):
                stop(process)
        _, alive = psutil.wait_procs(running, timeout=patience)
        if not alive and not _started_by(home):
            return


def _started_by(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("FLWR_HOME") == str(home):
                found.append(process)
    return found


def _flwr(arguments: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603 - a fixed command of our own
        [_program("flwr", environment), *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RoundError(f"flwr {arguments[0]} failed: {last}")
    return done.stdout


def _submit(folder: Path, plan: Launch, environment: Mapping[str, str]) -> str:
    cpus = max(1, (os.cpu_count() or 1) // plan.clients_at_once)
    gpus = 0.0 if plan.device == "cpu" else 1.0 / plan.clients_at_once
    federation = f"num-supernodes={plan.nodes} client-resources-num-cpus={cpus}"
    federation += f" client-resources-num-gpus={gpus}"
    study = json.dumps(str(plan.out / "study.yaml"))
    config = f"study={study} out={json.dumps(str(plan.out))} threads={plan.threads}"
    config += f" device={json.dumps(plan.device)}"
    arguments = ["run", str(folder), "private", "--federation-config", federation]
    answer = _json(_flwr([*arguments, "--run-config", config, "--format", "json"], environment))
    if not answer.get("run-id"):
        raise RoundError(f"Flower did not take the run ({answer.get('error-message', answer)})")
    return str(answer["run-id"])


def _follow(run_id: str, journal: Journal, home: Path, environment: Mapping[str, str]) -> Iterator[Event]:
    heard, ended = time.monotonic(), ""
    while True:
        for event in journal.new_events():
            heard = time.monotonic()
            yield event
            if event.kind == "done":
                return
            if event.kind == "failed":
                raise RoundError(str(event.fields["text"]).rstrip("."), remedy=f"Logs are in {home}")
        if ended:
            raise RoundError(f"Flower ended the run ({ended}) before the study was done",
                             remedy=f"Read {home / 'superlink.log'}")  # fmt: skip
        if time.monotonic() - heard > SILENCE_SECONDS:
            heard = time.monotonic()
            status = _status(run_id, environment)
            # What was written while Flower answered is read once more: the study may have ended meanwhile.
            ended = status if status.startswith("finished") else ""
        time.sleep(POLL_SECONDS)


def _status(run_id: str, environment: Mapping[str, str]) -> str:
    """The run's status as Flower tells it, such as ``running`` or ``finished:failed``.

    A busy machine may not answer in time; that says nothing about the run.
    """
    try:
        answer = _json(_flwr(["list", "private", "--run-id", run_id, "--format", "json"], environment))
    except (RoundError, subprocess.TimeoutExpired, ValueError):
        return "unknown"
    runs = answer.get("runs", [])
    return str(runs[0]["status"]) if runs else "unknown"


def _json(text: str) -> dict[str, Any]:
    """The JSON object in what a program printed; warnings may stand before it."""
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found
