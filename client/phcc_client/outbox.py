"""What left: every outgoing message as one line of a hash-chained record, for whoever answers for the data.

A line says what was sent and how much, and holds every count and measure; of the weights it holds number,
size and SHA-256. It is written before the message leaves, so nothing leaves that is not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.chain import Chain, read_records, verify_chain
from phcc_model.contract.manifest import Array
from phcc_model.contract.wire import Message
from phcc_model.errors import StorageError
from phcc_model.storage import locked

_WHAT = "the record of what left"
_REMEDY = "Keep the file for whoever looks into it, and move it and its .head aside to begin a new one"
_ADDRESS = frozenset({"arm", "stage", "study_digest"})
"""Fields that say which study a message belongs to; `round` besides."""

Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SentArray(_Part):
    """One flat array of a message.

    Attributes:
        name: as in the contract.
        dtype: of its elements.
        elements: how many.
        bytes: on the wire.
        sha256: of these bytes.
    """

    name: str
    dtype: str
    elements: Count
    bytes: Count
    sha256: str


class Sent(_Part):
    """One message that left.

    Attributes:
        when: it was written down, just before it was sent.
        kind: of the message, as the contract calls it.
        study: the study's name, where it is known.
        study_digest, arm, stage, round: what it belongs to; None where the message does not say.
        arrays: what it carried.
        bytes: of its arrays, together.
        counts: whole numbers by name; a split's as ``patients.train``.
        statistics: measures by name.
        histograms: cases per bin of the score, by name and bin; empty bins are left out.
        words: its texts by name.
        noised: whether noise was added against recognition of a patient.
    """

    when: AwareDatetime
    kind: str
    study: str = ""
    study_digest: str | None = None
    arm: str | None = None
    stage: str | None = None
    round: int | None = None
    arrays: tuple[SentArray, ...] = ()
    bytes: Count = 0
    counts: dict[str, int] = {}
    statistics: dict[str, float] = {}
    histograms: dict[str, dict[int, int]] = {}
    words: dict[str, str] = {}
    noised: bool = False


class Outbox:
    """The record of what left one hospital; several processes may write it, one after the other.

    Args:
        file: the record; made with its first line.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def record(self, message: Message, *, study: str = "", noised: bool = False) -> Sent:
        """Write down a message that is about to leave; it is on the disk when this returns.

        Args:
            message: as it will be sent.
            study: the study's name, for the reader.
            noised: whether noise was added to it.

        Raises:
            ContractError: a field of the message is not what the contract says.
            StorageError: the disk is full, or the record does not hold; then nothing may leave.
        """
        sent = _sent(message, study, noised, datetime.now(UTC))
        with locked(self.file):
            Chain(self.file, _WHAT, _REMEDY, end_only=True).append(sent.model_dump(mode="json"))
        return sent

    def read(self) -> tuple[Sent, ...]:
        """Everything that left, in order.

        Raises:
            StorageError: the file cannot be read, or a line is none of this record.
        """
        try:
            return tuple(Sent.model_validate(record) for record in read_records(self.file))
        except ValidationError as error:
            raise StorageError(
                f"{_WHAT} holds a line that is none of it", where=str(self.file), remedy=_REMEDY
            ) from error

    def verify(self) -> tuple[str, ...]:
        """What is wrong with the record: one line per fault, none if it holds.

        Raises:
            StorageError: the file cannot be read.
        """
        if not self.file.exists() and not self.file.with_name(self.file.name + ".head").exists():
            return ()
        with locked(self.file):  # between a line and its head, a record that is being written has a gap
            return verify_chain(self.file)


def _sent(message: Message, study: str, noised: bool, when: datetime) -> Sent:
    fields = message.to_fields()
    arrays = tuple(_array(name, array) for name, array in sorted(message.arrays.items()))
    others = {name: value for name, value in fields.items() if name not in _ADDRESS | {"round"}}
    number = fields.get("round")
    return Sent(
        when=when,
        kind=type(message).__name__,
        study=study,
        **{name: str(fields[name]) for name in _ADDRESS if name in fields},
        round=number if isinstance(number, int) else None,
        arrays=arrays,
        bytes=sum(array.bytes for array in arrays),
        counts={name: value for name, value in others.items() if isinstance(value, int)},
        statistics={name: value for name, value in others.items() if isinstance(value, float)},
        histograms={name: _filled(value) for name, value in others.items() if isinstance(value, list)},
        words={name: value for name, value in others.items() if isinstance(value, str)},
        noised=noised,
    )


def _filled(bins: list[int]) -> Mapping[int, int]:
    return {number: count for number, count in enumerate(bins) if count}


def _array(name: str, array: Array) -> SentArray:
    content = np.ascontiguousarray(array).tobytes()
    return SentArray(
        name=name,
        dtype=array.dtype.name,
        elements=array.size,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
