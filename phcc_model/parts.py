"""Which arrays of a model's state are of a kind: norms, and what is no weight but a running sum."""

from __future__ import annotations

import functools

from torch import nn

from phcc_model.build import build_autoencoder, build_classifier
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.heads import CaseNorm
from phcc_model.layers import GRN

NORMS = (nn.LayerNorm, GRN, CaseNorm, nn.BatchNorm3d)
"""Every layer of this package that norms, by kind; `PlainNorm` holds a layer norm."""


def norm_names(model: nn.Module) -> frozenset[str]:
    """Names of all that belongs to a norm: gains, offsets, running statistics."""
    return frozenset(
        f"{place}.{name}" if place else name
        for place, part in model.named_modules()
        if isinstance(part, NORMS)
        for name in part.state_dict()
    )


def running_names(model: nn.Module) -> frozenset[str]:
    """Names of what no gradient moves: running statistics. A mean of them has a meaning, a step does not."""
    return frozenset(model.state_dict()) - frozenset(name for name, _ in model.named_parameters())


@functools.lru_cache(maxsize=8)
def running_names_of(study: StudyConfig, stage: str) -> frozenset[str]:
    """`running_names` of the model that a study trains in a stage."""
    return running_names(build_autoencoder(study) if stage == keys.PRETRAIN else build_classifier(study))
