"""A round of Flower's simulation beside the same round without Flower (row 8 of the speed table).

One run of the simulation over two virtual centres of the demo's study (synthetic patients), one after the
other with all threads. The coordinator reaches its centres through Flower in every other round and within its
own process in the rest: training, validation and aggregation are the same, and so is the loop around them. How
many local epochs make a round of 6 s is found out first. Rounds last what the ledger says.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from bench import Run, Times, as_launched, options, ratio
from small_study import prepared, small_study

from phcc_client.session import Runtime, Session
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import RoundError
from phcc_model.study_file import dump_study
from phcc_server.bundle import bundle
from phcc_server.journal import Journal
from phcc_server.ledger import read_rounds
from phcc_simulation import launcher
from phcc_simulation.app import JOURNAL
from phcc_simulation.commands import STUDY

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import train_order

HERE = Path(__file__).parent
LOCAL_S, ROUND_S = 5.0, 6.0
"""What a round's training lasts at least, and what is aimed at."""
MOST_EPOCHS = 2000


def with_rounds(study: StudyConfig, rounds: int, epochs: int) -> StudyConfig:
    """The study with so much pre-training, and the least there is of everything else."""
    pretrain = study.pretrain.model_copy(update={"rounds": rounds, "local_epochs": epochs})
    finetune = study.finetune.model_copy(update={"rounds": 1})
    return study.model_copy(update={"pretrain": pretrain, "finetune": finetune})


def epochs_for(seconds: float, study: StudyConfig, out: Path, centres: tuple[str, ...], threads: int) -> int:
    """Local epochs after which the centres together have trained for so long."""
    took = 0.0
    for trial in (1, 20):  # the first one warms up
        begun = time.perf_counter()
        for centre in centres:
            asked = with_rounds(study, 1, trial)
            session = Session(out / "sites" / centre, centre, Runtime(threads=threads))
            session.train(train_order(asked, keys.PRETRAIN, centre))
        took = (time.perf_counter() - begun) / trial
    return max(1, min(MOST_EPOCHS, math.ceil(seconds / took)))


def seconds_of(ledger: Path) -> dict[str, Times]:
    """The rounds of the pre-training but the first two, which also start things up, by who carried them."""
    lasted = {r.round: r.seconds for r in read_rounds(ledger) if r.stage == keys.PRETRAIN}
    flower, memory = (tuple(lasted[i] for i in sorted(lasted)[2:] if i % 2 == side) for side in (0, 1))
    return {"flower": Times(flower, flower), "memory": Times(memory, memory)}


def simulate(study: StudyConfig, out: Path, nodes: int, threads: int) -> None:
    """Run the simulation with the coordinator that takes turns."""
    (out / STUDY).write_text(dump_study(study), encoding="utf-8")
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    plan = launcher.Launch(out, nodes, clients_at_once=1, threads=threads)
    description = bundle("turn_app", "phcc_simulation", launcher.CONFIG)
    with (
        patch.dict(os.environ, {"PYTHONPATH": path}),
        patch.object(launcher, "bundle", lambda *_: description),
    ):
        for _ in launcher.launch(plan, Journal(out / JOURNAL)):
            pass


def main(words: list[str] | None = None) -> int:
    """One line; 1 where a reply depends on who carried the order."""
    arguments = options(__doc__ or "", repeats=3).parse_args(words)
    torch.set_num_threads(arguments.threads)
    run = Run.begin(arguments)
    out = Path(tempfile.mkdtemp(prefix="bench-rounds-"))
    study = small_study(run.tiny)
    centres = prepared(study, out).centres
    epochs = 1 if run.tiny else epochs_for(ROUND_S, study, out, centres, run.threads)
    study = with_rounds(study, 2 + 2 * arguments.repeats, epochs)
    try:
        simulate(study, out, len(centres), run.threads)
    except RoundError as error:  # what it names lies in the folder, which is kept
        print(f"error: {error}", file=sys.stderr)
        return 1
    same = (out / "same.txt").read_text() == "yes"
    times = seconds_of(out / "ledger.jsonl")
    shutil.rmtree(out)
    print(f"rounds: by Flower and from memory, a reply is {'' if same else 'NOT '}the same to the bit")
    if not same:
        print("error: Flower's side does not compute the same: nothing to compare", file=sys.stderr)
        return 1
    flower, memory = times["flower"].wall, times["memory"].wall
    detail = f"{flower:.2f} s, without Flower {memory:.2f} s, {len(centres)} centres one after the other"
    detail += f", {epochs} local epochs (synthetic)"
    if memory < LOCAL_S:
        detail += f"; less than {LOCAL_S:g} s of local work: says little"
    run.tell("round-against-memory", ratio(times["flower"], times["memory"]), 1.10, detail, at_most=True)
    return 0


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
