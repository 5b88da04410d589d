"""The record of every round: append-only, hash-chained, one JSON line each (see `phcc_model.chain`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.chain import Chain, read_records, verify_chain
from phcc_model.contract import keys
from phcc_model.contract.messages import SiteCard
from phcc_model.errors import StorageError
from phcc_model.threshold import BINS, ScoreHistogram
from phcc_server.rounds import RoundStatus

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0.0)]
Bin = Annotated[int, Field(ge=0, lt=BINS)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteRecord(_Part):
    """What one site gave to a round; counts and lengths are None where nothing usable came."""

    status: Literal["accepted", "refused", "missing", "failed"]
    reason: str | None = Field(None, description="one line, where the status is not accepted")
    patients: Count | None = None
    cases: Count | None = None
    steps: Count | None = None
    seconds: Number | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    metrics: dict[str, float] = {}
    delta_norm: Number | None = Field(None, description="Euclidean length of the change")
    weight: Number | None = Field(None, description="what the change counted in the mean")


class CardRecord(_Part):
    """What a site announced of itself: the counts and ranges of its `SiteCard`, as they were sent."""

    patients: dict[str, Count] = {}
    cases: dict[str, Count] = {}
    positives: dict[str, Count] = {}
    negatives: dict[str, Count] = {}
    aside: dict[str, Count] = {}
    seen: dict[str, float] = {}

    @classmethod
    def of(cls, card: SiteCard) -> CardRecord:
        """What a card says."""
        return cls.model_validate({name: dict(getattr(card, name)) for name in cls.model_fields})


class ScoreCounts(_Part):
    """How many cases of a site scored in each bin, as it sent them; empty bins are left out."""

    positives: dict[Bin, Count] = {}
    negatives: dict[Bin, Count] = {}

    @classmethod
    def of(cls, positives: Sequence[int], negatives: Sequence[int]) -> ScoreCounts:
        """Those of a reply, bin by bin."""
        return cls(positives=_filled(positives), negatives=_filled(negatives))

    @property
    def histogram(self) -> ScoreHistogram:
        """The same, with the empty bins."""
        counts_ck = np.zeros((2, BINS), np.int64)
        for row_k, counts in zip(counts_ck, (self.negatives, self.positives), strict=True):
            for place, count in counts.items():
                row_k[place] = count
        return ScoreHistogram.from_array(counts_ck)


def _filled(counts: Sequence[int]) -> dict[int, int]:
    return {place: count for place, count in enumerate(counts) if count}


class ValidationRecord(_Part):
    """The aggregated weights on all sites' validation patients."""

    loss: float | None
    auc: float | None
    threshold: float | None = Field(None, description="Youden, on the probability")
    cases: Count = 0
    left_out: dict[str, str] = Field({}, description="sites whose patients are missing, with the reason")
    counts: dict[str, ScoreCounts] = Field(
        {}, description="by site; empty in pre-training, and in what earlier versions wrote"
    )

    @property
    def histogram(self) -> ScoreHistogram:
        """The scores of all sites' validation cases, counted by bin and class."""
        return sum((one.histogram for one in self.counts.values()), ScoreHistogram.empty())


class RoundRecord(_Part):
    """One round of one arm."""

    arm: str
    stage: keys.Stage
    round: Count
    status: RoundStatus
    started: AwareDatetime
    finished: AwareDatetime
    seconds: Number
    sites: dict[str, SiteRecord]
    digest_before: str = Field(description="of the model's state before the round")
    digest_after: str = Field(description="and after it; the same where the round failed")
    validation: ValidationRecord | None = None
    best: bool = Field(False, description="the best round of its stage so far, on validation")
    versions: dict[str, str] = {}
    cards: dict[str, CardRecord] = Field(
        {}, description="of the sites that announced themselves, or did so anew, since the last round"
    )

    def told(self) -> dict[str, Any]:
        """What a report shows of the round: all but counts by bin and the sites' cards."""
        return self.model_dump(mode="json", exclude={"cards": True, "validation": {"counts"}})


def cards_of(rounds: Iterable[RoundRecord], arm: str | None = None) -> dict[str, CardRecord]:
    """What each site announced last, by site.

    Args:
        rounds: in the order of the ledger.
        arm: to which they announced it; None: to any. Arms that see other phases may have other counts.
    """
    found: dict[str, CardRecord] = {}
    for record in rounds:
        if arm is None or record.arm == arm:
            found |= record.cards
    return dict(sorted(found.items()))


class Ledger:
    """The ledger of one run; one process writes it at a time.

    Args:
        path: the file; its folder is made if need be.

    Attributes:
        notes: what was set right when the file was opened (a last line that a crash cut short).

    Raises:
        StorageError: the file cannot be read, or its chain does not hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._chain = Chain(
            path, "the record of rounds", "Restore it from a copy, or choose another folder for the run"
        )
        self.notes = self._chain.notes

    @property
    def head(self) -> str:
        """The seal of the last line: who keeps it can later prove that nothing before it was changed."""
        return self._chain.head

    def append(self, record: RoundRecord) -> None:
        """Add one round; it is on the disk when this returns.

        Raises:
            StorageError: the disk is full or not writable; the lines before are untouched.
        """
        self._chain.append(record.model_dump(mode="json"))

    def read(self) -> tuple[RoundRecord, ...]:
        """All rounds, in the order in which they were appended.

        Raises:
            StorageError: the file cannot be read, or a line is no record of a round.
        """
        return read_rounds(self.path)


def read_rounds(path: Path) -> tuple[RoundRecord, ...]:
    """All rounds of a ledger that another process may be writing: nothing is set right.

    Raises:
        StorageError: the file cannot be read, or a line is no record of a round.
    """
    try:
        return tuple(RoundRecord.model_validate(record) for record in read_records(path))
    except ValidationError as error:
        raise StorageError("a line is no record of a round", where=str(path)) from error


def verify(path: Path) -> tuple[str, ...]:
    """What is wrong with a ledger: one line per fault, none if it holds.

    A last line without its end is what a crash leaves, and no fault.

    Raises:
        StorageError: the file cannot be read.
    """
    return verify_chain(path)
