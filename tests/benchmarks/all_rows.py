"""Every row of the speed table, each benchmark in a process of its own; then what was short and what was lost.

    make bench            all rows, about ten minutes on an idle machine
    make bench ROW=3      one row

A goal that is missed fails nothing: machines differ. A benchmark whose two sides do not compute the same, or
that breaks, does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from bench import options

ROWS = {
    1: ("bench_step.py", "--row", "1"),
    2: ("bench_step.py", "--row", "2"),
    3: ("bench_depthwise.py",),
    4: ("bench_step.py", "--row", "4"),
    5: ("bench_aggregation.py",),
    6: ("bench_wire.py",),
    7: ("bench_images.py",),
    8: ("bench_rounds.py",),
    9: ("bench_clients.py",),
}
LINE = re.compile(r"BENCH (?P<name>\S+) (?P<value>\S+) (?P<goal>\S+) (?P<met>met|short)(?P<lost> lost)?")


def run(words: list[str]) -> tuple[int, list[re.Match[str]]]:
    """Let one benchmark speak; its exit code and its lines."""
    found = []
    command = [sys.executable, str(Path(__file__).with_name(words[0])), *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if match := LINE.match(line):
                found.append(match)
    return process.returncode, found


def commands(rows: list[int]) -> list[list[str]]:
    """What to run; rows of one benchmark are measured in one process."""
    merged: dict[str, list[str]] = {}
    for row in rows:
        program, *choice = ROWS[row]
        words = merged.setdefault(program, [program, *choice[:1]])
        words += choice[1:]
    return list(merged.values())


def main(words: list[str] | None = None) -> int:
    """Run the rows that are asked for; 1 where one of them broke."""
    parser = options(__doc__ or "")
    parser.add_argument("--row", type=int, nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.set_defaults(threads=None, repeats=None)  # each benchmark has its own
    arguments = parser.parse_args(words)
    shared = ["--history", str(arguments.history), *(["--tiny"] if arguments.tiny else [])]
    for option in ("threads", "repeats"):
        value = getattr(arguments, option)
        shared += [] if value is None else [f"--{option}", str(value)]
    lines: list[re.Match[str]] = []
    broken = []
    for command in commands(arguments.row):
        begun = time.monotonic()
        code, found = run([*command, *shared])
        lines += found
        broken += [command[0]] if code else []
        print(f"# {' '.join(command)}: {time.monotonic() - begun:.0f} s", flush=True)
    short = [line["name"] for line in lines if line["met"] == "short"]
    lost = [line["name"] for line in lines if line["lost"]]
    for what, names in (("short", short), ("lost", lost), ("broken", broken)):
        if names:
            print(f"{what}: {', '.join(names)}")
    print(f"{len(lines) - len(short)} of {len(lines)} goals met; figures in {arguments.history}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
