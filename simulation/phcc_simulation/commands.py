"""What the subcommands of ``phcc-simulate`` do, with progress on the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from phcc_client.session import Runtime, Session
from phcc_model.arms import plan_arms, refuse_unknown_arms
from phcc_model.command_line import EXIT_ERROR, errors
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, StorageError
from phcc_model.shipped import find_study
from phcc_model.study_file import dump_study, load_study
from phcc_server.journal import Journal
from phcc_server.report.again import read_summary, report_again
from phcc_server.report.schema import Summary
from phcc_server.report.table import result_table
from phcc_server.screen import Screen
from phcc_simulation.federation import MemorySites
from phcc_simulation.launcher import Launch, launch
from phcc_simulation.phantom.check import check_visibility
from phcc_simulation.phantom.write import write_phantom
from phcc_simulation.precision import as_able, in_words
from phcc_simulation.prediction import score_images
from phcc_simulation.study_run import StudyRun
from phcc_simulation.workspace import Preparer, Workspace

JOURNAL = "progress.jsonl"
STUDY = "study.yaml"
LEAST_FREE_BYTES = 500 * 2**20

console = Console()


def run_study(
    study_name: str,
    out: Path,
    overrides: Sequence[str],
    arms: Sequence[str],
    threads: int | None,
    jobs: int,
    device: str,
    *,
    in_memory: bool,
) -> None:
    """Run a study and print its table.

    Raises:
        PhccError: what is wrong, in one line; what was finished is kept.
    """
    study, said = as_able(load_study(find_study(study_name), overrides), device)
    if arms:
        study = study.model_copy(
            update={"evaluation": study.evaluation.model_copy(update={"arms": tuple(arms)})}
        )
    refuse_unknown_arms(study)
    out = out.expanduser().resolve()
    with Screen(console) as screen:
        if said:
            screen.note(said)
        _begin(out, study)
        workspace = Preparer(out, jobs, screen.files).prepare(study)
        plan_arms(study.evaluation.arms, study, workspace.centres)
        side_by_side = min(os.cpu_count() or 1, len(workspace.centres))
        threads = threads or max(1, (os.cpu_count() or 1) // side_by_side)
        journal = Journal(out / JOURNAL)
        journal.path.unlink(missing_ok=True)
        runtime = Runtime(device, threads)
        each = f"{threads} thread{'s' if threads > 1 else ''}"
        if in_memory:
            screen.note(f"training in this process: {each}, {in_words(study)}")
            StudyRun(study, out, runtime, jobs, Journal(journal.path, screen.event)).run(_sessions(runtime))
        else:
            screen.note(
                f"starting Flower: {len(workspace.centres)} virtual centres, {side_by_side} at a time, "
                f"{each} each, {in_words(study)}"
            )
            plan = Launch(out, len(workspace.centres), side_by_side, threads, device)
            for event in launch(plan, journal):
                screen.event(event)
    summary = Summary.model_validate_json((out / "summary.json").read_text(encoding="utf-8"))
    console.print(result_table(summary))
    console.print(f"report  {out / 'report.html'}\nfigures {out / 'summary.json'}", soft_wrap=True)


def _sessions(runtime: Runtime) -> Callable[[Workspace], MemorySites]:
    def federated(workspace: Workspace) -> MemorySites:
        return MemorySites({c: Session(workspace.site(c), c, runtime) for c in workspace.centres})

    return federated


def _begin(out: Path, study: StudyConfig) -> None:
    """Make the run's folder, or check that it is this study's."""
    path = out / STUDY
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            before = load_study(path)
            if before.model_copy(update={"evaluation": study.evaluation}).digest != study.digest:
                raise ConfigError(
                    "this folder holds the run of another study, or of this one configured otherwise",
                    where=str(out),
                    remedy="Choose another --out, or remove the folder",
                )
        path.write_text(dump_study(study), encoding="utf-8")
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise StorageError(
            f"the run's folder cannot be written ({error.strerror})",
            where=str(out),
            remedy="Choose another --out",
        ) from error
    if free < LEAST_FREE_BYTES:
        raise StorageError(
            f"only {free / 2**20:.0f} MiB are free on this disk",
            where=str(out),
            remedy="Free some space first",
        )


def make_phantom(study_name: str, out: Path, overrides: Sequence[str], jobs: int) -> None:
    """Write a study's phantom as files.

    Raises:
        PhccError: the study or the disk.
    """
    study = load_study(find_study(study_name), overrides)
    with Screen(console) as screen:
        summary = write_phantom(
            out,
            study.data.phantom,
            jobs=jobs,
            progress=lambda done, total: screen.files("writing the phantom", done, total),
        )
    table = Table(
        "centre", "patients", "proliferative", "best possible AUC of these patients", title="synthetic data"
    )
    for centre, counts in summary.by_centre.items():
        reached = summary.oracle_auc.get(centre)
        table.add_row(
            centre, *map(str, counts.values()), "not defined" if reached is None else f"{reached:.3f}"
        )
    console.print(table)
    for name, value in summary.best_possible_auc.items():
        console.print(f"best possible AUC, {name}: {value:.3f}")
    console.print(
        f"{summary.written} of {summary.patients} patients written to {summary.root}", soft_wrap=True
    )


def check_phantom(study_name: str, overrides: Sequence[str], cases: int, jobs: int) -> None:
    """Print what a small network can see of each planted sign; exit 1 if the phantom does not hold.

    Raises:
        PhccError: the study.
    """
    study = load_study(find_study(study_name), overrides)
    with Screen(console) as screen:
        report = check_visibility(
            study.data.phantom,
            cases=cases,
            jobs=jobs,
            progress=screen.files,
        )
    header, *rows = report.table()
    table = Table(*header, title="AUC on unseen synthetic patients, by what the network sees")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(
        f"arterial over portal venous contrast, one number: AUC {report.ratio_auc:.3f} for the label"
    )
    for name, value in report.best_possible.items():
        console.print(f"best possible AUC, {name}: {value:.3f}")
    for failure in report.failures:
        errors.print(f"[bold red]does not hold:[/] {failure}")
    if not report.passed:
        sys.exit(EXIT_ERROR)


def report_once_more(run: Path) -> None:
    """Write a finished run's report again.

    Raises:
        StorageError: the folder holds no finished run, or what it keeps is damaged.
    """
    page = report_again(run)
    console.print(result_table(read_summary(run)))
    console.print(f"report  {page}\nfigures {run / 'summary.json'}", soft_wrap=True)


def predict_npz(run: Path, npz: Path, array: str, arm: str, out: Path) -> None:
    """Write one score per image.

    Raises:
        PhccError: the run is not finished, or the file does not hold the array.
    """
    scores = score_images(run, npz, array, arm)
    lines = ["index,score", *(f"{index},{score:.9g}" for index, score in enumerate(scores))]
    try:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the scores cannot be written ({error.strerror})", where=str(out), remedy="Choose another --out"
        ) from error
    console.print(f"{len(scores)} scores in {out}", soft_wrap=True)
