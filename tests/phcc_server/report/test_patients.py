"""What the report says of patients and of the study's question, whoever's they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from phcc_model.config import DataSettings
from phcc_model.contract import keys
from phcc_model.outcome import outcome_of
from phcc_server.report import wording
from phcc_server.report.card import model_card
from phcc_server.report.checklist import checklists
from phcc_server.report.page import render_page
from phcc_server.report.schema import DataSummary
from phcc_server.report.tables import funnel_table, validation_table

ADRENAL = DataSettings(source="medmnist", label="adrenal")


def data(**changes: Any) -> dict[str, Any]:
    plain = {"synthetic": False, "source": "nifti-csv", "patients": 3}
    return plain | changes


def test_a_study_of_another_organ_never_speaks_of_a_carcinoma(fabricate) -> None:
    said = data(source="medmnist", outcome=outcome_of(ADRENAL).model_dump())
    old = data(source="medmnist")  # a summary of an earlier version
    for about in (said, old):
        study = fabricate([], data=about, rounds=[])
        page = render_page(study, scored=[], config_yaml="")
        for text in (model_card(study), checklists(study), page):
            assert "arcinoma" not in text
            assert "MRI" not in text.replace("no MRI of the liver", "")
            assert "an adrenal gland holds a mass" in text


def test_a_study_of_the_liver_still_does(fabricate) -> None:
    for about in (data(), data(outcome=outcome_of(DataSettings()).model_dump())):
        assert "a hepatocellular carcinoma is proliferative" in model_card(fabricate([], data=about))


def test_every_reason_of_the_contract_has_words() -> None:
    assert set(wording.ASIDE) == set(keys.ASIDE)


def test_the_way_of_each_centres_patients_is_shown(fabricate) -> None:
    split = [
        {"centre": "A", "split": "train", "positives": 5, "negatives": 7, "unknown": 3},
        {"centre": "A", "split": "validation", "positives": 0, "negatives": 0, "unknown": 6},
        {"centre": "A", "split": "test", "positives": 2, "negatives": 4, "unknown": 0},
        {"centre": "B", "split": "external", "positives": 9, "negatives": 11, "unknown": 0},
    ]
    funnel = {"A": {"found": 35, "used": 27, "set_aside": {"a phase is missing": 8}}}
    table = funnel_table(fabricate([], data=data(split=split, funnel=funnel)))
    assert table is not None
    assert table.header == [
        "centre", "found", "set aside", "used", "labelled", "positive", "train", "validation", "test",
    ]  # fmt: skip
    assert table.rows == [
        ["A", "35", "8: a phase is missing", "27", "18", "7", "15", "6", "6"],
        ["B", "–", "–", "20", "20", "9", "0", "0", "20"],
    ]
    assert funnel_table(fabricate([], data=data())) is None


def test_what_all_centres_set_aside_together_has_one_row(fabricate) -> None:
    funnel = {"all centres": {"found": 30, "used": 28, "set_aside": {"broken": 2}}}
    split = [{"centre": "A", "split": "train", "positives": 14, "negatives": 14, "unknown": 0}]
    table = funnel_table(fabricate([], data=data(split=split, funnel=funnel)))
    assert table is not None
    assert table.rows[0] == ["all centres", "30", "2: broken", "28", *["–"] * 5]
    assert table.rows[1][:4] == ["A", "–", "–", "28"]


def test_validation_patients_stand_apart_from_the_tests(fabricate, scored) -> None:
    assert validation_table(fabricate(scored)) is None
    moved = [
        replace(row, split="validation", patient=f"v{row.patient}", case=f"v{row.case}")
        for row in scored
        if row.split == "train"
    ]
    table = validation_table(fabricate([*scored, *moved]))
    assert table is not None
    assert [row[0] for row in table.rows] == ["full", "no-pretraining", "afp"]


def test_an_old_summary_says_what_it_is_about() -> None:
    assert DataSummary.model_validate(data()).about == outcome_of(DataSettings())


def test_what_the_training_images_look_like_is_said_where_sites_announced_it(fabricate) -> None:
    seen = {"patients": 72, "sites": 2, "field_t": {"low": 1.5, "high": 3.0}}
    told = fabricate([], data=data(seen=seen), rounds=[])
    for text in (model_card(told), render_page(told, scored=[], config_yaml="")):
        assert "field strength: 1.5 to 3 T" in text
    silent = fabricate([], data=data(), rounds=[])
    for text in (model_card(silent), render_page(silent, scored=[], config_yaml="")):
        assert "Training images" not in text
