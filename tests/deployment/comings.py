"""``make comings``: sites that are slow, vanish, come back, come late, or have a wrong clock. What each gives.

    python tests/deployment/comings.py --out runs/comings

Each point runs a study of ten short rounds over three sites with a quorum of two, does something to site C2, and
holds the ledger against what is expected. One line a point: ``SITE <name> as expected|NOT as expected: <why>``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import harness
from harness import Deployment, marked, simulated, until, write_study

QUICK = {
    "pretrain": {"rounds": 5, "local_epochs": 3},
    "finetune": {"rounds": 5, "local_epochs": 3},
    "federation": {"lost_after_s": 25, "start_patience_s": 60, "round_deadline_s": 200},
}
Outcome = tuple[bool, str]


def statuses(deployment: Deployment, run: str, site: str = "C2") -> list[str]:
    """How the rounds went for one site, one after the other."""
    rounds = {(r["stage"], r["round"]): r for r in deployment.ledger(run)}
    return [record["sites"].get(site, {"status": "absent"})["status"] for record in rounds.values()]


def told(deployment: Deployment, run: str, site: str = "C2") -> str:
    """The reasons that the ledger gives for a site, each once."""
    reasons = [r["sites"].get(site, {}).get("reason") for r in deployment.ledger(run)]
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


def in_words(found: list[str]) -> str:
    """``3 accepted, 7 missing``."""
    return ", ".join(f"{times} {status}" for status, times in Counter(found).items())


def slow(deployment: Deployment, run: str) -> Outcome:
    """The worker sleeps for 40 s, longer than it takes to be lost; the node goes on answering for it."""
    deployment.in_training(run, "C2", 1)
    worker = deployment.hospitals["C2"].pid("worker")
    os.kill(worker, signal.SIGSTOP)
    time.sleep(40)
    os.kill(worker, signal.SIGCONT)
    deployment.finish(run)
    found = statuses(deployment, run)
    return set(found) == {"accepted"}, f"{in_words(found)}: slow is not lost"


def vanished(deployment: Deployment, run: str) -> Outcome:
    deployment.in_training(run, "C2", 1)
    deployment.hospitals["C2"].stop()
    deployment.finish(run)
    deployment.hospitals["C2"].start()
    found = statuses(deployment, run)
    good = found[0] == "accepted" and set(found[1:]) == {"missing"} and "lost" in told(deployment, run)
    return good, f"{in_words(found)} ({told(deployment, run)}); the study ended with the other two, PARTIAL"


def returned(deployment: Deployment, run: str) -> Outcome:
    deployment.in_training(run, "C2", 1)
    deployment.hospitals["C2"].stop()
    deployment.after_round(run, 4)
    deployment.hospitals["C2"].start()
    deployment.finish(run)
    found = statuses(deployment, run)
    good = found[0] == "accepted" and found[1:4] == ["missing"] * 3 and found[-1] == "accepted"
    return good, f"{', '.join(found)}"


def late(deployment: Deployment, run: str) -> Outcome:
    """C2 is not there when the study begins, and comes after two rounds."""
    deployment.after_round(run, 2)
    deployment.hospitals["C2"].start()
    deployment.finish(run)
    found = statuses(deployment, run)
    return found[:2] == ["missing"] * 2 and found[-1] == "accepted", f"{', '.join(found)}"


def clock_off(deployment: Deployment, run: str) -> Outcome:
    """C2's clock is ten minutes fast: Flower refuses its signatures, and doctor says why."""
    hospital = deployment.hospitals["C2"]
    library = next(Path("/usr/lib").rglob("libfaketime.so.1"))
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAKETIME": "+600s"}
    os.environ.update(environment)
    try:
        hospital.start()
        doctor = hospital.run("doctor", check=False).stdout
    finally:
        os.environ.pop("LD_PRELOAD")
        os.environ.pop("FAKETIME")
    deployment.finish(run)
    found, status = statuses(deployment, run), hospital.run("status", check=False)
    hospital.stop()
    hospital.start()
    line = next((line for line in doctor.splitlines() if "clock" in line.lower()), "")
    good = set(found) == {"missing"} and status.returncode == 1 and "fail" in line.lower()
    return good, f"{in_words(found)}; doctor: {' '.join(line.split())}"


def below_quorum(deployment: Deployment, run: str) -> Outcome:
    """Two of three sites vanish: the study waits, and goes on when one is back."""
    deployment.in_training(run, "C2", 1)
    deployment.hospitals["C2"].stop()
    deployment.hospitals["C3"].stop()
    until(lambda: any(r["status"] == "FAILED" for r in deployment.ledger(run)), 200, "a round fails")
    time.sleep(20)
    waits = deployment.verdict(run) is None
    deployment.hospitals["C3"].start()
    deployment.finish(run)
    deployment.hospitals["C2"].start()
    failed = sum(record["status"] == "FAILED" for record in deployment.ledger(run))
    return (
        waits and failed > 0,
        f"{failed} FAILED rounds, then it went on: {in_words(statuses(deployment, run, 'C3'))}",
    )


POINTS: dict[str, tuple[Callable[[Deployment, str], Outcome], bool, dict[str, object]]] = {
    "slow site": (slow, True, {}),
    "vanished site": (vanished, True, {}),
    "site that returns after three rounds": (returned, True, {}),
    "site that joins late": (late, False, {}),
    "clock off by ten minutes": (clock_off, False, {}),
    "below quorum, waiting": (below_quorum, True, {"below_quorum": "wait"}),
}
"""What is done; whether C2 is there from the beginning; how the federation is configured."""


def main() -> int:
    """Run the points; 0 where all are as expected."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", help="part of a point's name; repeatable")
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    harness.forget(out / "deployment")
    out.mkdir(parents=True, exist_ok=True)
    study = write_study(out)
    if not (out / "simulation" / "data").exists():
        simulated(out / "simulation", study)
    deployment = Deployment(out / "deployment", out / "simulation" / "data")
    bad = 0
    try:
        deployment.make_server()
        for site in ("C1", "C2", "C3"):
            deployment.add(site, study)
        deployment.approve()
        deployment.start()
        for number, (name, point) in enumerate(POINTS.items()):
            if not asked.only or any(part in name for part in asked.only):
                bad += not one(deployment, out, number, name, *point)
    finally:
        deployment.stop()
        harness.kill_all(iter(marked(deployment.instance)))
    return 1 if bad else 0


def one(
    deployment: Deployment,
    out: Path,
    number: int,
    name: str,
    deed: Callable[[Deployment, str], Outcome],
    there: bool,
    federation: dict[str, object],
) -> bool:
    """Run one point, and say whether it was as expected."""
    if "clock" in name and not shutil.which("faketime"):
        print(f"SITE {name} not run: faketime is not installed", flush=True)
        return True
    folder = out / f"point-{number}"
    folder.mkdir(exist_ok=True)
    changes = {**QUICK, "federation": {**QUICK["federation"], **federation}}
    study = write_study(folder, name=f"comings-{number}", **changes)
    for hospital in deployment.hospitals.values():
        hospital.run("approve", str(study), "--yes")
    if not there:
        deployment.hospitals["C2"].stop()
    run = deployment.submit(study)
    try:
        good, why = deed(deployment, run)
    except (AssertionError, OSError) as error:
        deployment.run("stop-run", run, check=False)
        good, why = False, str(error).splitlines()[0]
    print(f"SITE {name} {'as expected' if good else 'NOT as expected'}: {why}", flush=True)
    with (out / "results.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"point": name, "good": good, "what": why}) + "\n")
    return good


if __name__ == "__main__":
    sys.exit(main())
