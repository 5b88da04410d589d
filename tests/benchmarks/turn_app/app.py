"""The coordinator's app of `bench_rounds`: the simulation's own loop, its sites reached in turns.

Rounds of an even number go through Flower's grid, the others to the same sites' folders within this process.
The first order of all is carried out both ways, and the replies must be the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from phcc_client.session import Session
from phcc_client.splits import read_splits
from phcc_model.contract.manifest import Array
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_server.coordinator import Coordinator
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger
from phcc_server.sites import NoReply, Sites
from phcc_server.store import RunStore
from phcc_server.strategy import FlowerSites
from phcc_simulation.app import JOURNAL, SITES_PATIENCE_S, SPLITS, request_of
from phcc_simulation.federation import MemorySites

LEDGER, SAME = "ledger.jsonl", "same.txt"


class InTurns:
    """`phcc_server.sites.Sites` by Flower in even rounds, from memory in odd ones.

    Args:
        flower: through Flower's grid.
        memory: in this process.
        same: file in which it is written down that the first reply was the same either way.
    """

    def __init__(self, flower: Sites, memory: Sites, same: Path) -> None:
        self._both = (flower, memory)
        self._same = same

    def cards(
        self, order: CardOrder, expected: Sequence[str], patience_s: float | None = None
    ) -> dict[str, SiteCard | NoReply]:
        """By Flower."""
        return self._both[0].cards(order, expected, patience_s)

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        """By turns."""
        if not self._same.exists():
            one, other = (_arrays(next(iter(side.train(orders[:1], deadline_s)))[1]) for side in self._both)
            alike = one.keys() == other.keys() and all(np.array_equal(one[n], other[n]) for n in one)
            self._same.write_text("yes" if alike else "no")
        return self._both[orders[0].round % 2].train(orders, deadline_s)

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        """As the round was trained."""
        return self._both[orders[0].round % 2].evaluate(orders, deadline_s)


def _arrays(reply: TrainReply | NoReply) -> Mapping[str, Array]:
    return reply.arrays if isinstance(reply, TrainReply) else {}


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study's arm to its end; the ledger says what each round took."""
    request = request_of(context.run_config)
    journal = Journal(request.out / JOURNAL)
    try:
        centres = read_splits(request.out / SPLITS).centres
        memory = MemorySites({c: Session(request.out / "sites" / c, c, request.runtime) for c in centres})
        sites = InTurns(FlowerSites(grid, SITES_PATIENCE_S), memory, request.out / SAME)
        Coordinator(
            "full",
            request.study,
            sites,
            RunStore(request.out / "checkpoints", request.study.digest),
            Ledger(request.out / LEDGER),
            request.out / "pretrained.safetensors",
            lambda _record: None,
        ).run(centres)
    except Exception as error:
        journal.write("failed", text=f"{type(error).__name__}: {error}")
        raise
    journal.write("done")
