"""``make chaos``: every process killed at every stage, and what becomes of the study. One line a point.

    python tests/deployment/chaos.py --out runs/chaos            every point, one after the other
    python tests/deployment/chaos.py --out runs/chaos --lane 1/2  half of them, beside another process
    python tests/deployment/chaos.py --out runs/chaos --table     the table of what was measured, as Markdown

A point holds if the study goes on by itself (or by the command that its name says) and ends with the weights of
an undisturbed simulation, digest by digest, and with a record that `phcc-server verify` finds whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import harness
import psutil
from harness import Deployment, cut_the_power, kill_all, marked, simulated, until, write_study

SITES = ("C1", "C2", "C3")
Deed = Callable[[Deployment, str], None]


def kill_server(program: str) -> Deed:
    def deed(deployment: Deployment, run: str) -> None:
        until(lambda: deployment.kill(program), 30, f"{program} is killed")

    return deed


def kill_site(program: str) -> Deed:
    def deed(deployment: Deployment, run: str) -> None:
        until(lambda: deployment.hospitals["C2"].kill(program), 30, f"{program} is killed")

    return deed


def reboot(deployment: Deployment, run: str) -> None:
    """Every process of every machine at once; then the service of each is started, as systemd would."""
    cut_the_power(deployment.instance, *(hospital.home for hospital in deployment.hospitals.values()))
    deployment.start()


def server_supervisor(deployment: Deployment, run: str) -> None:
    assert deployment.kill("supervisor")
    time.sleep(5)
    deployment.run("start")


def site_supervisor(deployment: Deployment, run: str) -> None:
    hospital = deployment.hospitals["C1"]
    assert hospital.kill("supervisor")
    time.sleep(5)
    hospital.start()


def database_deleted(deployment: Deployment, run: str) -> None:
    """The SuperLink comes back with an empty database: no run, no node is known to it."""
    for path in (deployment.instance / "flower").glob("state.db*"):
        path.unlink()
    until(lambda: deployment.kill("superlink"), 30, "the SuperLink is killed")


def door_frozen(deployment: Deployment, run: str) -> None:
    """A cut network: the front door takes connections and says nothing for 40 s."""
    pid = harness.pid_of(deployment.instance, "front-door")  # nginx hides the mark in its environment
    doors = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in doors:
        process.send_signal(signal.SIGSTOP)
    time.sleep(40)
    for process in doors:
        process.send_signal(signal.SIGCONT)


def full_for_a_while(folder: Path) -> None:
    """The disk under a folder is full for 20 s."""
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 2**20)
            file.flush()
    time.sleep(20)
    filler.unlink()


def disk_full(deployment: Deployment, run: str) -> None:
    full_for_a_while(deployment.instance / "runs")


def site_disk_full(deployment: Deployment, run: str) -> None:
    full_for_a_while(deployment.hospitals["C2"].home / "spool")


def twice(deployment: Deployment, run: str) -> None:
    """ServerApp and a node at once, then the SuperLink while Flower still waits for both."""
    until(lambda: deployment.kill("serverapp"), 30, "the ServerApp is killed")
    assert deployment.hospitals["C3"].kill("supernode")
    time.sleep(20)
    assert deployment.kill("superlink")


def stopped_and_resumed(deployment: Deployment, run: str) -> None:
    deployment.run("stop-run", run)
    time.sleep(5)
    assert deployment.run("watch", run, check=False).returncode == 3
    deployment.run("resume", run)


def certificate_renewed(deployment: Deployment, run: str) -> None:
    """The front door and the SuperLink take it up while sites train."""
    deployment.run("renew-certificate")


def service_restarted(deployment: Deployment, run: str) -> None:
    deployment.run("stop")
    deployment.run("start")


KILLS: dict[str, Deed] = {
    **{name: kill_server(name) for name in ("serverapp", "superlink", "superexec", "front-door", "keeper")},
    **{name: kill_site(name) for name in ("supernode", "clientapp", "worker")},
}
MIDDLE = {"pretrain": 1, "finetune": 3}
"""Rounds done when the deed is done, in the middle of the next one."""
AFTER = {"pretrain": 1, "finetune": 3}

POINTS: dict[str, tuple[str, int, Deed]] = {
    **{f"{name} in {s}": ("middle", n, deed) for s, n in MIDDLE.items() for name, deed in KILLS.items()},
    **{
        f"{name} between rounds of {s}": ("after", n, KILLS[name])
        for s, n in AFTER.items()
        for name in ("serverapp", "superlink", "supernode")
    },
    "all machines rebooted in pretrain": ("middle", 1, reboot),
    "all machines rebooted in finetune": ("middle", 3, reboot),
    "server's supervisor killed, then start": ("middle", 1, server_supervisor),
    "site's supervisor killed, then start": ("middle", 2, site_supervisor),
    "database file deleted": ("middle", 2, database_deleted),
    "network cut for 40 s": ("middle", 1, door_frozen),
    "server's disk full for 20 s": ("middle", 1, disk_full),
    "site's disk full for 20 s": ("middle", 2, site_disk_full),
    "ServerApp, node and SuperLink one after the other": ("middle", 3, twice),
    "stop-run, then resume": ("middle", 2, stopped_and_resumed),
    "service stopped and started": ("middle", 3, service_restarted),
    "certificate renewed": ("middle", 1, certificate_renewed),
}


def small_disk(folder: Path, megabytes: int) -> bool:
    """A file system of its own for a folder, so that it can be full; False where this machine allows none."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def one(deployment: Deployment, number: int, name: str, expected: str, out: Path) -> dict[str, object]:
    """Run a study through one point, and say what came of it."""
    when, rounds_done, deed = POINTS[name]
    folder = out / f"point-{number}"
    folder.mkdir(exist_ok=True)
    # Its own name, so that no hospital answers from what it kept of the study before; the same weights.
    study = write_study(folder, name=f"chaos-{number}")
    for hospital in deployment.hospitals.values():
        hospital.run("approve", str(study), "--yes")
    run = deployment.submit(study, *SITES)
    begin = time.monotonic()
    try:
        if when == "middle":
            deployment.in_training(run, "C2", rounds_done)
        else:
            deployment.after_round(run, rounds_done)
        deed(deployment, run)
        done = time.monotonic()
        digest = deployment.finish(run, 420)
        statuses = sorted({record["status"] for record in deployment.ledger(run)})
        outcome = "same" if digest == expected else "different"
        reasons = {
            f"{site}: {given['reason']}"
            for record in deployment.ledger(run)
            for site, given in record["sites"].items()
            if given["reason"]
        }
        return {
            "point": name,
            **({"why": "; ".join(sorted(reasons))} if reasons else {}),
            "outcome": outcome,
            "rounds": ", ".join(statuses),
            "seconds_after": round(time.monotonic() - done),
            "attempts": len((deployment.instance / "runs" / run / "attempts.jsonl").read_text().splitlines()),
        }
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        deployment.run("stop-run", run, check=False)
        line = (str(error) or type(error).__name__).splitlines()[0]
        return {
            "point": name,
            "outcome": "failed",
            "why": line,
            "seconds_after": round(time.monotonic() - begin),
        }


