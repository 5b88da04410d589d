"""The record of every round: append-only, hash-chained, one JSON line each (see `phcc_model.chain`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.chain import Chain, read_records, verify_chain
from phcc_model.contract import keys
from phcc_model.errors import StorageError
from phcc_server.rounds import RoundStatus

Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(ge=0.0)]


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


class ValidationRecord(_Part):
    """The aggregated weights on all sites' validation patients."""

    loss: float | None
    auc: float | None
    threshold: float | None = Field(None, description="Youden, on the probability")
    cases: Count = 0
    left_out: dict[str, str] = Field({}, description="sites whose patients are missing, with the reason")


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
