"""What ingest knows of a hospital's patients beside their images: who was set aside, field strength, times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from phcc_client.imaging.case import Rejection
from phcc_client.imaging.dataset import Entry
from phcc_client.imaging.facts import PhaseFacts
from phcc_client.ingest.funnel import not_reached
from phcc_client.ingest.record import PatientRecord, SeriesRecord, Stage
from phcc_client.ingest.site_folder import ABOUT, RECORDS, read_record, record_of

_REASONS = {
    Stage.READABLE: "unreadable",
    Stage.MR_LIVER: "not-mr-liver",
    Stage.PHASES: "phases-incomplete",
    Stage.LESION: "no-lesion",
}
"""The word of the contract (`keys.ASIDE`) for the first stage that a patient did not reach."""


def with_records(entries: Sequence[Entry], folder: Path) -> list[Entry]:
    """The cases with field strength and times, as far as ingest wrote them down.

    Args:
        entries: prepared from this folder.
        folder: the data's; where it was not ingested, the cases stay as they are.

    Raises:
        DatasetError: a record is damaged.
    """
    return [
        entry if (record := record_of(folder, entry.patient)) is None else _told(entry, record)
        for entry in entries
    ]


def _told(entry: Entry, record: PatientRecord) -> Entry:
    return replace(entry, facts=tuple(_of_series(one, record.series_of(one.phase)) for one in entry.facts))


def _of_series(facts: PhaseFacts, series: SeriesRecord | None) -> PhaseFacts:
    if series is None:
        return facts
    known = {"field_strength_t": series.field_strength_t, "seconds": series.seconds_after_first}
    return facts.model_copy(update=known)


def aside_of(
    entries: Sequence[Entry], rejections: Sequence[Rejection], folder: Path, centre: str | None
) -> dict[str, int]:
    """Patients of this hospital that are not used, by the reason; each counts once, by the earliest one.

    Args:
        entries: the cases that are used.
        rejections: cases that were set aside for this study.
        folder: the data's; where it was ingested, those count too who were set aside there.
        centre: of this hospital, where the folder holds several hospitals' patients.

    Raises:
        DatasetError: a record is damaged.
    """
    used = {entry.patient for entry in entries}
    reasons: dict[str, str] = {}
    for record in _records(folder):
        stage = not_reached(record)
        if stage is not None and centre in (None, record.centre):
            reasons[record.patient] = _REASONS.get(stage, "unusable")
    for one in rejections:
        # Whose patient one is that was not even read, nobody can say where hospitals share a folder.
        if centre is None and one.patient:
            reasons.setdefault(one.patient, "not-prepared")
    return dict(sorted(Counter(why for patient, why in reasons.items() if patient not in used).items()))


def _records(folder: Path) -> Iterator[PatientRecord]:
    if (folder / ABOUT).is_file():
        yield from (read_record(file) for file in sorted((folder / RECORDS).glob("*.json")))
