"""What ``phcc-simulate rats`` does: read, run, write ``rats.json``, ``rats.md`` and ``scores.csv``."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from phcc_model.contract import keys
from phcc_model.storage import write_atomically
from phcc_simulation.real.rats import INHIBITORS, MINUTES, OTHERS, read_rats
from phcc_simulation.real.rats_page import rats_page
from phcc_simulation.real.rats_schema import RatsResult
from phcc_simulation.real.rats_study import CONFIDENCE, CentreScores, leave_one_out
from phcc_simulation.real.temporal import HeadSettings, candidates

JSON_FILE, PAGE, SCORES = "rats.json", "rats.md", "scores.csv"

console = Console(soft_wrap=True, highlight=False, emoji=False)


def run_rats(data: Sequence[Path], out: Path, seeds: Sequence[int], centres: Sequence[str]) -> RatsResult:
    """Run the study and print its page.

    Args:
        data: folders of curves.
        out: folder to write to.
        seeds: of the head.
        centres: those to hold out; none: each in turn.

    Raises:
        PhccError: the data cannot be used, training failed, or the disk is full.
    """
    seeds = tuple(dict.fromkeys(seeds))
    began = time.monotonic()
    rats = read_rats(data)
    say(f"{len(rats.scans)} scans of {rats.scans.animals} animals; set aside: {len(rats.aside)}")
    held_out, scores = zip(*leave_one_out(rats.scans, centres or rats.scans.centres, seeds, say), strict=True)
    plain = tuple(plain_settings(settings) for settings in candidates())
    table = scores_csv(scores, seeds)
    content = data_digest(rats.files)
    substances = sorted(INHIBITORS), sorted(OTHERS)
    found = RatsResult(
        data=content,
        study=_digest([content, plain, seeds, MINUTES, *substances]),
        scores=hashlib.sha256(table.encode()).hexdigest(),
        versions={"package": keys.package_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "scikit-learn", "numpy")},
        seeds=seeds,
        minutes=MINUTES,
        inhibitors=tuple(substances[0]),
        others=tuple(substances[1]),
        candidates=plain,
        confidence=CONFIDENCE,
        held_out=held_out,
        aside=rats.aside,
        seconds=round(time.monotonic() - began, 1),
    )
    words = [*(folder.name for folder in data), "--out", out.name, "--seeds", ",".join(map(str, seeds))]
    command = " ".join(["phcc-simulate rats", *words, *(f"--centre {centre}" for centre in centres)])
    page = rats_page(found, command)
    write_atomically(out / SCORES, table)
    write_atomically(out / PAGE, page)
    write_atomically(out / JSON_FILE, found.model_dump_json(indent=2) + "\n")
    console.print(page, markup=False)
    console.print(f"page    {out / PAGE}\nfigures {out / JSON_FILE}", markup=False)
    return found


def plain_settings(settings: HeadSettings) -> dict[str, Any]:
    """Settings as plain values, for JSON."""
    fields = asdict(settings)
    return fields | {"classifier": settings.classifier.model_dump(mode="json")}


def scores_csv(scores: Iterable[CentreScores], seeds: Sequence[int]) -> str:
    """One line for each scan, score and seed: the logit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["centre", "animal", "scan", "label", "score", "seed", "logit"])
    for at in scores:
        for arm, logit_sn in at.logits.items():
            drawn = map(str, seeds) if len(logit_sn) > 1 or len(seeds) == 1 else [""]
            for seed, logit_n in zip(drawn, logit_sn, strict=True):
                for i, logit in enumerate(logit_n):
                    scan = at.scans.centre[i], at.scans.animal[i], at.scans.name[i], at.scans.label_n[i]
                    writer.writerow([*scan, arm, seed, f"{logit:.9g}"])
    return text.getvalue()


def data_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the files' names and contents, in the order of their names."""
    named = sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)
    return _digest(named)


def say(text: str) -> None:
    """Print one line with the time."""
    console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"))


def _digest(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
