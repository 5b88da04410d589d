"""The arithmetic that a study asks for, as far as this machine has it."""

from __future__ import annotations

import torch

from phcc_client.devices import has_bf16, must_be_there, without_bf16
from phcc_model.config import StudyConfig


def as_able(study: StudyConfig, device: str) -> tuple[StudyConfig, str]:
    """The study in float32 where it asks for bfloat16 and the device has none.

    It is the study that changes, and with it the digest: what is written of a run is what was computed, and
    seeds that were run with and without bfloat16 are not taken for one study's.

    Args:
        study: as it was asked for.
        device: as torch names it.

    Returns:
        The study to run, and what to tell people; empty where nothing was changed.

    Raises:
        ConfigError: torch cannot use the device here.
    """
    must_be_there((device,), where=f"--device {device}", remedy="Leave it out: --device cpu is the default")
    asked = study.pretrain.bf16 or study.finetune.bf16
    if not asked or has_bf16(torch.device(device)):
        return study, ""
    settings = {
        "pretrain": study.pretrain.model_copy(update={"bf16": False}),
        "finetune": study.finetune.model_copy(update={"bf16": False}),
    }
    return study.model_copy(update=settings), without_bf16(torch.device(device))


def in_words(study: StudyConfig) -> str:
    """In what arithmetic the two stages train."""
    first, second = ("bf16" if stage.bf16 else "float32" for stage in (study.pretrain, study.finetune))
    return first if first == second else f"{first} in stage 1, {second} in stage 2"
