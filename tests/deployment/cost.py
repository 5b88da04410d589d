"""``make cost``: what deployment costs. One line a figure, ``COST <name> <figure> <goal> met|short``.

    python tests/deployment/cost.py --out runs/cost round memory soak

round   a round with 28 MB of weights, two sites, beside Flower's own FedAvg with one 28 MB array, same server
memory  the coordinator's app at 3 and at 24 sites, in models above what it needs for one site
soak    200 rounds in a row: memory and database
Sites train nothing here (`null_site`): it is the coordinator and the way that are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import harness
import null_site
from harness import Deployment, command_of, marked, until, write_study

HERE = Path(__file__).parent
MODEL_MB = 28.0
WIDE = {"size": "custom", "depths": [1, 1], "dims": [380, 680], "kernel": [3, 3, 3], "decoder_width": 64}
"""About seven million weights: 28 MB."""


def null_study(folder: Path, name: str, rounds: int, model: dict[str, Any], sites: int) -> Path:
    """Pre-training alone counts here; nobody validates."""
    return write_study(
        folder,
        name=name,
        model=model,
        pretrain={"rounds": rounds, "local_epochs": 1},
        finetune={"rounds": 1, "local_epochs": 1},
        # 24 nodes, and a process a message, on a few cores: here memory counts, not how long it takes.
        federation={"minimum_sites": sites, "start_patience_s": 900, "lost_after_s": 2400},
    )


def null_deployment(out: Path, sites: int) -> Deployment:
    """A coordinator and so many sites that train nothing."""
    harness.forget(out)
    deployment = Deployment(out, out)
    out.mkdir(parents=True)
    deployment.make_server()
    study = write_study(out)
    for number in range(1, sites + 1):
        deployment.add(f"S{number:02d}", study)
    deployment.run("start")
    for hospital in deployment.hospitals.values():
        hospital.start()
        null_site.install(hospital.home)
        os.kill(
            hospital.pid("worker"), signal.SIGSTOP
        )  # nothing to do, and torch need not be loaded 24 times
    return deployment


class Watched:
    """The coordinator's app while it runs: its largest memory, in MB."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.peak = 0.0
        self.series: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for process in marked(self.deployment.instance):
                if "flwr-serverapp" in command_of(process):
                    now = self._high_water(process.pid)
                    self.peak = max(self.peak, now)
                    self.series.append((time.monotonic(), now))

    @staticmethod
    def _high_water(pid: int) -> float:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        except (OSError, StopIteration):
            return 0.0


def rounds_of(deployment: Deployment, run: str, stage: str = "pretrain") -> list[float]:
    """Seconds of each round but the first, which also starts things up."""
    return [r["seconds"] for r in deployment.ledger(run) if r["stage"] == stage][1:]


def run_null(
    deployment: Deployment, folder: Path, name: str, rounds: int, model: dict[str, Any]
) -> tuple[str, float]:
    """Run a study over null sites; the run, and the peak memory of the coordinator's app in MB."""
    folder.mkdir(exist_ok=True)
    study = null_study(folder, name, rounds, model, len(deployment.hospitals))
    run = deployment.submit(study)
    with Watched(deployment) as watched:
        patience = 60 + rounds * (60 + 30 * len(deployment.hospitals))  # each site starts a process a message
        until(lambda: len(deployment.ledger(run)) >= rounds, patience, f"{rounds} rounds")
    deployment.run("stop-run", run, check=False)  # so short a run may have ended by itself
    time.sleep(5)
    return run, watched.peak


