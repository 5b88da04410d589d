"""``NEWCOMER``: README.md's lines alone, from clean directories to a finished study of two hospitals, timed.

    python tests/deployment/newcomer.py --out runs/newcomer

The commands are read out of README.md, each of its lines is given once by everyone whom it concerns, and a line
that nobody gives is an error: so the README cannot fall behind. What is changed in a line is what a reader would
change: names, addresses and folders (`Hospital.own_words`), and the ports, because here both hospitals share a
machine. Files that people send each other are copied. The images are synthetic, and are there before the clock
starts, like the installed package and the study's file. The last line says how long typing and waiting took,
without the seconds that sites trained:
``NEWCOMER <seconds> <=600 met|short (training <seconds> s)``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
from harness import PROGRAMS, free_port, run_program, write_study

from phcc_model.supervision import stop_detached

README = Path(__file__).parents[2] / "README.md"
COORDINATOR, HOSPITAL = "## Coordinate a study over real hospitals", "## Take part as a hospital"
MOST_S = 600.0
KEYS_A_SECOND = 3.0
"""Of somebody who types with care: every command is counted so, though a program gives it."""
PATIENCE_S = 600.0
CONNECTS_IN_S = 120.0

STORY = (
    ("coordinator", "phcc-server init"),
    ("coordinator", "phcc-server start"),
    ("for each", "phcc-server invite"),
    ("hospital", "phcc-client init"),
    ("for each", "phcc-server admit"),
    ("hospital", "phcc-client set"),
    ("hospital", "phcc-client doctor"),
    ("hospital", "phcc-client show"),
    ("hospital", "phcc-client approve"),
    ("hospital", "phcc-client start"),
    ("hospital", "phcc-client status"),
    ("coordinator", "phcc-server submit"),
    ("coordinator", "phcc-server watch"),
    ("coordinator", "phcc-server report"),
    ("hospital", "phcc-client outbox"),
)
"""Who gives which line of the README, in which order: the coordinator (also once for each hospital), or each."""


class Fell(AssertionError):
    """The README's lines do not lead there."""


@dataclass(frozen=True)
class Hospital:
    """One hospital: its directory, and what its people write in place of the README's example."""

    name: str
    centre: str
    folder: Path
    ports: tuple[int, ...]

    def own_words(self, line: str, data: Path) -> str:
        """A line with this hospital's name, images, device and ports."""
        line = line.replace("st-mary", self.name).replace("/srv/hcc", shlex.quote(str(data)))
        here = [f"centre={self.centre}"]
        here += [
            f"{key}={port}"
            for key, port in zip(("runtime_port", "health_port", "metrics_port"), self.ports, strict=True)
        ]
        return line.replace("device=cuda", " ".join(["device=cpu", *here]))


