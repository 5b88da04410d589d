"""How many cases fit into this machine's memory at once: found by failing, and remembered.

An order is tried with the study's whole batch at once. Where memory runs out, it is carried out again from its
own weights with half as many cases at once, and so on down to one. The batch stays the study's, and what comes
out is what a larger machine gives, to rounding (see `phcc_model.training.sharing`); it takes longer, by about a
third. What was found holds for the next orders of the same kind, until this process ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from phcc_client.devices import give_memory_back, is_out_of_memory
from phcc_client.ordered_study import study_of
from phcc_model.contract import keys
from phcc_model.contract.messages import EvaluateOrder, TrainOrder
from phcc_model.errors import TrainingError
from phcc_model.training.predict import CASES_AT_ONCE as SCORED_AT_ONCE
from phcc_model.training.pretraining import CASES_AT_ONCE as COMPARED_AT_ONCE

T = TypeVar("T")
Order = TrainOrder | EvaluateOrder

log = logging.getLogger("phcc_client")


class Room:
    """What one process knows of its machine's memory.

    Args:
        note: tells the people of this machine.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._found: dict[tuple[str, ...], int] = {}

    def fit(self, order: Order, work: Callable[[int | None], T], ranks: int = 1) -> T:
        """Carry out an order with as many cases at once as fit.

        Args:
            order: what to carry out.
            work: carries it out from the beginning, with so many cases at once; None: a whole batch.
            ranks: processes that share a batch; each takes so many cases at once.

        Raises:
            TrainingError: not even one case at once fits.
            Exception: what `work` raises and is not about memory.
        """
        kind = (order.study_digest, order.arm, order.stage, type(order).__name__)
        failed: int | None = None
        while True:
            try:
                result = work(self._found.get(kind))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("out of memory: %s", error)
            else:
                break
            # Outside of the handler, which holds on to everything that was in memory.
            failed = self._found.get(kind) or most_at_once(order, ranks)
            if failed == 1:
                raise TrainingError(
                    "out of memory with 1 case at once",
                    where=f"{order.arm} {order.stage}",
                    remedy="End what else uses this memory, or take a machine or GPU with more of it",
                )
            self._found[kind] = failed // 2
            give_memory_back()
        if failed is not None:
            self._note(_told(order, failed, self._found[kind], ranks))
        return result


def most_at_once(order: Order, ranks: int = 1) -> int:
    """How many cases one process takes at once where nothing was found yet."""
    if isinstance(order, EvaluateOrder):
        return COMPARED_AT_ONCE if order.stage == keys.PRETRAIN else SCORED_AT_ONCE
    study = study_of(order)
    if order.stage == keys.PRETRAIN:
        return -(-study.pretrain.batch_size // ranks)
    batch = study.finetune.batch_size
    return -(-(batch + study.moved_of(batch)) // ranks)


def _told(order: Order, failed: int, fits: int, ranks: int) -> str:
    done = "trained" if isinstance(order, TrainOrder) else "scored"
    where = f"{order.arm} {order.stage}" + (f", on each of {ranks} devices" if ranks > 1 else "")
    return f"out of memory with {failed} cases at once: {done} with {fits} ({where})"