def own_round(deployment: Deployment, out: Path, rounds: int, elements: int) -> list[float]:
    """Flower's FedAvg over one array of as many float32, through the same door and nodes, by its own app."""
    for hospital in deployment.hospitals.values():
        program = hospital.home / "bin" / "flwr-clientapp"
        program.unlink()
        program.symlink_to(harness.PROGRAMS / "flwr-clientapp")
    home, result = out / "flwr-home", out / "one-array.json"
    home.mkdir(exist_ok=True)
    settings = (deployment.instance / "server.yaml").read_text()
    port = next(line.split()[1] for line in settings.splitlines() if line.startswith("superlink_port"))
    authority = deployment.instance / "tls" / "ca.pem"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "localhost:{port}"\n'
        f'root-certificates = "{authority}"\n'
    )
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    config = f'out="{result}" rounds={rounds} elements={elements}'
    done = subprocess.run(
        [str(harness.PROGRAMS / "flwr"), "run", str(HERE / "flower_app"), "here", "--run-config", config],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    until(result.exists, 60 + 60 * rounds, "Flower's own rounds")
    seconds: list[float] = json.loads(result.read_text())
    return seconds[1:]


def tell(out: Path, name: str, figure: float, goal: str, met: bool, detail: str) -> None:
    print(f"COST {name} {figure:.2f} {goal} {'met' if met else 'short'} ({detail})", flush=True)
    with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(
            json.dumps({"name": name, "figure": figure, "goal": goal, "met": met, "detail": detail}) + "\n"
        )


def measure_round(out: Path) -> None:
    deployment = null_deployment(out / "round", 2)
    try:
        run, _ = run_null(deployment, out / "round-study", "wide", 6, WIDE)
        ours = statistics.median(rounds_of(deployment, run))
        sent = next(iter(deployment.ledger(run)))["sites"]["S01"]
        theirs = statistics.median(own_round(deployment, out, 6, sent["bytes_down"] // 4))
    finally:
        deployment.stop()
    down, up = sent["bytes_down"] / 1e6, sent["bytes_up"] / 1e6
    detail = f"ours {ours:.1f} s, {down:.1f} MB down {up:.1f} MB up; Flower {theirs:.1f} s"
    tell(out, "round-against-flower", ours / theirs, "<=1.2", ours / theirs <= 1.2, detail)


def measure_memory(out: Path) -> None:
    peaks = {}
    for sites in (3, 24):
        deployment = null_deployment(out / f"memory-{sites}", sites)
        try:
            _, small = run_null(deployment, out / f"small-{sites}", f"small-{sites}", 2, {})
            run, wide = run_null(deployment, out / f"wide-{sites}", f"wide-{sites}", 3, WIDE)
            size = next(iter(deployment.ledger(run)))["sites"]["S01"]["bytes_down"] / 2**20
        finally:
            deployment.stop()
        peaks[sites] = (wide - small) / size
    growth = peaks[24] - peaks[3]
    detail = f"{peaks[3]:.1f} models at 3 sites, {peaks[24]:.1f} at 24, over the same app with a tiny model"
    tell(out, "memory-growth-3-to-24-sites", growth, "<=2.5", growth <= 2.5, detail)


def measure_soak(out: Path, rounds: int) -> None:
    deployment = null_deployment(out / "soak", 2)
    database = deployment.instance / "flower" / "state.db"
    try:
        folder = out / "soak-study"
        folder.mkdir(exist_ok=True)
        run = deployment.submit(null_study(folder, "soak", rounds, {}, 2))
        sizes: list[tuple[int, float]] = []
        with Watched(deployment) as watched:
            for done in (rounds // 4, rounds // 2, 3 * rounds // 4, rounds):
                until(lambda done=done: len(deployment.ledger(run)) >= done, 60 * rounds, f"{done} rounds")
                sizes.append((done, sum(p.stat().st_size for p in database.parent.glob("state.db*")) / 2**20))
        quarter = len(watched.series) // 4
        first, last = watched.series[quarter][1], watched.series[-1][1]
    finally:
        deployment.stop()
    tell(
        out,
        "soak-memory-growth-MB",
        last - first,
        "<=20",
        last - first <= 20,
        f"app {first:.0f} to {last:.0f} MB",
    )
    grown = sizes[-1][1] - sizes[0][1]
    detail = ", ".join(f"{size:.1f} MB after {done}" for done, size in sizes)
    tell(out, "soak-database-growth-MB", grown, "<=20", grown <= 20, detail)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=200, help="of the soak")
    parser.add_argument("what", nargs="*", default=["round", "memory", "soak"])
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if "round" in asked.what:
        measure_round(out)
    if "memory" in asked.what:
        measure_memory(out)
    if "soak" in asked.what:
        measure_soak(out, asked.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
