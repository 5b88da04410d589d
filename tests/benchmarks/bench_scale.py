"""``make bench-scale``: what a round costs with 2, 8, 32 and 100 virtual centres.

    python tests/benchmarks/bench_scale.py --out runs/bench-scale --sites 2 8

The coordinator's own loop, three times: over Flower's simulation engine, one centre at a time, with centres
that train nothing and with centres that train on eight small synthetic patients each; and without Flower, each
reply made when it is its turn, by centres that train nothing. Told are seconds a round (those of pre-training
but the first), by how many models (as float32) the coordinator's process grew at its highest, and the disk that
it and Flower took. In a simulation Flower's own store of messages lies in the coordinator's process: what of
the memory is Flower's shows beside the run without it. Figures are added to those of earlier runs of the same
size; a plot shows them all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench import ROOT, Run, as_launched, options
from small_study import prepared, small_study

sys.path.append(str(Path(__file__).parents[1] / "deployment"))

from scale_app.app import LEDGER, MEMORY, NullCentre, coordinate, names_of

from phcc_model.build import first_weights
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_model.errors import PhccError
from phcc_model.study_file import dump_study, load_study
from phcc_server.bundle import bundle
from phcc_server.journal import Journal
from phcc_server.ledger import read_rounds
from phcc_server.report.canvas import canvas
from phcc_server.sites import NoReply
from phcc_simulation import launcher
from phcc_simulation.app import JOURNAL
from phcc_simulation.commands import STUDY

HERE = Path(__file__).parent
DEPLOYMENT = HERE.parent / "deployment"
COUNTS = (2, 8, 32, 100)
WIDE = ("model.dims=[380, 680]", "model.kernel=[3, 3, 3]", "model.decoder_width=64")
"""About seven million weights, 28 MB: as those of `tests/deployment/cost.py`."""
FIGURES, PAGE = "scale.json", "scale.md"
PATIENTS = 8
"""Of a centre that trains."""
WAYS = {
    "flower": "through Flower's simulation",
    "real": "the same, and they train",
    "alone": "without Flower",
}
MIB = 2**20

Row = dict[str, Any]


class AtOnce:
    """`phcc_server.sites.Sites` without Flower: each reply is made when it is its turn."""

    def __init__(self, names: Sequence[str]) -> None:
        self._centres = {name: NullCentre(name, Path()) for name in names}

    def cards(
        self, order: CardOrder, expected: Sequence[str], patience_s: float | None = None
    ) -> dict[str, SiteCard | NoReply]:
        """Everybody is there."""
        del patience_s
        return {name: self._centres[name].card(order) for name in expected}

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        """One after the other."""
        del deadline_s
        for order in orders:
            yield order, self._centres[order.site].train(order)

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        """Nobody has validation patients."""
        del deadline_s
        for order in orders:
            yield order, NoReply("failed", "a null centre evaluates nothing")


def study_for(sites: int, rounds: int, tiny: bool) -> StudyConfig:
    """So many centres, so many rounds of pre-training, and one of fine-tuning, which a study must have."""
    wide = () if tiny else WIDE
    return small_study(
        True,
        *wide,
        "data.centres.mode=iid",
        f"data.centres.count={sites}",
        f"data.phantom.patients={PATIENTS * sites}",
        f"pretrain.rounds={rounds}",
        "finetune.rounds=1",
        f"federation.minimum_sites={sites}",
        "federation.start_patience_s=1800",
        "federation.round_deadline_s=3600",
    )


def by_flower(study: StudyConfig, out: Path) -> float:
    """Run it over Flower's simulation engine, one centre at a time; MiB that the coordinator's process grew by.

    Raises:
        RoundError: the run failed.
    """
    (out / STUDY).write_text(dump_study(study), encoding="utf-8")
    there = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(HERE), str(DEPLOYMENT), *filter(None, [there])])
    plan = launcher.Launch(out, study.data.centres.count, clients_at_once=1, threads=1)
    description = bundle("scale_app", "scale_app", launcher.CONFIG)
    with (
        patch.dict(os.environ, {"PYTHONPATH": path}),
        patch.object(launcher, "bundle", lambda *_: description),
    ):
        for _ in launcher.launch(plan, Journal(out / JOURNAL)):
            pass
    return float(json.loads((out / MEMORY).read_text())["peak_mib"])


def trained(study: StudyConfig, out: Path) -> float:
    """As `by_flower`, by centres with patients, which are written first."""
    prepared(study, out)
    return by_flower(study, out)


def alone(study: StudyConfig, out: Path) -> float:
    """Run it without Flower, in a process of its own; MiB that this grew by."""
    (out / STUDY).write_text(dump_study(study), encoding="utf-8")
    command = [sys.executable, __file__, "--alone", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def seconds_of(out: Path) -> float:
    """The median of the pre-training's rounds but the first, which also starts things up."""
    return statistics.median(
        [r.seconds for r in read_rounds(out / LEDGER) if r.stage == keys.PRETRAIN and r.round]
    )


