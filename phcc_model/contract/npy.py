"""An array as a view of the bytes that came: numpy's file format, read without a copy.

`numpy.load` reads the values out of the bytes into memory of their own, a model's worth for every reply of
every round. Here the header is parsed by numpy and the values stay where they are. What can be a flat array
of a message is a small part of what the format allows; the rest is refused.
"""

from __future__ import annotations

import io
import math
import tokenize

import numpy as np
from numpy.lib import format as npy

from phcc_model.contract.manifest import Array
from phcc_model.errors import ContractError

KIND = "numpy.ndarray"
"""What Flower calls this format."""
VERSION = (1, 0)
"""Of the format; later ones are for headers that are longer, or not in Latin letters."""

# What numpy raises for bytes that are no array: a header that is no expression or far too long a one, a type
# that there is not, a shape that no memory holds. Warning: where warnings are errors.
_NO_ARRAY = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    MemoryError,
    SyntaxError,
    RecursionError,
    tokenize.TokenError,
    Warning,
)


def read_npy(data: bytes, kind: str, where: str) -> Array:
    """The array that numpy wrote.

    Args:
        data: of `numpy.save`; the array keeps them in memory.
        kind: what the sender says the format is.
        where: name of the array, for the error.

    Returns:
        A view of `data`, which cannot be written to; a copy that cannot be either, where the header leaves the
        values at addresses that are no multiple of their size.

    Raises:
        ContractError: the bytes are of another format, or no array, or one of Python's objects, or in Fortran's
            order, or more or fewer than the header says.
    """
    try:
        if kind != KIND:
            raise ValueError("of another format")
        return _view(data)
    except _NO_ARRAY as error:
        raise ContractError("the bytes are no array", where=where[:80]) from error


def _view(data: bytes) -> Array:
    head = io.BytesIO(data)
    if npy.read_magic(head) != VERSION:
        raise ValueError("of another version")
    shape, is_fortran, dtype = npy.read_array_header_1_0(head)
    start = head.tell()
    if dtype.hasobject or is_fortran:
        raise ValueError("holds objects, or lies in Fortran's order")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError("of another length than it says")
    view: Array = np.ndarray(shape, dtype, buffer=data, offset=start)
    if not view.flags.aligned:
        view = view.copy()
        view.flags.writeable = False
    return view
