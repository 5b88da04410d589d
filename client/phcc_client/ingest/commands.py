"""What ``phcc-client ingest`` and ``phcc-client check`` do, and what they print."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from phcc_client.imaging.paths import folder_of
from phcc_client.ingest.audit import AuditReport, audit, must_be_clean
from phcc_client.ingest.check import PAGE_FILE, check_site
from phcc_client.ingest.check_print import tell
from phcc_client.ingest.check_result import Check
from phcc_client.ingest.phases_file import template
from phcc_client.ingest.pipeline import Ingest, Outcome, Request
from phcc_client.ingest.settings import IngestSettings, phases_of
from phcc_client.ingest.site_folder import IMAGES
from phcc_client.ingest.study_use import study_use
from phcc_model.command_line import plain
from phcc_model.errors import ConfigError
from phcc_model.storage import write_atomically

console = Console(soft_wrap=True, highlight=False, emoji=False)
log = logging.getLogger("phcc_client.ingest")

NAMES, DRAFT, AUDIT, LOG = "patients.csv", "phases.draft.yaml", "audit.json", "ingest.log"


class Screen:
    """One progress bar for each thing that is being done, with the time left."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take note of how far it is."""
        if what not in self._tasks:
            self._tasks[what] = self.bar.add_task(what, total=total or None)
        self.bar.update(self._tasks[what], completed=done, total=total or None)


def settings_of(registration: str, *, bias_field: bool, require: str, label: str) -> IngestSettings:
    """The choices of a command line.

    Raises:
        ConfigError: one of them is none.
    """
    if registration not in ("rigid", "off", "deformable"):
        raise ConfigError(
            f"{registration!r} is no kind of registration",
            where="--registration",
            remedy="Choose rigid, off or deformable",
        )
    try:
        required = phases_of(require)
    except ValueError as error:
        raise ConfigError(str(error), where="--require", remedy="Separate phases by commas") from error
    return IngestSettings(
        registration=registration,
        bias_field=bias_field,
        required_phases=required,
        label=label,
    )


def ingest(
    source: Path,
    into: Path,
    settings: IngestSettings,
    *,
    patients: Path | None = None,
    phases: Path | None = None,
    jobs: int | None = None,
) -> bool:
    """Make a site's folder, check it, search it for names, and say what came of it.

    Returns:
        Whether at least one patient can be used.

    Raises:
        DatasetError: source, table or site cannot be used as a whole, or a name stands in what was written.
        StorageError: the disk is full or not writable.
    """
    screen = Screen()
    jobs = jobs or os.cpu_count() or 1
    work = Ingest(Request(source, into, settings, patients, phases, jobs), screen)
    folder_of(source)
    work.site.prepare(source)
    _log_into(work.site.private / LOG)
    with work.alone(), screen.bar:
        outcome = work.run()
        if outcome.unchanged:
            usable = sum(1 for record in outcome.records if record.phases)
            console.print(
                f"Nothing to do: nothing has changed since the last time; {usable} of "
                f"{len(outcome.records)} patients can be used."
            )
            return usable > 0
        private = work.site.private
        write_atomically(private / DRAFT, template(work.unsure(outcome)))
        checked, report = _check_and_search(work, outcome, screen, jobs)
        if leaky := _patients_with_findings(report):
            outcome = work.set_aside(outcome, leaky)
            checked, report = _check_and_search(work, outcome, screen, jobs)
        write_atomically(private / NAMES, _names(outcome))
        write_atomically(private / AUDIT, json.dumps(report.for_paper(), indent=1) + "\n")
        if report.clean:
            work.finish()
    for line in report.lines()[: 1 if report.clean else None]:
        console.print(plain(line))
    must_be_clean(report)
    _tell(outcome)
    tell(checked, console, into / PAGE_FILE)
    _what_next(outcome, work)
    if not any(record.phases for record in outcome.records):
        console.print("nobody can be trained on yet: what stands above is to be done first")
    return any(record.phases for record in outcome.records)


def _check_and_search(work: Ingest, outcome: Outcome, screen: Screen, jobs: int) -> tuple[Check, AuditReport]:
    checked = check_site(work.site.folder, progress=screen, jobs=jobs)
    return checked, audit(work.site.folder, work.identity(outcome), screen, jobs=jobs)


def _patients_with_findings(report: AuditReport) -> set[str]:
    """Whose images the findings lie in; nobody if even one lies elsewhere, which is a fault of the program."""
    places = [finding.file.split("/") for finding in report.findings]
    return {place[1] for place in places} if all(place[0] == IMAGES for place in places) else set()


def check(site: Path, study: Path | None, jobs: int | None = None) -> bool:
    """Check a site's folder and say what was found.

    Returns:
        Whether records, files and table are whole and belong together.

    Raises:
        DatasetError: this is no ingested site.
        StorageError: the page cannot be written.
    """
    screen = Screen()
    jobs = jobs or os.cpu_count() or 1
    with screen.bar:
        used, parts = study_use(site, study, screen, jobs) if study is not None else (None, None)
        checked = check_site(site, used=used, parts=parts, progress=screen, jobs=jobs)
    tell(checked, console, site / PAGE_FILE)
    return checked.sound


def _log_into(path: Path) -> None:
    """What went wrong in full, paths and names included: beside the site, for the people here."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for old in list(log.handlers):
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    log.propagate = False


def _names(outcome: Outcome) -> str:
    """Who is who, and what became of them: the one table that names patients."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient", "pseudonym", "reached", "why not further", "what to do", "unreadable files"])
    pairs = zip(outcome.candidates, outcome.records, strict=True)
    for candidate, record in sorted(pairs, key=lambda pair: pair[0].patient):
        stops = [finding for finding in record.findings if finding.stops is not None]
        table.writerow(
            [
                candidate.patient,
                record.patient,
                record.reached.value,
                "; ".join(finding.text for finding in stops),
                "; ".join(finding.remedy for finding in stops if finding.remedy),
                "; ".join(f"{file}: {why}" for file, why in candidate.unreadable),
            ]
        )
    return text.getvalue()


def _tell(outcome: Outcome) -> None:
    found = outcome.found
    if found is None:
        return
    if found.skipped:
        total = sum(found.skipped.values())
        reasons = ", ".join(f"{n} {why}" for why, n in Counter(found.skipped).most_common(6))
        console.print(f"{total} files are no images: {plain(reasons)}")
    if found.unreadable:
        file, why = found.unreadable[0]
        console.print(f"{len(found.unreadable)} files cannot be read; the first, {plain(file)}: {plain(why)}")
    kept = len(outcome.records) - outcome.made
    console.print(f"{len(outcome.records)} patients: {outcome.made} made now, {kept} as they were")
    if outcome.gone:
        console.print(f"{len(outcome.gone)} patients are no longer in the source and were removed")


def _what_next(outcome: Outcome, work: Ingest) -> None:
    private = work.site.private
    console.print(f"who is who: {plain(str(private / NAMES))} (stays here, with the key beside it)")
    if any(s.certainty == "unsure" for record in outcome.records for s in record.series):
        console.print(
            f"some series were not recognised: complete {plain(str(private / DRAFT))}, "
            f"save it as {plain(str(work.rules_path))}, and ingest again"
        )
    if any(record.phases for record in outcome.records):
        console.print(f"to train on it: phcc-client set data={plain(str(work.site.folder.resolve()))}")
