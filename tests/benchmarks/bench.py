"""What benchmarks share: the launcher's environment, runs in turns, one line for each goal, a history.

A benchmark compares two ways of doing the same thing in one process, in turns, so that whatever else the
machine does strikes both. It prints ratios, which carry from one machine to another as times do not, and each
line says how far the turns were apart. The history tells a figure that was lost from one that never was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from phcc_model.machine import fast_environment

ROOT = Path(__file__).parents[2]
CORES = len(os.sched_getaffinity(0))
QUIET = 0.25
"""Cores that others may keep busy; beyond it a figure is provisional, and nothing is called lost."""
UNKNOWN_SPREAD = 0.1
"""Of the value, where a figure was taken once."""


def options(description: str, repeats: int = 7) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--history",
        type=Path,
        default=ROOT / "runs" / "bench.jsonl",
        help="append every result to this file, a JSON object a line",
    )
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="runs of each side, of which the median counts"
    )
    parser.add_argument("--threads", type=int, default=CORES, help="of torch; all cores by default")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing, to see that it runs")
    return parser


def as_launched() -> None:
    """Start this program again under the launcher's environment, which counts only before torch is loaded."""
    threads = options("").parse_known_args([a for a in sys.argv[1:] if a not in ("-h", "--help")])[0].threads
    wanted = fast_environment(threads)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


@dataclass(frozen=True)
class Times:
    """Seconds of each turn: what a person waits, and what the process's threads worked together."""

    walls: tuple[float, ...]
    cpus: tuple[float, ...]

    @property
    def wall(self) -> float:
        """The median."""
        return statistics.median(self.walls)

    @property
    def cpu(self) -> float:
        """The median."""
        return statistics.median(self.cpus)


@dataclass(frozen=True)
class Ratio:
    """A ratio with its spread: half of what lies between the quartiles of the turns."""

    value: float
    spread: float


def ratio(above: Times, below: Times) -> Ratio:
    """How many times longer one side takes: the ratio of each turn, of which the median counts."""
    return of_turns([a / b for a, b in zip(above.walls, below.walls, strict=True)])


def of_turns(values: list[float]) -> Ratio:
    """Median and spread."""
    if len(values) < 2:
        return Ratio(values[0], 0.0)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(middle, (high - low) / 2)


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
        name: Times(tuple(wall for wall, _ in times), tuple(cpu for _, cpu in times))
        for name, times in taken.items()
    }


def told(times: Mapping[str, Times]) -> str:
    """The medians in words."""
    return ", ".join(f"{name} {1e3 * each.wall:.4g} ms" for name, each in times.items())


def peak_mib(run: Callable[[], object]) -> float:
    """By how many MiB a call raises this process's memory at its highest (Linux only: the mark is set back)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _mib("VmRSS")
    run()
    return _mib("VmHWM") - before


def _mib(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


@dataclass(frozen=True)
class Run:
    """One run of a benchmark: the conditions it measures under, and where its figures are kept.

    Attributes:
        history: file to append to.
        threads: of torch.
        tiny: whether its figures say nothing, and are named so.
        busy: cores that other programs kept busy when it began.
    """

    history: Path
    threads: int
    tiny: bool
    busy: float

    @classmethod
    def begin(cls, arguments: argparse.Namespace) -> Run:
        """Look at the machine, and print under what conditions the lines that follow are measured."""
        others = psutil.cpu_percent(0.1 if arguments.tiny else 1.0) / 100 * (os.cpu_count() or 1)
        run = cls(arguments.history, arguments.threads, arguments.tiny, round(others, 2))
        wanted = fast_environment(run.threads)
        set_up = all(os.environ.get(name) == value for name, value in wanted.items())
        print(
            f"# {run.conditions}, "
            f"{'the launcher' if set_up else 'the system'}'s allocator, fp32 (bf16 off, as by default); other "
            f"programs on {run.busy:.2f} cores{': figures are provisional' if run.busy > QUIET else ''}",
            flush=True,
        )
        return run

    @property
    def conditions(self) -> str:
        """The machine, what runs on it, and with how many threads."""
        versions = " ".join(f"{name} {number}" for name, number in _versions().items())
        return f"{_processor()}, {CORES} cores; {versions}; threads {self.threads}"

    def tell(
        self,
        name: str,
        value: Ratio | float,
        goal: float,
        detail: str,
        *,
        at_most: bool = False,
    ) -> bool:
        """Print one result beside its goal, and keep it.

        Args:
            name: what was compared, without spaces.
            value: a ratio.
            goal: what it should be at least.
            detail: the times behind it, in words.
            at_most: the goal is what the value should be at most.

        Returns:
            Whether the goal is met.
        """
        name = f"tiny-{name}" if self.tiny else name
        figure, spread = (value.value, value.spread) if isinstance(value, Ratio) else (value, None)
        met = figure <= goal if at_most else figure >= goal
        before = self._lost(name, figure, spread, at_most)
        verdict = ("met" if met else "short") + ("" if before is None else f" lost, {before:.4g} before")
        shown = "" if spread is None else f"spread {spread:.2g}; "
        print(f"BENCH {name} {figure:.4g} {goal:g} {verdict} ({shown}{detail})", flush=True)
        kept = {
            "name": name,
            "value": figure,
            "spread": spread,
            "goal": goal,
            "met": met,
            "detail": detail,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "busy": self.busy,
            "versions": _versions(),
            **self._conditions(),
        }
        self.history.parent.mkdir(parents=True, exist_ok=True)
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
        return met

    def _conditions(self) -> dict[str, Any]:
        """Figures of other conditions are not compared."""
        return {"machine": f"{_processor()}, {CORES} cores", "threads": self.threads}

    def _lost(self, name: str, figure: float, spread: float | None, at_most: bool) -> float | None:
        """The last figure of the same name and conditions, where this one is worse by more than the spread."""
        here = {"name": name, **self._conditions()}
        before = [
            entry
            for entry in entries(self.history)
            if here.items() <= entry.items() and entry.get("busy", QUIET + 1) <= QUIET
        ]
        if self.busy > QUIET or not before:
            return None
        last = float(before[-1]["value"])
        allowed = max(
            UNKNOWN_SPREAD * last if each is None else each for each in (spread, before[-1]["spread"])
        )
        worse = figure - last if at_most else last - figure
        return last if worse > allowed else None


def entries(history: Path) -> list[dict[str, Any]]:
    """What is in a history; a line that was cut off, or that an earlier version wrote, may lack things."""
    found = []
    for line in history.read_text(encoding="utf-8").splitlines() if history.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version()} | {
        n: version(n) for n in ("torch", "numpy", "flwr", "monai")
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
