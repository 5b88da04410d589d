"""What a site brings of its own into a round, by the study's algorithm, and keeps for the next one.

Under FedAvg, FedProx and the server's optimisers that is nothing: a round begins with the weights that were
ordered. What is kept lies in the site's memory (`phcc_client.memory`), under the round that wrote it, and stays
there: a round ordered again, or a site that was restarted, begins with the same, bit for bit. A site that was not
there for some rounds goes on from the last one in which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from phcc_client.memory import SiteMemory
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.control import decode, encode, read_order
from phcc_model.contract.manifest import Array, Entry, Manifest
from phcc_model.contract.messages import TrainOrder
from phcc_model.errors import ContractError
from phcc_model.mixing import autoscaled, divergence, mixed
from phcc_model.parts import norm_names
from phcc_model.training.control import Control

State = Mapping[str, NDArray[Any]]

_OWN, _LAMBDA = "own.", "lambda"


class Own:
    """A site's part of an algorithm, for one round; as it stands here, of one that has none.

    Attributes:
        control: corrects the gradients of this round, under SCAFFOLD, once the round has begun.
    """

    control: Control | None = None

    def begin(self, given: State) -> State:
        """The weights with which this site begins the round.

        Args:
            given: the ordered ones, by name.

        Raises:
            StorageError: what was kept is damaged.
        """
        return given

    def end(self, after: State, keep: bool) -> dict[str, Array]:
        """Keep what the next round needs.

        Args:
            after: the weights with which this site ends the round, by name.
            keep: whether this process writes the site's memory: of several ranks, one does.

        Returns:
            What leaves beside the change of the weights.

        Raises:
            StorageError: it cannot be written.
        """
        del after, keep
        return {}


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

    def end(self, after: State, keep: bool) -> dict[str, Array]:
        """Keep the weights and lambda."""
        scale = {} if self._lambda is None else {_LAMBDA: np.array(self._lambda)}
        if keep:
            self._memory.keep(self._round, {f"{_OWN}{name}": array for name, array in after.items()} | scale)
        return {}


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

    def end(self, after: State, keep: bool) -> dict[str, Array]:
        """Keep the norms."""
        if keep:
            self._memory.keep(self._round, {name: after[name] for name in sorted(self._names)})
        return {}


class OwnControl(Own):
    """SCAFFOLD's part (`phcc_model.training.control`): this site's control variate c_i.

    What is kept is c_i as the coordinator knows it: with the change as it comes out of its coding, so that the
    coordinator's mean stays the mean of what the sites hold, whatever the encoding. Each stage begins with zero.

    Args:
        memory: of this arm.
        order: to train.
        manifest: of the model's state.
        note: tells the people of this machine.

    Raises:
        ContractError: the order does not carry what it must under SCAFFOLD.
    """

    def __init__(
        self, memory: SiteMemory, order: TrainOrder, manifest: Manifest, note: Callable[[str], None]
    ) -> None:
        self._memory = memory
        self._order = order
        self._manifest = manifest
        self._note = note
        self._mean, self._last = read_order(order.arrays, manifest.size)
        if not -1 <= self._last < order.round:
            raise ContractError(
                f"is {self._last}, in an order of round {order.round}", where=keys.CONTROL_ROUND
            )
        self._held = np.zeros(manifest.size, np.float32)

    def begin(self, given: State) -> State:
        """The given weights; from now on gradients are corrected by c - c_i."""
        if self._last >= 0:
            kept = self._memory.of(self._last)
            if kept is None:
                self._note(
                    f"this site's control variate of round {self._last + 1} of {self._order.stage} is gone: "
                    "it goes on from zero, and the coordinator's mean is off by what was lost"
                )
            else:
                self._held = kept[keys.CONTROL]
        apart = self._mean - self._held
        self.control = Control(
            {e.name: apart[e.offset : e.offset + e.size].reshape(e.shape) for e in self._floats()}
        )
        return given

    def end(self, after: State, keep: bool) -> dict[str, Array]:
        """Keep c_i; its change leaves."""
        del after
        assert self.control is not None
        new, mean = np.zeros_like(self._held), self.control.mean()
        for entry in self._floats():
            if entry.name in mean:
                new[entry.offset : entry.offset + entry.size] = mean[entry.name].reshape(-1)
        encoding, size = self._order.encoding, self._manifest.size
        arrays = encode(new - self._held, encoding)
        if keep:
            held = self._held + decode(arrays, encoding, size)
            self._memory.keep(self._order.round, {keys.CONTROL: held}, needed=self._last)
        return arrays

    def _floats(self) -> Iterator[Entry]:
        return (entry for entry in self._manifest.shared if entry.dtype == keys.FLOAT)


def own_part(
    study: StudyConfig,
    order: TrainOrder,
    model: nn.Module,
    manifest: Manifest,
    folder: Path,
    note: Callable[[str], None],
) -> Own:
    """What this site's part is in an ordered round.

    Args:
        study: what the order's arm runs.
        order: to train.
        model: that is to be trained.
        manifest: of its state.
        folder: where this site keeps its memories.
        note: tells the people of this machine.

    Raises:
        ContractError: the order does not carry what its algorithm needs.
    """
    settings = study.federation
    memory = SiteMemory(folder, order.study_digest, order.arm, f"{settings.algorithm}/{order.stage}")
    if settings.algorithm == "fedema" and order.stage == keys.PRETRAIN:
        return OwnMixture(memory, order.round, settings.ema_tau)
    if settings.algorithm == "fedbn":
        return OwnNorms(memory, order.round, norm_names(model))
    if settings.controlled:
        return OwnControl(memory, order, manifest, note)
    return Own()
