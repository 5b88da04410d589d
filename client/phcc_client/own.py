"""What a site brings of its own into a round, by the study's algorithm, and keeps for the next one.

Under FedAvg, FedProx and the server's optimisers that is nothing: a round begins with the weights that were
ordered. What is kept lies in the site's memory (`phcc_client.memory`), under the round that wrote it, and stays
there: a round ordered again, or a site that was restarted, begins with the same, bit for bit. A site that was not
there for some rounds goes on from the last one in which it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from phcc_client.memory import SiteMemory
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.messages import TrainOrder
from phcc_model.mixing import autoscaled, divergence, mixed
from phcc_model.parts import norm_names

State = Mapping[str, NDArray[Any]]

_OWN, _LAMBDA = "own.", "lambda"


class Own:
    """A site's part of an algorithm, for one round; as it stands here, of one that has none."""

    def begin(self, given: State) -> State:
        """The weights with which this site begins the round.

        Args:
            given: the ordered ones, by name.

        Raises:
            StorageError: what was kept is damaged.
        """
        return given

    def keep(self, after: State) -> None:
        """Keep what the next round needs.

        Args:
            after: the weights with which this site ends the round, by name.

        Raises:
            StorageError: it cannot be written.
        """
        del after


class OwnMixture(Own):
    """FedEMA's part (`phcc_model.mixing`): the site's last weights, and its lambda.

    Args:
        memory: of this arm.
        round_index: the round, from 0.
        tau: `federation.ema_tau`.
    """

    def __init__(self, memory: SiteMemory, round_index: int, tau: float) -> None:
        self._memory = memory
        self._round = round_index
        self._tau = tau
        self._lambda: float | None = None

    def begin(self, given: State) -> State:
        """The site's last weights and the given ones, mixed by how far apart they are."""
        kept = self._memory.last_before(self._round)
        if kept is None:
            return given
        own = {name.removeprefix(_OWN): array for name, array in kept.items() if name != _LAMBDA}
        distance = divergence(given, own)
        self._lambda = float(kept[_LAMBDA]) if _LAMBDA in kept else autoscaled(self._tau, distance)
        return mixed(given, own, min((self._lambda or 0.0) * distance, 1.0))

    def keep(self, after: State) -> None:
        """The weights and lambda."""
        scale = {} if self._lambda is None else {_LAMBDA: np.array(self._lambda)}
        self._memory.keep(self._round, {f"{_OWN}{name}": array for name, array in after.items()} | scale)


class OwnNorms(Own):
    """FedBN's part: this site's norms, with which it goes on whatever the others' are.

    [F] Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021: the
    norms' parameters and statistics of a site stay at the site from round to round; all else is averaged.

    [R] There the norms never leave, and a centre that took no part is left without any. Here a model is for
    such a centre, so the norms travel with the rest and are averaged for the global model, which is what is
    validated, tested and exported; no site trains on the averaged ones after its first round of a stage. This
    model has no batch norm over voxels: what stays are the gains and offsets of its layer norms and GRN, and the
    classifier's norm over cases with its running sums. Each stage begins with the global norms.

    Args:
        memory: of this arm.
        round_index: the round, from 0.
        names: of what belongs to a norm.
    """

    def __init__(self, memory: SiteMemory, round_index: int, names: Collection[str]) -> None:
        self._memory = memory
        self._round = round_index
        self._names = names

    def begin(self, given: State) -> State:
        """The given weights, but for the norms."""
        return {**given, **(self._memory.last_before(self._round) or {})}

    def keep(self, after: State) -> None:
        """The norms."""
        self._memory.keep(self._round, {name: after[name] for name in sorted(self._names)})


def own_part(study: StudyConfig, order: TrainOrder, model: nn.Module, folder: Path) -> Own:
    """What this site's part is in an ordered round.

    Args:
        study: what the order's arm runs.
        order: to train.
        model: that is to be trained.
        folder: where this site keeps its memories.
    """
    settings = study.federation
    memory = SiteMemory(folder, order.study_digest, order.arm, f"{settings.algorithm}/{order.stage}")
    if settings.algorithm == "fedema" and order.stage == keys.PRETRAIN:
        return OwnMixture(memory, order.round, settings.ema_tau)
    if settings.algorithm == "fedbn":
        return OwnNorms(memory, order.round, norm_names(model))
    return Own()
