"""What leaves, in words for whoever answers for the data: before it leaves, and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from phcc_client.home import ClientSettings
from phcc_client.outbox import Outbox
from phcc_client.wording import leaves, privacy, told
from phcc_model.config import StudyConfig
from phcc_model.contract import codec, control, keys
from phcc_model.contract.messages import EvaluateReply, SiteCard, TrainReply
from phcc_model.threshold import BINS

SETTINGS = ClientSettings(hospital="H1", server="a:1")
COUNTS = {"train": 41, "validation": 9, "test": 12}
CARD = SiteCard(
    package="0.1.0",
    site="H1",
    study_digest="5" * 64,
    patients=COUNTS,
    cases=COUNTS,
    positives=dict.fromkeys(COUNTS, 5),
    negatives=dict.fromkeys(COUNTS, 7),
    aside={"phases-incomplete": 6},
    seen={"field.low": 1.5, "field.high": 1.5, "spacing.d.low": 2.5, "spacing.d.high": 5.0},
)


def test_what_was_announced_is_told_whole(tmp_path: Path) -> None:
    said = told(Outbox(tmp_path / "outbox.jsonl").record(CARD))
    assert said.startswith("counts: train 41 patients (5 positive, 7 negative); ")
    assert said.endswith("; set aside 6 phases-incomplete; training images: spacing.d 2.5 to 5, field 1.5")


def test_that_single_scores_stay_is_said_before_and_after(tmp_path: Path) -> None:
    assert "phcc-client mistakes; none leaves" in dict(privacy(StudyConfig(), SETTINGS))["scores"]
    assert "a single patient's score" in dict(leaves(StudyConfig(), {}))["never"]
    box = Outbox(tmp_path / "outbox.jsonl")
    said = {split: told(box.record(scored(split))) for split in (keys.VALIDATION, keys.TEST)}
    assert said[keys.TEST].endswith("histograms of 2 positives and 1 negatives; single scores stayed here")
    assert "stayed" not in said[keys.VALIDATION]


def scored(split: str) -> EvaluateReply:
    return EvaluateReply(
        package="0.1.0",
        study_digest="5" * 64,
        arm="full",
        stage=keys.FINETUNE,
        round=0,
        site="H1",
        manifest_digest="6" * 64,
        split=split,
        patients=3,
        cases=3,
        loss=0.5,
        positives=[2, *[0] * (BINS - 1)],
        negatives=[*[0] * (BINS - 1), 1],
        seconds=1.0,
    )


def test_ranges_reasons_and_kept_counts_are_announced_beforehand() -> None:
    said = dict(leaves(StudyConfig(), {}))
    assert all(reason in said["set aside"] for reason in keys.ASIDE)
    assert "5th to 95th percentile" in said["images"]
    assert "keeps them in its record" in said["histograms"]


def test_how_many_stand_behind_a_range_is_said() -> None:
    for least, behind in ((1, 5), (5, 5), (12, 12)):
        settings = ClientSettings(hospital="H1", server="a:1", minimum_count=least)
        assert f"{behind} patients or more" in dict(privacy(StudyConfig(), settings))["ranges"]


def test_a_control_variate_is_said_before_and_after_it_leaves(tmp_path: Path) -> None:
    scaffold = StudyConfig.model_validate({"federation": {"algorithm": "scaffold"}})
    said = dict(leaves(scaffold, {keys.FINETUNE: 1000}))["finetune: control"]
    assert "mean of this hospital's gradients" in said
    assert "1,000 more numbers (2.0 kB)" in said
    assert "finetune: control" not in dict(leaves(StudyConfig(), {keys.FINETUNE: 1000}))
    assert "finetune: control" in dict(leaves(StudyConfig(), {keys.FINETUNE: 1000}, [scaffold]))
    delta = np.ones(10, np.float32)
    reply = TrainReply(
        package="0.1.0",
        study_digest="5" * 64,
        arm="scaffold",
        stage=keys.FINETUNE,
        round=0,
        site="H1",
        manifest_digest="6" * 64,
        encoding="fp32",
        patients=3,
        cases=3,
        steps=1,
        seconds=1.0,
        metrics={},
        arrays=codec.encode(delta, "fp32") | control.encode(delta, "fp32"),
    )
    sent = Outbox(tmp_path / "outbox.jsonl").record(reply)
    assert [array.name for array in sent.arrays] == ["change", "control.change"]
    assert told(sent).startswith(
        "change of 10 weights and of 10 numbers of its control variate (0.1 kB) from 3"
    )
