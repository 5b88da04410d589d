"""The last figure of every goal as a table, out of the history: `results.py > tests/benchmarks/RESULTS.md`.

Figures of tiny sizes are left out; one that was measured on a busy machine is marked as provisional.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from bench import QUIET, entries, options

ROWS = (
    (1, "SSL step against the masked dense network of torch's own layers (R0 NCDHW, R1 channels_last_3d)",
     r"step-.*-against-R"),
    (2, "packed against our own dense step", r"step-.*-against-dense"),
    (3, "depthwise convolution, forward and backward, against torch's", r"depthwise-"),
    (4, "SSL step beside its counted FLOPs at the rate of one large product (times, at most)", r"step-.*-flops"),
    (5, "aggregation against Flower's; memory in models (at most)", r"aggregation-"),
    (6, "bytes of a reply beside fp32 weights, and error (at most)", r"wire-"),
    (7, "images against MONAI's chain; share of waiting (at most)", r"images-"),
    (8, "a round by Flower's simulation beside the same without Flower (times, at most)", r"round-"),
    (9, "two clients on two cores against one process with two threads", r"two-clients-"),
)  # fmt: skip


def latest(history: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last entry of each name, of those that say under what conditions they were measured."""
    return {
        entry["name"]: entry
        for entry in history
        if "versions" in entry and not entry["name"].startswith("tiny-")
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: conditions, then the goals row by row."""
    if not found:
        raise SystemExit("error: the history holds no figure; run `make bench` first")
    parts = ["# The speed table as last measured", ""]
    parts += [f"- {conditions}" for conditions in dict.fromkeys(map(_conditions, found.values()))]
    parts += [
        "",
        "Written by `tests/benchmarks/results.py`; `make bench` measures again. All data are synthetic.",
        "",
    ]
    parts += ["| row | what | figure | spread | goal | | measured |", "|---|---|---|---|---|---|---|"]
    for row, what, pattern in ROWS:
        parts.append(f"| {row} | **{what}** | | | | | |")
        parts += [_line(name, entry) for name, entry in found.items() if re.match(pattern, name)]
    return "\n".join(parts) + "\n"


def _line(name: str, entry: dict[str, Any]) -> str:
    spread = "" if entry["spread"] is None else f"{entry['spread']:.2g}"
    verdict = "met" if entry["met"] else "**short**"
    provisional = ", provisional" if entry["busy"] > QUIET else ""
    cells = (
        name,
        f"{entry['value']:.4g}",
        spread,
        f"{entry['goal']:g}",
        verdict + provisional,
        entry["detail"],
    )
    return f"| | {' | '.join(cells)} |"


def _conditions(entry: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in entry["versions"].items())
    return f"{entry['at'][:10]}; {entry['machine']}; {versions}; threads {entry['threads']}"


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    arguments = options(__doc__ or "").parse_args(words)
    print(table(latest(entries(arguments.history))), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
