"""The line that systemd and the images start, as a process of its own: metrics told, SIGTERM, nothing left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from phcc_client.home import ClientSettings, Home
from phcc_model.supervised import STATUS
from phcc_server.instance import Instance

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PATIENCE_S = 60.0
pytestmark = pytest.mark.process


def free_ports(count: int) -> list[int]:
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        for probe in (one, two, three):
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in (one, two, three)][:count]


def started(side: str, folder: Path) -> subprocess.Popen[bytes]:
    """The unit's own line, with the program that is installed here."""
    text = (UNITS / f"phcc-{side}.service").read_text()
    found = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
    variable = re.search(r"^Environment=(\w+)=", text, re.MULTILINE)
    assert found is not None
    assert variable is not None
    program = Path(sys.executable).parent / Path(found[1]).name
    environment = os.environ | {variable[1]: str(folder)}
    return subprocess.Popen([program, *found[2].split()], cwd=folder.parent, env=environment)


def until_told(port: int, line: str, process: subprocess.Popen[bytes]) -> str:
    """The metrics, as soon as they hold a line."""
    end = time.monotonic() + PATIENCE_S
    while True:
        text = ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                text = answer.read().decode()
        except (urllib.error.URLError, ConnectionError):
            pass
        if line in text.splitlines():
            return text
        assert process.poll() is None, "it ended"
        assert time.monotonic() < end, text
        time.sleep(0.2)


def children(folder: Path) -> list[psutil.Process]:
    status = json.loads((folder / STATUS).read_text())
    return [psutil.Process(program["pid"]) for program in status["programs"] if program["pid"]]


def ended(process: subprocess.Popen[bytes], folder: Path) -> None:
    """SIGTERM to the first process alone, as KillMode=mixed sends it, ends everything and is no failure."""
    programs = children(folder)
    assert programs
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert not [one for one in programs if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not (folder / STATUS).exists()


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whatever a test leaves running is asked to stop."""
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for process in found:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)


def test_a_hospital_in_the_foreground(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Its coordinator is away: it goes on trying, and says so."""
    runtime, health, metrics = free_ports(3)
    settings = ClientSettings(
        hospital="H1", server="127.0.0.1:1", runtime_port=runtime, health_port=health, metrics_port=metrics
    )
    home = Home.make(tmp_path / "home", settings)
    processes.append(started("client", home.folder))
    text = until_told(metrics, 'phcc_client_program_up{program="worker"} 1.0', processes[0])
    assert "phcc_client_connected 0.0" in text.splitlines()
    ended(processes[0], home.folder)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5)


@pytest.mark.usefixtures("nginx")
def test_a_server_in_the_foreground(tmp_path: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    listen = free_ports(1)[0]
    instance = Instance.create(tmp_path / "instance", "test", f"localhost:{listen}", f"127.0.0.1:{listen}")
    processes.append(started("server", instance.folder))
    until_told(instance.settings.metrics_port, "phcc_server_nodes_registered 0.0", processes[0])
    ended(processes[0], instance.folder)
