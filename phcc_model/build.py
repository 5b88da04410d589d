"""From a study to its models, and between a model and the named arrays that travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import ContractError
from phcc_model.pretrain import SWFCMAE
from phcc_model.seeds import derive_seed

State = Mapping[str, NDArray[Any]]


def build_autoencoder(study: StudyConfig) -> SWFCMAE:
    """Stage 1's model, its start drawn from the study's seed."""
    with _seeded(study, keys.PRETRAIN):
        return SWFCMAE(study.model, len(study.data.phases), study.pretrain)


def build_classifier(study: StudyConfig) -> Classifier:
    """Stage 2's model, its start drawn from the study's seed."""
    with _seeded(study, keys.FINETUNE):
        return Classifier(study.model, study.data.phases)


def first_weights(study: StudyConfig, stage: str, pretrained: State | None = None) -> dict[str, NDArray[Any]]:
    """The weights with which a stage begins.

    Args:
        study: the study.
        stage: ``pretrain`` or ``finetune``.
        pretrained: the state of the finished pre-training, whose encoder the classifier takes over.

    Raises:
        ConfigError: the pre-trained encoder is not this study's.
    """
    if stage == keys.PRETRAIN:
        return state_of(build_autoencoder(study))
    classifier = build_classifier(study)
    if pretrained is not None:
        classifier.load_encoder({name: torch.from_numpy(array) for name, array in pretrained.items()})
    return state_of(classifier)


def state_of(model: nn.Module) -> dict[str, NDArray[Any]]:
    """A copy of the model's arrays by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def load_state(model: nn.Module, state: State) -> None:
    """Put arrays into a model; every name must be there, with its shape.

    Args:
        model: takes a copy of each array.
        state: by name; may lie in memory that cannot be written to, as what came over the wire does.

    Raises:
        ContractError: names or shapes differ.
    """
    try:
        # torch takes no memory that cannot be written to: such an array is copied, any other is not.
        model.load_state_dict(
            {name: torch.from_numpy(np.require(a, None, ["C", "W"])) for name, a in state.items()}
        )
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise ContractError(
            f"the weights are not those of this study's model ({detail})",
            where="weights",
            remedy="Use the study configuration that they were trained with",
        ) from error


@contextmanager
def _seeded(study: StudyConfig, stage: str) -> Iterator[None]:
    """Draw a model's start from the study's seed, and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(study.seed, "start", stage))
        yield
