"""What ``phcc-simulate seeds``, ``phcc-simulate combine`` and ``phcc-simulate compare`` do."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from phcc_model.arms import refuse_unknown_arms, written_out
from phcc_model.command_line import EXIT_ERROR, errors, plain
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, PhccError
from phcc_model.shipped import find_study
from phcc_model.storage import write_atomically
from phcc_model.study_file import load_study
from phcc_server.report.again import read_summary
from phcc_simulation.finished import STUDY_FILE
from phcc_simulation.precision import as_able
from phcc_simulation.proof.children import SeedPlan, run_side_by_side
from phcc_simulation.proof.claims_page import COMBINED, claims_page, read_told
from phcc_simulation.proof.combine import combine
from phcc_simulation.proof.compare import Condition, comparison, picture, refuse_names, refuse_unlike
from phcc_simulation.proof.configuration import configuration
from phcc_simulation.proof.drawing import Drawing, differences, forest, labels
from phcc_simulation.proof.drawing_rounds import curves, monitors
from phcc_simulation.proof.figures import REPLICATES
from phcc_simulation.proof.monitors import training_centres_of
from phcc_simulation.proof.pace import SeedsPace
from phcc_simulation.proof.runs import SeedRun, read_runs
from phcc_simulation.proof.schema import Combined
from phcc_simulation.proof.text import claims_table, headlines, markdown, title

COMBINED_TEXT = "combined.md"
COMPARISON, COMPARED = "comparison.md", "comparison.json"
SEED_KEYS = ("seed", "data.phantom.seed")

console = Console(soft_wrap=True, highlight=False, emoji=False)


def run_seeds(
    study_name: str,
    out: Path,
    seeds: Sequence[int],
    arms: Sequence[str],
    overrides: Sequence[str],
    at_once: int,
    device: str,
) -> None:
    """Run a study once for each seed and combine what comes of it; exit 1 where a seed failed.

    Raises:
        PhccError: the study cannot be run, or no seed was finished.
    """
    for override in overrides:
        if override.partition("=")[0].strip() in SEED_KEYS:
            raise ConfigError(
                "the seeds are given by --seeds", where=f"--set {override}", remedy="Leave it out"
            )
    out = out.expanduser().resolve()
    began = time.monotonic()
    todo: list[SeedPlan] = []
    finished: list[SeedPlan] = []
    said = ""
    for seed in dict.fromkeys(seeds):
        folder = out / f"seed-{seed}"
        study, said = as_able(seed_study(study_name, overrides, arms, seed), device)
        words = _words(study_name, folder, study, arms, overrides, device)
        (finished if _covered(folder, study) else todo).append(SeedPlan(seed, folder, words))
    if said:
        say(said)
    for plan in finished:
        say(f"seed {plan.seed}: finished before")
    failed: dict[int, str] = {}
    if todo:
        at_once = min(at_once, len(todo))
        say(
            f"{len(todo)} seed{'' if len(todo) == 1 else 's'} to run, {at_once} side by side, one thread each"
        )
        pace = SeedsPace([plan.seed for plan in todo], at_once, say)
        failed = run_side_by_side(todo, at_once, out, pace.started, pace.event, pace.ended)
    try:
        combine_seeds(out)
    except PhccError as error:
        if not failed:
            raise
        errors.print(f"[bold red]error:[/] {plain(str(error))}")
    say(f"done in {time.monotonic() - began:.0f} s")
    for seed, failure in failed.items():
        errors.print(f"[bold red]error:[/] seed {seed}: {plain(failure)}")
    if failed:
        errors.print("The same command goes on with what failed.")
        sys.exit(EXIT_ERROR)


def combine_seeds(out: Path, replicates: int = REPLICATES) -> Combined:
    """Read all finished seeds of a folder, write what they say together, and print it.

    Raises:
        StorageError: no seed is finished, a file is damaged, or the disk is full.
        ConfigError: the folders hold different studies.
    """
    runs, left_out = read_runs(out)
    arms = len({arm for run in runs for arm in run.arms})
    say(f"combining: seeds {len(runs)}, arms {arms}; about a minute where patients and arms are many")
    found = combine(runs, left_out, replicates=replicates)
    pictures = drawings(found, runs)
    for one in pictures:
        write_picture(out, one)
    shown = [(f"{one.picture.name}.svg", one.picture.title, one.picture.caption) for one in pictures]
    write_atomically(out / COMBINED_TEXT, markdown(found, shown, configuration(runs[0].study, found)))
    write_atomically(out / COMBINED, found.model_dump_json(indent=2) + "\n")
    console.print(Text(f"\n{title(found)}", style="bold"))
    for number, text in enumerate(headlines(found), 1):
        console.print(Text(f"{number}. {text}"))
    console.print(claims_table(found))
    console.print(f"text    {out / COMBINED_TEXT}\nfigures {out / COMBINED}", markup=False)
    return found


def compare_conditions(folders: Sequence[Path], out: Path) -> None:
    """Write one page over folders of seeds, and print it.

    Raises:
        ConfigError: they are not of one study under several conditions.
        StorageError: no seed of a folder is finished, a file is damaged, or the disk is full.
    """
    refuse_names([folder.name for folder in folders])
    found = []
    for folder in folders:
        say(f"combining {folder.name}")
        runs, left_out = read_runs(folder)
        found.append(Condition(folder.name, runs[0].study, combine(runs, left_out)))
    refuse_unlike(found)
    page = comparison(found)
    write_picture(out, picture(found))
    write_atomically(out / COMPARISON, page)
    figures = {one.name: one.found.model_dump(mode="json") for one in found}
    write_atomically(out / COMPARED, json.dumps(figures, indent=2) + "\n")
    console.print(page, markup=False)
    console.print(f"text    {out / COMPARISON}\nfigures {out / COMPARED}", markup=False)


def write_claims(folders: Sequence[Path], out: Path) -> None:
    """Write one page of several studies' claims, and print it.

    Raises:
        ConfigError: they cannot be held side by side.
        StorageError: a study's figures are not there or damaged, or the disk is full.
    """
    page = claims_page([read_told(folder) for folder in folders])
    write_atomically(out, page)
    console.print(page, markup=False)
    console.print(f"text {out}", markup=False)


def drawings(found: Combined, runs: Sequence[SeedRun]) -> list[Drawing]:
    """Every picture for which there is something to draw."""
    drawn = [
        forest(found),
        differences(found),
        labels(found, runs[0].study.finetune.label_fraction),
        curves(found, runs),
        monitors(found, runs),
    ]
    return [one for one in drawn if one is not None]


def seed_study(study_name: str, overrides: Sequence[str], arms: Sequence[str], seed: int) -> StudyConfig:
    """The study as one seed runs it: other first weights, and other patients where they are synthetic.

    Raises:
        ConfigError: the study, an override or an arm is wrong.
    """
    study = load_study(find_study(study_name), [*overrides, f"seed={seed}"])
    if study.data.source == "phantom":
        phantom = study.data.phantom.model_copy(update={"seed": seed})
        study = study.model_copy(update={"data": study.data.model_copy(update={"phantom": phantom})})
    if arms:
        compared = study.evaluation.model_copy(update={"arms": tuple(arms)})
        study = study.model_copy(update={"evaluation": compared})
    refuse_unknown_arms(study)
    return study


def _words(
    study_name: str,
    folder: Path,
    study: StudyConfig,
    arms: Sequence[str],
    overrides: Sequence[str],
    device: str,
) -> tuple[str, ...]:
    """The command line of one seed."""
    words = ["run", study_name, "--out", str(folder), "--in-memory", "--threads", "1", "--jobs", "1"]
    words += ["--device", device]
    seeds = [f"seed={study.seed}"]
    if study.data.source == "phantom":
        seeds.append(f"data.phantom.seed={study.seed}")
    words += [f"--set={override}" for override in (*overrides, *seeds)]
    return (*words, *(f"--arm={arm}" for arm in arms))


def _covered(folder: Path, study: StudyConfig) -> bool:
    """Whether this very study is finished in the folder, with all its arms; anything else is run (again)."""
    try:
        summary, before = read_summary(folder), load_study(folder / STUDY_FILE)
        arms = written_out(study.evaluation.arms, study, training_centres_of(summary))
    except PhccError:
        return False
    same = before.model_copy(update={"evaluation": study.evaluation}).digest == study.digest
    return same and set(arms) <= set(summary.arms)


def write_picture(out: Path, one: Drawing) -> None:
    """A picture beside its page, as SVG and as PNG."""
    write_atomically(out / f"{one.picture.name}.svg", one.picture.document)
    write_atomically(out / f"{one.picture.name}.png", one.png)


def say(text: str) -> None:
    """A line of progress, with the time."""
    console.print(Text(f"{time.strftime('%H:%M:%S')} {text}"))
