"""A site's end of the wire: Flower's records to orders, replies to Flower's records."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from phcc_model.contract.npy import read_npy
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError

FIELDS = "fields"
ARRAYS = "arrays"
KIND = "kind"

Order = TypeVar("Order", bound=Message)


def kind_of(content: RecordDict, kinds: tuple[type[Message], ...]) -> type[Message]:
    """Which kind of order a message carries; the first one where it does not say, for `read_order` to refuse."""
    fields = content.get(FIELDS)
    said = fields.get(KIND) if isinstance(fields, ConfigRecord) else None
    return next((kind for kind in kinds if kind.__name__ == said), kinds[0])


def read_order(content: RecordDict, kind: type[Order]) -> Order:
    """The order that a message carries; its arrays are views of the bytes that came, which cannot be written to.

    Raises:
        ContractError: the records are not those of the order that was expected, or the bytes are no arrays.
    """
    fields, arrays = content.get(FIELDS), content.get(ARRAYS)
    if not isinstance(fields, ConfigRecord) or not isinstance(arrays, ArrayRecord | None):
        raise ContractError("the message does not hold the records of an order", where=kind.__name__)
    values = dict(fields)
    if (said := values.pop(KIND, None)) != kind.__name__:
        raise ContractError(f"the message holds {said!r}, expected was {kind.__name__}", where=kind.__name__)
    unpacked = {name: read_npy(array.data, array.stype, name) for name, array in (arrays or {}).items()}
    return kind.from_fields(values, unpacked)


def write_reply(reply: Message) -> RecordDict:
    """A reply (or a `Failure`) as the content of a message."""
    content = RecordDict({FIELDS: ConfigRecord({KIND: type(reply).__name__, **reply.to_fields()})})
    if reply.arrays:
        content[ARRAYS] = ArrayRecord({name: Array(array) for name, array in reply.arrays.items()})
    return content