def main() -> int:
    """Run the points of a lane; 0 where all hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lane", default="1/1")
    parser.add_argument("--only", action="append", help="part of a point's name; repeatable")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if asked.table:
        print(table(out))
        return 0
    lane, lanes = map(int, asked.lane.split("/"))
    names = [name for name in POINTS if not asked.only or any(part in name for part in asked.only)]
    place = out / f"lane-{lane}"
    harness.forget(place)
    place.mkdir()
    study = write_study(place)
    expected = simulated(place / "simulation", study)
    deployment = Deployment(place / "deployment", place / "simulation" / "data")
    try:
        return run_points(deployment, study, names[lane - 1 :: lanes], expected, out)
    finally:
        deployment.stop()
        for folder in (
            deployment.instance / "runs",
            *(h.home / "spool" for h in deployment.hospitals.values()),
        ):
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        kill_all(iter(marked(deployment.instance)))


def run_points(deployment: Deployment, study: Path, names: list[str], expected: str, out: Path) -> int:
    """Every point on one deployment, one after the other; the results go to a file as they come."""
    deployment.make_server()
    for site in SITES:
        deployment.add(site, study)
    deployment.approve()
    disks = (deployment.instance / "runs", deployment.hospitals["C2"].home / "spool")
    limited = all(small_disk(folder, 64) for folder in disks)
    deployment.start()
    bad = 0
    for number, name in enumerate(POINTS):
        if name not in names:
            continue
        if "disk full" in name and not limited:
            result: dict[str, object] = {
                "point": name,
                "outcome": "not run",
                "why": "this machine mounts no tmpfs",
            }
        else:
            result = one(deployment, number, name, expected, out)
        bad += result["outcome"] in ("different", "failed")
        print(f"CHAOS {name} {result['outcome']}", *(str(result.get("why", "")),), flush=True)
        with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
    return 1 if bad else 0


def table(out: Path) -> str:
    """The last result of every point, as a Markdown table."""
    last = {}
    for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        last[result["point"]] = result
    rows = [
        "| what was done | final weights | rounds | attempts | done so long after |",
        "|---|---|---|---:|---:|",
    ]
    for name in POINTS:
        if (r := last.get(name)) is not None:
            what = r["outcome"] + (f": {r['why']}" if "why" in r else "")
            rounds, attempts = r.get("rounds", ""), r.get("attempts", "")
            rows.append(f"| {name} | {what} | {rounds} | {attempts} | {r.get('seconds_after', '')} s |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