def commands_below(heading: str, text: str) -> tuple[str, ...]:
    """The commands of the first block of code below a heading, without what stands behind a ``#``."""
    block = re.search(rf"^{re.escape(heading)}\n+```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    if block is None:
        raise Fell(f"README.md has no block of commands below {heading!r}")
    return tuple(shlex.join(shlex.split(line, comments=True)) for line in block[1].splitlines() if line)


def story(text: str) -> tuple[tuple[str, str], ...]:
    """Who gives which command, in order.

    Raises:
        Fell: a line of the README has no place here, or a place has no line.
    """
    lines = [*commands_below(COORDINATOR, text), *commands_below(HOSPITAL, text)]
    told = []
    for who, begin in STORY:
        found = [line for line in lines if f"{line} ".startswith(f"{begin} ")]
        if len(found) != 1:
            raise Fell(f"README.md has {len(found)} lines {begin!r}, not one")
        lines.remove(found[0])
        told.append((who, found[0]))
    if lines:
        raise Fell(f"nobody gives README.md's line {lines[0]!r}")
    return tuple(told)


class Newcomer:
    """Everybody of the story, on one machine.

    Args:
        out: for the clean directories, the images and the study.
    """

    def __init__(self, out: Path) -> None:
        taken: set[int] = set()
        self.coordinator = out / "coordinator"
        self.data = out / "images"
        self.port = free_port(taken)
        self.hospitals = tuple(
            Hospital(name, centre, out / name, tuple(free_port(taken) for _ in range(3)))
            for name, centre in (("st-mary", "C1"), ("charite", "C2"))
        )
        self.keys = 0
        for folder in (self.coordinator, *(hospital.folder for hospital in self.hospitals)):
            folder.mkdir(parents=True)

    def play(self, who: str, line: str) -> None:
        """Give one of the README's lines, as often as it is given."""
        line = line.replace("phcc.example.org:443", f"localhost:{self.port}")
        if who == "coordinator":
            self.give(self.coordinator, line)
            return
        for hospital in self.hospitals:
            folder = self.coordinator if who == "for each" else hospital.folder
            said = self.give(folder, hospital.own_words(line, self.data))
            self.send(said, hospital)

    def give(self, folder: Path, line: str) -> str:
        """One command in one directory, with a yes where it asks; what it said."""
        begin = time.monotonic()
        self.keys += len(line) + 1
        program, *words = shlex.split(line)
        patience = CONNECTS_IN_S if line == "phcc-client status" else 0.0
        while True:
            done = self._run(folder, program, words)
            if done.returncode == 0:
                break
            if time.monotonic() - begin > patience:
                raise Fell(f"{folder.name}$ {line}\n{done.stdout}{done.stderr}")
            time.sleep(1.0)
        print(f"{time.monotonic() - begin:6.1f} s  {folder.name}$ {line}", flush=True)
        return done.stdout

    def _run(self, folder: Path, program: str, words: list[str]) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "PHCC_"))}
        return subprocess.run(
            [str(PROGRAMS / program), *words],
            cwd=folder,
            env={**kept, "COLUMNS": "200"},
            input="y\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def send(self, said: str, hospital: Hospital) -> None:
        """A kit to the hospital, an admission file to the coordinator: by hand, and not by us."""
        if found := re.search(r"^kit for \S+: (.+)$", said, re.MULTILINE):
            shutil.copy(self.coordinator / found[1], hospital.folder)
        if found := re.search(r"^ *admission file +(.+)$", said, re.MULTILINE):
            shutil.copy(hospital.folder / found[1], self.coordinator)

    def training_s(self) -> float:
        """Seconds that rounds waited for training: those of each round's slowest site."""
        return sum(
            max((site.get("seconds") or 0.0 for site in record["sites"].values()), default=0.0)
            for record in self._rounds()
        )

    def _rounds(self) -> Iterator[dict[str, dict[str, dict[str, float]]]]:
        ledger = self.coordinator / "phcc-server" / "runs" / "study-1" / "ledger.jsonl"
        for line in ledger.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)["record"]

    def stop(self) -> None:
        """Everything that runs."""
        for folder in (
            *(hospital.folder / "phcc-client" for hospital in self.hospitals),
            self.coordinator / "phcc-server",
        ):
            if folder.exists():
                stop_detached(folder)


def images_and_study(out: Path) -> Path:
    """What is there before the clock starts: two hospitals' images, and a study of their size."""
    study = write_study(
        out,
        name="study",
        data={
            "phantom": {"patients": 120, "external_patients": 0, "training_centres": 2},
            "centres": {"external": []},
        },
        pretrain={"rounds": 2, "local_epochs": 2},
        finetune={"rounds": 2, "local_epochs": 2},
    )
    run_program("phcc-simulate", "phantom", str(study), "--out", str(out / "images"))
    return study


def main() -> int:
    """Play the story; 0 where it ends well, and in time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out.resolve() / "newcomer"
    told = story(README.read_text(encoding="utf-8"))
    harness.forget(out)
    out.mkdir(parents=True)
    study = images_and_study(out)
    newcomer = Newcomer(out)
    shutil.copy(study, newcomer.coordinator)
    begin = time.monotonic()
    try:
        for who, line in told:
            newcomer.play(who, line)
        waited, training = time.monotonic() - begin, newcomer.training_s()
    except Fell as error:
        print(f"NEWCOMER fell: {error}", flush=True)
        return 1
    finally:
        newcomer.stop()
    seconds = waited + newcomer.keys / KEYS_A_SECOND - training
    met = seconds <= MOST_S
    print(f"NEWCOMER {seconds:.0f} <={MOST_S:.0f} {'met' if met else 'short'} (training {training:.0f} s)")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
