"""Arms whose two stages are run at different places: whose stage 1 it is, and that it is run once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_report_again import run_in_memory, study

from phcc_model.arms import plan_arms
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger, RoundRecord
from phcc_server.progress import planned
from phcc_server.report.kept import reconstruction_file

PLACES = "[full, 'pretrained-at:C1', 'local:C1', 'finetuned-at:C1']"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in_memory(study(PLACES), tmp_path_factory.mktemp("apart") / "run")


def rounds(run: Path, stage: str) -> dict[str, list[RoundRecord]]:
    found: dict[str, list[RoundRecord]] = {}
    for record in Ledger(run / "ledger.jsonl").read():
        if record.stage == stage:
            found.setdefault(record.arm, []).append(record)
    return found


def weights(run: Path, arm: str) -> str:
    return str(json.loads((run / "summary.json").read_text())["digests"][f"weights.{arm}"])


def test_each_stage_is_run_where_the_name_says(together: Path) -> None:
    first = {arm: set(records[0].sites) for arm, records in rounds(together, "pretrain").items()}
    assert first == {"full": {"C1", "C2"}, "local:C1": {"C1"}}
    second = {arm: set(records[0].sites) for arm, records in rounds(together, "finetune").items()}
    assert second == {
        "full": {"C1", "C2"},
        "pretrained-at:C1": {"C1", "C2"},
        "local:C1": {"C1"},
        "finetuned-at:C1": {"C1"},
    }


def test_stage_1_is_run_once_and_begun_with_by_those_who_share_it(together: Path) -> None:
    assert all(len(records) == 2 for records in rounds(together, "pretrain").values())
    begun = {arm: records[0].digest_before for arm, records in rounds(together, "finetune").items()}
    assert begun["pretrained-at:C1"] == begun["local:C1"]
    assert begun["finetuned-at:C1"] == begun["full"] != begun["local:C1"]
    assert len({weights(together, arm) for arm in begun}) == 4


def test_an_arm_needs_no_other_to_be_asked_for(together: Path, tmp_path: Path) -> None:
    alone = run_in_memory(study("['finetuned-at:C1', 'pretrained-at:C1']"), tmp_path / "run")
    for arm in ("finetuned-at:C1", "pretrained-at:C1"):
        assert weights(alone, arm) == weights(together, arm)
    for arm in ("full", "local:C1"):  # what their autoencoders filled in, first and last
        assert all(reconstruction_file(alone, arm, number).is_file() for number in (0, 1))
    assert "weights.full" not in json.loads((alone / "summary.json").read_text())["digests"]
    plan = next(event for event in Journal(alone / "progress.jsonl").new_events() if event.kind == "plan")
    assert plan.fields["arms"] == [
        {"arm": "full", "pretrain": 2, "finetune": 0},
        {"arm": "finetuned-at:C1", "pretrain": 0, "finetune": 1},
        {"arm": "local:C1", "pretrain": 2, "finetune": 0},
        {"arm": "pretrained-at:C1", "pretrain": 0, "finetune": 1},
    ]


def test_the_plan_tells_of_a_network_that_only_afp_is_added_to() -> None:
    told = planned(plan_arms(["finetuned-at:C1+afp", "afp"], study(), ("C1", "C2")))
    assert told == [
        {"arm": "full", "pretrain": 2, "finetune": 0},
        {"arm": "finetuned-at:C1", "pretrain": 0, "finetune": 1},
        {"arm": "finetuned-at:C1+afp", "pretrain": 0, "finetune": 0},
        {"arm": "afp", "pretrain": 0, "finetune": 0},
    ]
