"""What benchmarks share: alternating runs, medians, one line for each goal, a history to see drift in.

A benchmark compares two ways of doing the same thing in one process, in turns, so that whatever else the
machine does strikes both. It prints ratios, which carry from one machine to another as times do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


def options(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--history", type=Path, help="append every result to this file, a JSON object a line")
    parser.add_argument(
        "--repeats", type=int, default=7, help="runs of each side, of which the median counts"
    )
    return parser


@dataclass(frozen=True)
class Times:
    """Medians in seconds: what a person waits, and what the process's threads worked together."""

    wall: float
    cpu: float


def in_turns(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """The times of each side, run in turns; one run of each goes before and does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Times(statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times))
        for name, times in taken.items()
    }


def peak_mib(run: Callable[[], object]) -> float:
    """By how many MiB a call raises this process's memory at its highest (Linux only: the mark is set back)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _mib("VmRSS")
    run()
    return _mib("VmHWM") - before


def _mib(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def tell(
    name: str,
    value: float,
    goal: float,
    detail: str,
    *,
    history: Path | None = None,
    at_most: bool = False,
) -> bool:
    """Print one result beside its goal, and keep it.

    Args:
        name: what was compared, without spaces.
        value: a ratio.
        goal: what it should be at least.
        detail: the times behind it, in words.
        history: a file to append to.
        at_most: the goal is what the value should be at most.

    Returns:
        Whether the goal is met.
    """
    met = value <= goal if at_most else value >= goal
    print(f"BENCH {name} {value:.4g} {goal:g} {'met' if met else 'short'} ({detail})", flush=True)
    if history is not None:
        kept = {
            "name": name,
            "value": value,
            "goal": goal,
            "met": met,
            "detail": detail,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load": round(os.getloadavg()[0], 2),
        }
        history.parent.mkdir(parents=True, exist_ok=True)
        with history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
    return met
