"""What a run tells of itself while it goes on, and where arms meet: for deployment and simulation alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from phcc_model.arms import ArmPlan
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_server.journal import Journal
from phcc_server.ledger import RoundRecord

PRETRAINED = "pretrained"


def tell_round(journal: Journal, record: RoundRecord) -> None:
    """Write a round into the journal.

    Raises:
        StorageError: it cannot be written.
    """
    losses = [site.metrics["loss"] for site in record.sites.values() if "loss" in site.metrics]
    journal.write(
        "round",
        arm=record.arm,
        stage=record.stage,
        round=record.round,
        status=record.status.value,
        seconds=round(record.seconds, 3),
        loss=sum(losses) / len(losses) if losses else None,
        validation_loss=record.validation.loss if record.validation else None,
        auc=record.validation.auc if record.validation else None,
        sites=sum(site.status == "accepted" for site in record.sites.values()),
        of=len(record.sites),
        left_out=[f"{n}: {s.reason}" for n, s in record.sites.items() if s.status != "accepted"],
    )


def planned(plans: Sequence[ArmPlan]) -> list[dict[str, object]]:
    """Arms and their rounds in the order in which they are run, for the journal.

    An arm that is not asked for, but whose stage 1 or whose network another one takes, stands before that one.
    """
    named = {plan.name for plan in plans}
    told = []
    for plan in plans:
        first = plan.stage_one
        if first is not None and first.name not in named:
            named.add(first.name)
            told.append(_rounds(first.name, first.study, (keys.PRETRAIN,)))
        stages = keys.STAGES if first is None else (keys.FINETUNE,)
        if plan.base not in named:
            named.add(plan.base)
            told.append(_rounds(plan.base, plan.study, stages))
        told.append(_rounds(plan.name, plan.study, stages if plan.trained else ()))
    return told


def _rounds(arm: str, study: StudyConfig, stages: Sequence[str]) -> dict[str, object]:
    of_stage = {keys.PRETRAIN: study.pretrain.rounds, keys.FINETUNE: study.finetune.rounds}
    return {"arm": arm, **{stage: rounds if stage in stages else 0 for stage, rounds in of_stage.items()}}


def pretrained_file(checkpoints: Path, plan: ArmPlan) -> Path:
    """Where the end of an arm's pre-training is kept; arms with the same pre-training share it."""
    key = plan.pretrain_key or re.sub(r"\W+", "-", plan.name)
    return checkpoints / PRETRAINED / f"{key[:32]}.safetensors"
