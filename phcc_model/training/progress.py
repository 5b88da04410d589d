"""Where one site's training stands: its name for seeds and messages, and what it says while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phcc_model.errors import TrainingError
from phcc_model.seeds import derive_seed
from phcc_model.training.batches import shuffled


@dataclass(frozen=True)
class Progress:
    """One optimiser step is done.

    Attributes:
        stage: ``pretrain`` or ``finetune``.
        site: the site's name.
        round_index: the round, from 0.
        epoch: the local epoch, from 0.
        step: steps done in this round.
        steps: steps of this round.
        loss: the step's loss.
    """

    stage: str
    site: str
    round_index: int
    epoch: int
    step: int
    steps: int
    loss: float


ProgressListener = Callable[[Progress], None]


@dataclass(frozen=True)
class Place:
    """One site's work in one round: whatever is drawn in it is named after it.

    Attributes:
        seed: the study's seed.
        stage: ``pretrain`` or ``finetune``.
        round_index: the round, from 0.
        site: the site's name.
    """

    seed: int
    stage: str
    round_index: int
    site: str

    def __str__(self) -> str:
        return f"site {self.site}, {self.stage} round {self.round_index}"

    def derive(self, *names: str | int) -> int:
        """The seed of a stream of this round and site."""
        return derive_seed(self.seed, self.stage, self.round_index, self.site, *names)

    def epochs(
        self, cases: int, batch_size: int, count: int, strata_n: NDArray[np.int8] | None = None
    ) -> list[list[NDArray[np.intp]]]:
        """The batches of each local epoch of this round, see `shuffled`.

        Raises:
            TrainingError: there is no case.
        """
        if not cases:
            raise TrainingError(
                "there is nothing to train on",
                where=str(self),
                remedy="look at the cases set aside and at the labels of this site",
            )
        seeds = [self.derive(epoch, "order") for epoch in range(count)]
        return [shuffled(cases, batch_size, seed, strata_n) for seed in seeds]