def disk_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(sites: int, rounds: int, tiny: bool, out: Path) -> Row:
    """All figures of one number of centres.

    Raises:
        PhccError: the run failed.
    """
    study = study_for(sites, rounds, tiny)
    weights = Manifest.of(first_weights(study, keys.PRETRAIN)).size
    model = 4 * weights / MIB
    row: Row = {"sites": sites, "rounds": rounds, "weights": weights}
    for name, run in zip(WAYS, (by_flower, trained, alone), strict=True):
        folder = out / f"{name}-{sites}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        peak = run(study, folder)
        for patients in ("data", "sites"):
            shutil.rmtree(folder / patients, ignore_errors=True)
        engine = disk_of(folder / "flower") if (folder / "flower").is_dir() else 0
        row[name] = {
            "round_s": round(seconds_of(folder), 3),
            "peak_models": round(peak / model, 2),
            "run_mb": round((disk_of(folder) - engine) / 1e6, 2),
            "engine_mb": round(engine / 1e6, 2),
        }
        shutil.rmtree(folder)
    return row


def tell(row: Row) -> None:
    """One line of one number of centres."""
    both = [
        f"{words} {of['round_s']:.2f} s a round, {of['peak_models']:.1f} models, disk {of['run_mb']:.1f} MB "
        f"+ {of['engine_mb']:.1f} MB of Flower's"
        for words, of in ((WAYS[name], row[name]) for name in WAYS)
    ]
    print(f"SCALE {row['sites']} centres, {row['weights']:,} weights: {'; '.join(both)}", flush=True)


def kept(out: Path, rows: Sequence[Row]) -> list[Row]:
    """These figures and those of earlier runs of the same network, by the number of centres."""
    file = out / FIGURES
    earlier: list[Row] = json.loads(file.read_text())["rows"] if file.is_file() else []
    found = {row["sites"]: row for row in earlier if row["weights"] == rows[0]["weights"]}
    return sorted((found | {row["sites"]: row for row in rows}).values(), key=lambda row: row["sites"])


def draw(rows: Sequence[Row], out: Path) -> None:
    """Memory and seconds against the number of centres, as SVG and PNG."""
    with canvas(2, height=5.4) as sheet:
        shown = (("peak_models", "memory, in models"), ("round_s", "seconds a round"))
        for axes, (key, label) in zip(sheet.panels, shown, strict=True):
            for name, words in WAYS.items():
                axes.plot([r["sites"] for r in rows], [r[name][key] for r in rows], marker="o", label=words)
            axes.set_xlabel("virtual centres")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        for kind in ("svg", "png"):
            sheet.figure.savefig(out / f"scale.{kind}", dpi=150)


def page(rows: Sequence[Row], machine: str) -> str:
    """The figures as Markdown, with the plot."""
    parts = [
        "# What a round costs with many virtual centres",
        f"Synthetic data; {rows[0]['weights']:,} weights, 4 bytes each; {machine}. Centres train one after the "
        "other. `make bench-scale` measures again.",
        "![memory and seconds by the number of centres](scale.svg)",
        "\n".join(_lines(rows)),
        "Memory: by how many models the coordinator's process grew at its highest; in a simulation Flower's own "
        "store of messages lies in it. Disk: what the run and Flower left, with the cache "
        "of the crops but without the patients' own files.",
    ]
    return "\n\n".join(parts) + "\n"


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    yield "| centres | way | seconds a round | memory, in models | disk, MB | Flower's disk, MB |"
    yield "|---:|---|---:|---:|---:|---:|"
    for row in rows:
        for name, words in WAYS.items():
            of = row[name]
            figures = (of["round_s"], of["peak_models"], of["run_mb"], of["engine_mb"])
            yield f"| {row['sites']} | {words} | {' | '.join(f'{figure:.4g}' for figure in figures)} |"


def main(words: list[str] | None = None) -> int:
    """One line a number of centres; 1 where a run failed, and what was measured is kept."""
    parser = options(__doc__ or "", repeats=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-scale")
    parser.add_argument("--sites", type=int, nargs="+", default=list(COUNTS), help="numbers of centres")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.alone:
        study = load_study(arguments.alone / STUDY)
        print(coordinate(study, arguments.alone, AtOnce(names_of(study, arguments.alone))))
        return 0
    run = Run.begin(arguments)
    out = arguments.out.expanduser().resolve()
    rows: list[Row] = []
    failed = False
    for sites in arguments.sites:
        try:
            rows.append(measure(sites, 1 + arguments.repeats, run.tiny, out))
        except (PhccError, subprocess.CalledProcessError) as error:
            print(f"error: {sites} centres: {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        tell(rows[-1])
        every = kept(out, rows)
        content = {"synthetic": True, "busy_cores": run.busy, "rows": every}
        (out / FIGURES).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draw(every, out)
        (out / PAGE).write_text(page(every, run.conditions), encoding="utf-8")
    print(f"# figures {out / FIGURES}, plot {out / 'scale.svg'}")
    return int(failed)


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
