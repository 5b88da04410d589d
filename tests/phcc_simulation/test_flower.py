"""The real thing: Flower's simulation engine, every process its own, on a few tiny synthetic patients."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).parents[2]
TINY = {
    "data.phantom.patients": "24",
    "data.phantom.external_patients": "8",
    "data.phantom.training_centres": "2",
    "data.crop.size": "[6, 16, 16]",
    "data.crop.spacing_mm": "[6.0, 4.8, 4.8]",
    "model.size": "custom",
    "model.depths": "[1, 1]",
    "model.dims": "[8, 16]",
    "model.stem": "[1, 2, 2]",
    "model.downsample": "[[2, 2, 2]]",
    "model.kernel": "[3, 3, 3]",
    "model.decoder_width": "16",
    "model.classifier.width": "16",
    "pretrain.rounds": "2",
    "finetune.rounds": "2",
    "federation.minimum_sites": "1",
    "evaluation.bootstrap": "0",
    "evaluation.arms": "[full, afp]",
}


def simulate(out: Path, *extra: str, **changes: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "phcc-simulate"
    overrides = [f"--set={key}={value}" for key, value in (TINY | changes).items()]
    return subprocess.run(
        [
            program,
            "configs/demo.yaml",
            "--out",
            str(out),
            "--jobs",
            "2",
            "--threads",
            "1",
            *overrides,
            *extra,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def digests(out: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((out / "summary.json").read_text())["digests"]
    return {name: value for name, value in found.items() if name != "ledger"}  # the ledger holds times


@pytest.fixture(scope="module")
def by_flower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flower") / "run"
    done = simulate(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_a_run_leaves_what_the_readme_promises(by_flower: Path) -> None:
    summary: dict[str, Any] = json.loads((by_flower / "summary.json").read_text())
    assert summary["data"]["synthetic"] is True
    assert set(summary["arms"]) == {"full", "afp"}
    assert {"internal", "external", "C1", "C2", "X1"} <= set(summary["arms"]["full"])
    assert [r["status"] for r in summary["rounds"]] == ["COMPLETE"] * 4
    assert all(set(r["sites"]) == {"C1", "C2"} for r in summary["rounds"])
    page = (by_flower / "report.html").read_text()
    assert "synthetic" in page.lower()
    assert "best possible" in page.lower()


def test_flower_and_memory_give_one_digest(by_flower: Path, tmp_path: Path) -> None:
    out = tmp_path / "memory"
    done = simulate(out, "--in-memory")
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(out) == digests(by_flower)


def test_what_sites_keep_of_their_own_comes_through_flower_too(tmp_path: Path) -> None:
    """Norms, last weights and control variates lie at a site between rounds; each message has another process."""
    arms = {"evaluation.arms": "[fedbn, fedema, scaffold, fedyogi]"}
    flower, memory = tmp_path / "flower", tmp_path / "memory"
    for out, extra in ((flower, ()), (memory, ("--in-memory",))):
        done = simulate(out, *extra, **arms)
        assert done.returncode == 0, done.stdout + done.stderr
    found = digests(flower)
    assert found == digests(memory)
    weights = [found[f"weights.{arm}"] for arm in ("fedbn", "fedema", "scaffold", "fedyogi")]
    assert len(set(weights)) == len(weights)


def test_a_second_start_trains_nothing_and_says_the_same(by_flower: Path, tmp_path: Path) -> None:
    before = digests(by_flower)
    copy = tmp_path / "again"
    shutil.copytree(by_flower, copy)
    done = simulate(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pretrain 1/2" not in done.stdout
    assert digests(copy) == before


def test_nothing_of_flower_is_left_running(by_flower: Path) -> None:
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(by_flower) not in running


def test_a_failed_run_exits_with_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = simulate(out, **{"finetune.learning_rate": "1e30", "pretrain.rounds": "0"})
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "too few usable replies" in errors[0]
    assert "Traceback" not in done.stderr
    assert (out / "ledger.jsonl").exists()


def test_flwr_run_in_the_repository(tmp_path: Path) -> None:
    """What a Flower user types, with a home and a port of its own."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": ports[0],
        "FLWR_LOCAL_CONTROL_API_PORT": ports[1],
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    out = tmp_path / "run"
    overrides = "; ".join(f"{key}={value}" for key, value in TINY.items())
    config = f'study="demo" out="{out}" set="{overrides}"'
    federation = "num-supernodes=2 client-resources-num-cpus=1"
    command = ["flwr", "run", ".", "--stream", "--federation-config", federation, "--run-config", config]
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert (out / "report.html").exists(), done.stdout + done.stderr
    finally:
        # Flower leaves the SuperLink that `flwr run` started; it is found by its port.
        subprocess.run(["pkill", "-f", f"flower-superlink.*--port {ports[0]}"], check=False)
