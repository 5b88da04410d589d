"""``phcc-client check SITE``: what became of every patient, whether the folder is whole, and a page that says so.

Everything is made from the site's folder alone; a source is not needed, and no name of a patient is known
here. The same folder gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from phcc_client.ingest.check_files import (
    Progress,
    check_files,
    check_table,
    listed_patients,
    read_records,
    with_findings,
)
from phcc_client.ingest.check_page import render_page
from phcc_client.ingest.check_result import Check, Problem, collect_remarks, usable
from phcc_client.ingest.contact_sheet import sheets
from phcc_client.ingest.duplicates import duplicate_findings, stopped
from phcc_client.ingest.funnel import Funnel, make_funnel
from phcc_client.ingest.site_folder import TABLE, SiteFolder
from phcc_model.storage import write_atomically

CHECK_FILE, PAGE_FILE = "check.json", "check.html"

_SHOWN = 5  # names in one sentence


def check_site(
    site: Path,
    *,
    used: Mapping[str, bool] | None = None,
    parts: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    jobs: int = 1,
) -> Check:
    """Check a site's folder; write ``check.json``, ``check.html`` and the pages of the contact sheet into it.

    Args:
        site: a folder that ``phcc-client ingest`` wrote.
        used: for each case of the study that was prepared from it whether it is used; None where none was.
        parts: in which part of that study (train, validation, test) each patient stands.
        progress: called with (what is being done, done, total).
        jobs: files read at a time.

    Returns:
        What was found; `Check.attention` says whether somebody has something to do.

    Raises:
        DatasetError: this is no ingested site.
        StorageError: the page cannot be written.
    """
    progress = progress or _quiet
    label = SiteFolder(site).settings().label
    records, problems = read_records(site)
    files, strangers = check_files(site, records, progress, jobs)
    twice = duplicate_findings(records, parts)
    rows, mismatches = check_table(site, records, label, left_out=stopped(twice))
    records = list(with_findings(records, files, rows, twice))
    funnel = make_funnel(records, used)
    fit = usable(records, funnel)
    problems += [*strangers, *mismatches, *_still_in_use(site, funnel)]
    progress("contact sheet", 0, 1)
    pages = sheets(site, [record.thumbnails for record in records if record.thumbnails])
    progress("contact sheet", 1, 1)
    check = Check(
        patients=len(records),
        cases=sum(len(record.lesions) for record in fit),
        funnel=funnel,
        remarks=collect_remarks(fit),
        problems=tuple(problems),
        sheets=pages,
    )
    write_atomically(site / CHECK_FILE, check.model_dump_json(indent=1) + "\n")
    write_atomically(site / PAGE_FILE, render_page(check, records))
    return check


def _quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody wants to know how far it is."""


def _still_in_use(site: Path, funnel: Funnel) -> list[Problem]:
    """Patients whom the check stops, and whom training would see or has seen all the same."""
    found = []
    stopped = {one.patient for one in funnel.dropouts}
    if listed := sorted(stopped & listed_patients(site)):
        text = f"{TABLE} lists {_names(listed)}, though there is a reason against each; see the dropouts"
        remedy = "Do what the reasons say and ingest again, or take the rows out before a study is prepared"
        found.append(Problem(code="listed-though-stopped", text=text, remedy=remedy))
    if funnel.used_though_stopped:
        text = f"a prepared study uses {_names(funnel.used_though_stopped)}, though there is a reason against"
        remedy = "Do what the reasons say, and prepare the study again before it begins"
        found.append(Problem(code="used-though-stopped", text=text, remedy=remedy))
    return found


def _names(patients: Sequence[str]) -> str:
    more = f" and {len(patients) - _SHOWN} more" if len(patients) > _SHOWN else ""
    return f"{len(patients)} patients ({', '.join(patients[:_SHOWN])}{more})"
