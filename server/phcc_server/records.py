"""The coordinator's end of the wire: orders to Flower's records, Flower's records to replies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from phcc_model.contract.messages import Failure, Working
from phcc_model.contract.npy import read_npy
from phcc_model.contract.wire import Message
from phcc_model.errors import ContractError

FIELDS = "fields"
ARRAYS = "arrays"
KIND = "kind"

Reply = TypeVar("Reply", bound=Message)


def write_orders(orders: Iterable[Message]) -> list[RecordDict]:
    """Orders as the contents of messages.

    A record holds a copy of its arrays. Orders that carry the same ones share one record, and those that carry
    some of the same (SCAFFOLD's) share these, or the coordinator would hold a model for every site (measured with
    24: 21 models more than with 3).
    """
    orders = list(orders)
    copied: dict[int, Array] = {}
    shared: dict[int, ArrayRecord] = {}
    contents = []
    for order in orders:
        content = RecordDict({FIELDS: ConfigRecord({KIND: type(order).__name__, **order.to_fields()})})
        if order.arrays:
            if id(order.arrays) not in shared:
                for array in order.arrays.values():
                    if id(array) not in copied:
                        copied[id(array)] = Array(array)
                shared[id(order.arrays)] = ArrayRecord({n: copied[id(a)] for n, a in order.arrays.items()})
            content[ARRAYS] = shared[id(order.arrays)]
        contents.append(content)
    return contents


def write_order(order: Message) -> RecordDict:
    """One order as the content of a message."""
    return write_orders([order])[0]


def read_reply(content: RecordDict, kind: type[Reply]) -> Reply | Failure | Working:
    """The reply that a site sent, or what it says instead: that it failed, or how far it is.

    Raises:
        ContractError: the records are none of these.
    """
    fields, arrays = content.get(FIELDS), content.get(ARRAYS)
    if not isinstance(fields, ConfigRecord) or not isinstance(arrays, ArrayRecord | None):
        raise ContractError("the message does not hold the records of a reply", where=kind.__name__)
    values = dict(fields)
    said = values.pop(KIND, None)
    if said == Failure.__name__:
        return Failure.from_fields(values)
    if said == Working.__name__:
        return Working.from_fields(values)
    if said != kind.__name__:
        raise ContractError(f"the message holds {said!r}, expected was {kind.__name__}", where=kind.__name__)
    return kind.from_fields(values, unpacked(arrays or {}))


def unpacked(arrays: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """Arrays as views of the bytes that came, which cannot be written to.

    Raises:
        ContractError: they are none of numpy's, or hold more or fewer bytes than they say.
    """
    return {name: read_npy(array.data, array.stype, name) for name, array in arrays.items()}
