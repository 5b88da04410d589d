"""One order on its way to one site and back: what is known of it, and its reply while it waits for its turn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from phcc_model.contract.messages import EvaluateOrder, EvaluateReply, TrainOrder, TrainReply
from phcc_model.errors import ContractError
from phcc_server.sites import NoReply

Order = TypeVar("Order", TrainOrder, EvaluateOrder)
Answer = TrainReply | EvaluateReply | NoReply


@dataclass
class Errand(Generic[Order]):
    """One order, and where it stands.

    Attributes:
        order: what is asked.
        digest: of the order: the site's answers about it carry it.
        message: Flower's id of the message that is out; None while none is.
        heard: when anything was last heard of the site, on the clock of the caller.
        due: not before this is a message sent again.
        step: steps that the site has done, of `steps`.
        answer: how it ended; None while it has not, or where the reply waits in `aside`.
        aside: file of a reply whose turn has not come.
    """

    order: Order
    digest: str
    heard: float
    message: str | None = None
    due: float = 0.0
    step: int = 0
    steps: int = 0
    answer: Answer | None = None
    aside: Path | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer is there."""
        return self.answer is not None or self.aside is not None

    @property
    def how_far(self) -> str:
        """In words."""
        return f" at step {self.step} of {self.steps}" if self.steps else ""

    def put_aside(self, folder: Path) -> None:
        """Keep a reply on disk until its turn comes, so that one reply at most is in memory."""
        if not isinstance(self.answer, TrainReply) or any(
            a.dtype.hasobject for a in self.answer.arrays.values()
        ):
            return
        path = folder / f"{self.digest}.safetensors"
        arrays = {name: np.ascontiguousarray(array) for name, array in self.answer.arrays.items()}
        try:
            save_file(arrays, path, {"fields": json.dumps(self.answer.to_fields())})
        except (OSError, SafetensorError, ValueError, KeyError):
            return  # a strange dtype, or a full disk: then it stays in memory, and is judged in its turn
        self.answer, self.aside = None, path

    def take(self) -> Answer:
        """The answer, its file removed."""
        if self.aside is None:
            assert self.answer is not None
            return self.answer
        try:
            with safe_open(self.aside, framework="numpy") as stored:
                fields = json.loads((stored.metadata() or {})["fields"])
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return TrainReply.from_fields(fields, arrays)
        except (OSError, SafetensorError, KeyError, ValueError, ContractError) as error:
            return NoReply("failed", f"its reply was lost on the coordinator's disk ({type(error).__name__})")
        finally:
            self.aside.unlink(missing_ok=True)
            self.aside = None
