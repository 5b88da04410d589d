"""What a run tells of itself while it goes on, and where arms meet: for deployment and simulation alike."""

from __future__ import annotations

import re
from pathlib import Path

from phcc_model.arms import ArmPlan
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


def planned(plan: ArmPlan) -> dict[str, object]:
    """An arm and its rounds, for the journal."""
    trained = plan.trained
    return {
        "arm": plan.name,
        keys.PRETRAIN: plan.study.pretrain.rounds if trained else 0,
        keys.FINETUNE: plan.study.finetune.rounds if trained else 0,
    }


def pretrained_file(checkpoints: Path, plan: ArmPlan) -> Path:
    """Where the end of an arm's pre-training is kept; arms with the same pre-training share it."""
    key = plan.pretrain_key or re.sub(r"\W+", "-", plan.name)
    return checkpoints / PRETRAINED / f"{key[:32]}.safetensors"
