"""The real thing on one machine: a coordinator and its hospitals, each run by its own commands."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from phcc_model.marked import MARK, stop_marked
from phcc_model.supervised import read_status
from phcc_model.supervision import stop_detached

PROGRAMS = Path(sys.executable).parent
PORTS = range(20_000, 32_000)
PATIENCE_S = 400
"""With one of our commands: ten times what it takes on an idle machine."""

STUDY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "source": "phantom",
        "crop": {"size": [6, 16, 16], "spacing_mm": [6.0, 4.8, 4.8]},
        "phantom": {"patients": 60, "external_patients": 12, "training_centres": 3},
        "centres": {"mode": "by-centre", "external": ["X1"]},
    },
    "model": {
        "size": "custom",
        "depths": [1, 1],
        "dims": [8, 16],
        "stem": [1, 2, 2],
        "downsample": [[2, 2, 2]],
        "kernel": [3, 3, 3],
        "decoder_width": 16,
        "classifier": {"width": 16},
    },
    "pretrain": {"rounds": 2, "local_epochs": 60},
    "finetune": {"rounds": 2, "local_epochs": 40},
    "federation": {"minimum_sites": 2, "lost_after_s": 150, "start_patience_s": 240, "round_deadline_s": 400},
    "evaluation": {"arms": ["full"], "bootstrap": 0},
}
"""A round trains for a few seconds at each site: long enough to be hit in the middle of it."""


class Late(AssertionError):
    """Something did not happen in time."""


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something, and give it back."""
    end = time.monotonic() + seconds
    while True:
        if found := holds():
            return found
        if time.monotonic() > end:
            raise Late(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def free_port(taken: set[int]) -> int:
    """A port of loopback, below those that the system gives to outgoing connections."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                taken.add(port)
                return port
    raise Late("no port is free")


def alive(process: psutil.Process) -> bool:
    """A zombie does not count."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def marked(folder: Path) -> list[psutil.Process]:
    """Everything that a supervisor of this folder started, children of children included."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and alive(process):
                found.append(process)
    return found


def command_of(process: psutil.Process) -> str:
    """Its command line, or nothing where it has gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@dataclass
class Hospital:
    """One hospital: its folder, and its commands."""

    home: Path
    name: str

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``phcc-client WORDS``."""
        return run_program("phcc-client", *words, "--home", str(self.home), check=check)

    def start(self) -> None:
        """Its service."""
        self.run("start")

    def stop(self) -> None:
        """Its service, if it runs."""
        if self.home.exists():
            stop_detached(self.home)

    def pid(self, program: str) -> int:
        """Process of ``worker`` or ``supernode``."""
        return pid_of(self.home, program)

    def kill(self, program: str) -> bool:
        """Kill -9 a program, or ``clientapp``; False where none is running."""
        if program == "clientapp":
            return kill_all(p for p in marked(self.home) if "flwr-clientapp" in command_of(p))
        if program == "supervisor":
            return kill_supervisor(self.home)
        return kill_pid(self.pid(program))

    def sent(self) -> list[dict[str, Any]]:
        """Its outbox."""
        path = self.home / "outbox.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["record"] for line in lines]


@dataclass
class Deployment:
    """A coordinator with its hospitals, all in one folder."""

    folder: Path
    data: Path
    address: str = ""
    hospitals: dict[str, Hospital] = field(default_factory=dict)
    ports: set[int] = field(default_factory=set)
    extra: list[Callable[[], None]] = field(default_factory=list)

    @property
    def instance(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "server"

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``phcc-server WORDS``."""
        return run_program("phcc-server", *words, "--instance", str(self.instance), check=check)

    def make_server(self) -> None:
        """An instance that listens on loopback."""
        port = free_port(self.ports)
        self.address = f"localhost:{port}"
        self.run("init", "--address", self.address, "--listen", f"127.0.0.1:{port}")
        settings = yaml.safe_load((self.instance / "server.yaml").read_text())
        self.ports |= {value for value in settings.values() if isinstance(value, int)}

    def add(self, name: str, study: Path, *, admit: bool = True, **settings: object) -> Hospital:
        """Invite a hospital, let it join, admit it; its data are the phantom's centre of the same name."""
        home = self.folder / name
        self.run("invite", name, "--study", str(study))
        kit = self.instance / "kits" / f"{name}.kit.yaml"
        admission = self.folder / f"admission-{name}.yaml"
        run_program("phcc-client", "init", str(kit), "--home", str(home), "--out", str(self.folder))
        hospital = Hospital(home, name)
        plain = {
            "data": str(self.data),
            "centre": name,
            "threads": 1,
            "minimum_count": 1,
            "heartbeat_s": 2,
            **{key: free_port(self.ports) for key in ("runtime_port", "health_port", "metrics_port")},
        }
        hospital.run("set", *(f"{key}={value}" for key, value in (plain | settings).items()))
        if admit:
            self.run("admit", str(admission))
        self.hospitals[name] = hospital
        return hospital

    def approve(self, study_name: str = "tiny") -> None:
        """Every hospital agrees, and is ready before the first order comes."""
        for hospital in self.hospitals.values():
            hospital.run("approve", study_name, "--yes")
            hospital.run("prepare", study_name)

    def start(self) -> None:
        """Everything."""
        self.run("start")
        for hospital in self.hospitals.values():
            hospital.start()

    def stop(self) -> None:
        """Everything that runs."""
        for hospital in self.hospitals.values():
            hospital.stop()
        if self.instance.exists():
            stop_detached(self.instance)
        for also in self.extra:
            also()

    def submit(self, study: Path, *sites: str, **changes: str) -> str:
        """Submit a study; the run's name."""
        words = [f"--set={key}={value}" for key, value in changes.items()]
        words += [word for site in sites for word in ("--site", site)]
        said = self.run("submit", str(study), *words).stdout
        return next(line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("run "))

    def events(self, run: str) -> list[dict[str, Any]]:
        """The run's journal."""
        path = self.instance / "runs" / run / "progress.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def ledger(self, run: str) -> list[dict[str, Any]]:
        """The run's rounds."""
        path = self.instance / "runs" / run / "ledger.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["record"] for line in lines]

    def verdict(self, run: str) -> dict[str, Any] | None:
        """How the run ended; None while it goes on."""
        path = self.instance / "runs" / run / "verdict.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, run: str, seconds: float = 420.0) -> str:
        """Wait for the run's end; the digest of its final weights."""
        verdict = until(lambda: self.verdict(run), seconds, f"{run} ends")
        assert verdict["state"] == "finished", verdict
        done = self.run("verify", run)
        assert "whole" in done.stdout, done.stdout
        return self.digest(run)

    def digest(self, run: str) -> str:
        """The digest of the run's final weights."""
        summary = json.loads((self.instance / "runs" / run / "summary.json").read_text())
        found: str = summary["digests"]["weights.full"]
        return found

    def in_training(self, run: str, site: str, rounds_done: int, seconds: float = 240.0) -> None:
        """Wait until a site trains, with so many rounds behind it."""

        def there() -> bool:
            done = len({(r["stage"], r["round"]) for r in self.ledger(run) if r["status"] != "FAILED"})
            spool = self.hospitals[site].home / "spool" / "orders"
            at_work = [
                p for p in spool.glob("*/working.json") if not (p.parent / "reply.safetensors").exists()
            ]
            return done == rounds_done and bool(at_work)

        until(there, seconds, f"{site} trains with {rounds_done} rounds done")

    def after_round(self, run: str, rounds_done: int, seconds: float = 240.0) -> None:
        """Wait until so many rounds are in the ledger."""
        until(lambda: len(self.ledger(run)) >= rounds_done, seconds, f"{rounds_done} rounds done")

    def kill(self, program: str) -> bool:
        """Kill -9 a program of the coordinator, ``serverapp`` or ``supervisor``."""
        if program == "serverapp":
            return kill_all(p for p in marked(self.instance) if "flwr-serverapp" in command_of(p))
        if program == "supervisor":
            return kill_supervisor(self.instance)
        return kill_pid(pid_of(self.instance, program))


def run_program(name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One of our commands, as a person gives it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "PHCC_"))}
    done = subprocess.run(
        [str(PROGRAMS / name), *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    assert not check or done.returncode == 0, f"{name} {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def pid_of(folder: Path, program: str) -> int:
    """A supervised program's process, as soon as there is one."""

    def found() -> int | None:
        status = read_status(folder)
        by_name = {p.name: p.pid for p in status.programs} if status else {}
        return by_name.get(program)

    pid: int = until(found, 30.0, f"{program} runs")
    return pid


def kill_pid(pid: int) -> bool:
    """Kill -9."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def kill_all(processes: Iterator[psutil.Process]) -> bool:
    """Kill -9 each; False where there was none."""
    return sum(kill_pid(process.pid) for process in processes) > 0


def kill_supervisor(folder: Path) -> bool:
    """Kill -9 the supervisor alone: what it started goes on without it."""
    status = read_status(folder)
    return status is not None and kill_pid(status.pid)


def cut_the_power(*folders: Path) -> None:
    """Kill -9 everything at once."""
    statuses = [status for folder in folders if (status := read_status(folder)) is not None]
    for status in statuses:
        kill_pid(status.pid)
    for folder in folders:
        kill_all(iter(marked(folder)))
        stop_marked(folder)


def write_study(folder: Path, **changes: Any) -> Path:
    """The tiny study with changes, as a file."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(merged(STUDY, changes), sort_keys=False))
    return path


def merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values replaced."""
    return {
        **tree,
        **{k: merged(tree[k], v) if isinstance(v, dict) and k in tree else v for k, v in changes.items()},
    }


def simulated(folder: Path, study: Path) -> str:
    """The digest that the same study has in the simulation; its data are left in ``folder/data``."""
    run_program(
        "phcc-simulate", str(study), "--out", str(folder), "--in-memory", "--threads", "1", "--jobs", "2"
    )
    summary = json.loads((folder / "summary.json").read_text())
    digest: str = summary["digests"]["weights.full"]
    return digest


def forget(folder: Path) -> None:
    """Remove a deployment's folder."""
    shutil.rmtree(folder, ignore_errors=True)
