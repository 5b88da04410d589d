"""The programs of a hospital: Flower's node, and the worker that trains."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from phcc_client.home import Home
from phcc_model.machine import fast_environment
from phcc_model.storage import write_atomically
from phcc_model.supervision import Program, program_path

LONGEST_PAUSE_S = 10.0
"""Flower refuses a node that was killed until its old session lapses, about a minute: it is tried until then."""
LOOPBACK = "127.0.0.1,localhost,::1"


OURS = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-connector", "flwr-model")


def programs(home: Home) -> tuple[Program, ...]:
    """What `phcc-client start` keeps running.

    Raises:
        StorageError: Flower is not installed, or the home cannot be written.
    """
    install(home.bin)
    return (
        Program(
            "worker",
            [sys.executable, "-m", "phcc_client.worker", str(home.folder)],
            _worker_environment(home),
        ),
        Program("supernode", _supernode(home), _node_environment(home), LONGEST_PAUSE_S),
    )


def _worker(home: Home) -> list[str]:
    return [sys.executable, "-m", "phcc_client.worker", str(home.folder)]


def install(folder: Path) -> None:
    """Put the programs that Flower's node starts by name into a folder, for the node's path.

    Ours in place of Flower's, and one that refuses for every other kind of app that a node could start.

    Raises:
        StorageError: they cannot be written.
    """
    begin = f"#!{sys.executable} -I\n"
    _program(folder / OURS, f"{begin}from phcc_client.clientapp import main\nmain()\n")
    for name in REFUSED:
        _program(folder / name, f"{begin}raise SystemExit('this hospital runs no {name}')\n")


def _program(path: Path, text: str) -> None:
    write_atomically(path, text)
    path.chmod(0o700)


def _supernode(home: Home) -> list[str]:
    settings = home.settings
    return [
        program_path("flower-supernode"),
        "--superlink",
        settings.server,
        "--root-certificates",
        str(home.ca),
        "--auth-supernode-private-key",
        str(home.private_key),
        "--host",
        "127.0.0.1",
        "--port",
        str(settings.runtime_port),
        "--health-server-address",
        f"127.0.0.1:{settings.health_port}",
    ]


def _node_environment(home: Home) -> dict[str, str]:
    """The node's: our programs first on its path, Flower quiet, the hospital's proxy for the way out only."""
    programs = os.pathsep.join(
        [str(home.bin), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
    environment = {
        **os.environ,
        "PATH": programs,
        "PHCC_CLIENT_HOME": str(home.folder),
        "FLWR_HOME": str(home.flower),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "NO_PROXY": LOOPBACK,
        "no_proxy": LOOPBACK,
        "PYTHONUNBUFFERED": "1",
    }
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        environment.pop(name, None)
    if home.settings.proxy:
        environment["HTTPS_PROXY"] = home.settings.proxy
    return environment


def _worker_environment(home: Home) -> dict[str, str]:
    return {
        **os.environ,
        **fast_environment(home.settings.threads or os.cpu_count() or 1),
        "PYTHONUNBUFFERED": "1",
    }
