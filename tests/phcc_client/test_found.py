"""Where images were ingested, more is known: who was set aside on the way, field strength, times."""

from __future__ import annotations

import math
from pathlib import Path

from phcc_client.found import aside_of, with_records
from phcc_client.imaging.case import Rejection
from phcc_client.imaging.dataset import Entry
from phcc_client.imaging.facts import PhaseFacts
from phcc_client.ingest.record import Finding, PatientRecord, SeriesRecord, Stage
from phcc_client.ingest.site_folder import ABOUT, RECORDS
from phcc_model.contract import keys


def ingested(folder: Path, *records: PatientRecord) -> Path:
    (folder / RECORDS).mkdir(parents=True)
    (folder / ABOUT).write_text("{}")
    for record in records:
        (folder / RECORDS / f"{record.patient}.json").write_text(record.model_dump_json())
    return folder


def stopped(patient: str, stage: Stage, centre: str | None = None) -> PatientRecord:
    finding = Finding(code="x", text="x", stops=stage)
    reached = list(Stage)[list(Stage).index(stage) - 1]
    return PatientRecord(patient=patient, inputs="", reached=reached, centre=centre, findings=(finding,))


def used(patient: str, centre: str | None = None) -> PatientRecord:
    series = SeriesRecord(
        number=2,
        taken_for="arterial",
        rule="by name",
        certainty="sure",
        used=True,
        seconds_after_first=31.0,
        field_strength_t=3.0,
    )
    return PatientRecord(
        patient=patient, inputs="", reached=Stage.USABLE, centre=centre, series=(series,), label=1
    )


def entry(patient: str) -> Entry:
    facts = PhaseFacts(phase="arterial", enhancement=0.3), PhaseFacts(phase="delayed")
    return Entry(f"{patient}-1", patient, None, None, 1, math.nan, None, "0" * 64, facts)


def test_each_patient_counts_once_by_the_earliest_reason(tmp_path: Path) -> None:
    site = ingested(
        tmp_path,
        used("P-a"),
        used("P-b"),
        stopped("P-c", Stage.READABLE),
        stopped("P-d", Stage.MR_LIVER),
        stopped("P-e", Stage.PHASES),
        stopped("P-f", Stage.PHASES),
        stopped("P-g", Stage.LESION),
        stopped("P-h", Stage.USABLE),
    )
    rejections = [Rejection("P-b-1", "P-b", "no arterial", ""), Rejection("P-a-2", "P-a", "broken", "")]
    found = aside_of([entry("P-a")], rejections, site, None)
    assert found == {
        "unreadable": 1,
        "not-mr-liver": 1,
        "phases-incomplete": 2,
        "no-lesion": 1,
        "unusable": 1,
        "not-prepared": 1,
    }
    assert set(found) == set(keys.ASIDE)


def test_of_a_folder_of_several_hospitals_only_the_own_patients_count(tmp_path: Path) -> None:
    site = ingested(tmp_path, stopped("P-a", Stage.LESION, "A"), stopped("P-b", Stage.LESION, "B"))
    strangers = [Rejection("x-1", "x", "broken", "")]
    assert aside_of([], strangers, site, "A") == {"no-lesion": 1}


def test_a_folder_that_was_not_ingested_knows_only_what_was_read(tmp_path: Path) -> None:
    assert aside_of([entry("P")], [Rejection("Q-1", "Q", "broken", "")], tmp_path, None) == {
        "not-prepared": 1
    }
    assert with_records([entry("P")], tmp_path) == [entry("P")]


def test_field_strength_and_times_come_from_the_record(tmp_path: Path) -> None:
    (one,) = with_records([entry("P-a")], ingested(tmp_path, used("P-a")))
    arterial = PhaseFacts(phase="arterial", enhancement=0.3, field_strength_t=3.0, seconds=31.0)
    assert one.facts == (arterial, PhaseFacts(phase="delayed"))
