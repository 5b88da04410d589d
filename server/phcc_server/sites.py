"""What the coordinator asks of the sites, whatever carries it: Flower's grid, or memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)


@dataclass(frozen=True)
class NoReply:
    """A site from which nothing came that can be used.

    Attributes:
        status: ``missing`` nothing in time; ``failed`` the site reports an error; ``refused`` what came does
            not hold to the contract.
        reason: one line for the record.
    """

    status: Literal["missing", "failed", "refused"]
    reason: str


@dataclass(frozen=True)
class Heard:
    """A sign of life from a site, or of its absence.

    Attributes:
        site: its name.
        state: ``ready`` or ``not ready`` before a round; ``waiting``, ``training``, ``replied``, or ``silent``
            where Flower has lost its node.
        step: steps done, of `steps`; 0 of 0 while it is not known.
        steps: of the order.
        reason: why it is not ready.
    """

    site: str
    state: str
    step: int = 0
    steps: int = 0
    reason: str = ""


class Sites(Protocol):
    """The sites of a study, reached one way or another.

    Replies come in the order of the orders, one at a time, so that a sum over them is the same sum in every
    run and no more than one reply is held in memory.
    """

    def cards(
        self, order: CardOrder, expected: Sequence[str], patience_s: float | None = None
    ) -> dict[str, SiteCard | NoReply]:
        """Ask who they are; by site, all that answered and every expected one.

        Args:
            order: the question.
            expected: sites that should be there.
            patience_s: how long to wait for them; None: as long as is usual here.
        """

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        """Send the orders side by side; their replies, in the order of the orders."""

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        """Likewise."""
