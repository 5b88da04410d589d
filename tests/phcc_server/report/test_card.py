from __future__ import annotations

from pathlib import Path

import pytest

from phcc_model.config import StudyConfig
from phcc_model.errors import StorageError
from phcc_model.study_file import dump_study
from phcc_server.report.again import report_again
from phcc_server.report.card import model_card
from phcc_server.report.checklist import AUTHORS, CLAIM, TRIPOD, checklists
from phcc_server.report.page import write_report
from phcc_server.report.summary import ScoredCase, Summary
from phcc_server.report.wording import estimate


def test_the_card_has_the_figures_and_the_limits(summary: Summary) -> None:
    card = model_card(summary)
    full = summary.arms["full"]["external"]
    assert estimate(full.auc, full.ci) in card
    assert "SYNTHETIC" in card
    assert "Research use only" in card
    assert summary.digests["full"] in card
    assert "filled in by the authors" in card


def test_names_are_no_markup_in_the_card(fabricate, renamed) -> None:
    name = "A|B <b> [x](y)"
    for text in (model_card(fabricate(renamed(name), bootstrap=0)), checklists(fabricate([], study=name))):
        assert "<b>" not in text.replace("\\<", "")
        assert "[x]" not in text


def test_a_real_study_does_not_say_synthetic(fabricate) -> None:
    real = fabricate([], data={"synthetic": False, "source": "nifti-csv", "patients": 3}, rounds=[])
    assert "ynthetic" not in model_card(real).replace("not synthetic", "")
    assert "SYNTHETIC" not in checklists(real)
    assert "No arm has been scored." in model_card(real)


def test_the_checklists_leave_to_the_authors_what_no_run_knows(summary: Summary) -> None:
    text = checklists(summary)
    for number, topic, key in (*TRIPOD, *CLAIM):
        row = next(line for line in text.splitlines() if line.startswith(f"| {number} | {topic} |"))
        assert key is not None or AUTHORS in row
    assert "Ethical approval | To be filled in" in text


def run_folder(folder: Path, fabricate, scored: list[ScoredCase]) -> Summary:
    summary = fabricate(scored)
    (folder / "study.yaml").write_text(dump_study(StudyConfig(name="demo")))
    write_report(folder, summary, scored=scored, config_yaml="", notes=["told"])
    lines = ["arm,centre,split,patient,case,label,score,threshold"]
    lines += [
        f"{r.arm},{r.centre},{r.split},{r.patient},{r.case},{r.label},{r.score},{r.threshold}" for r in scored
    ]
    (folder / "scores.csv").write_text("\n".join(lines) + "\n")
    return summary


def test_a_report_is_made_again_from_the_folder(tmp_path: Path, fabricate, scored) -> None:
    summary = run_folder(tmp_path, fabricate, scored)
    before = (tmp_path / "model-card.md").read_text()
    (tmp_path / "model-card.md").unlink()
    report_again(tmp_path)
    assert (tmp_path / "model-card.md").read_text() == before
    again = Summary.model_validate_json((tmp_path / "summary.json").read_text())
    assert again.notes == ("told",)
    assert again.pooled == summary.pooled


@pytest.mark.parametrize(
    "line", ["full,A,train,p,c,one,0.5,0.5", "full,A,train,p,c,1,x,0.5", "a,b,c,d,e,1,1,1,1,1"]
)
def test_scores_that_are_damaged_are_named(tmp_path: Path, fabricate, scored, line: str) -> None:
    run_folder(tmp_path, fabricate, [row for row in scored if row.arm == "afp"])
    with (tmp_path / "scores.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StorageError, match=r"scores\.csv"):
        report_again(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no finished run"):
        report_again(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"summary\.json"):
        report_again(tmp_path)
