"""What a model's state consists of, and where each array lies in the flat arrays that travel.

On the wire all shared arrays of one dtype are ONE flat array: the cost of a round follows the number of
tensors, not their bytes. Both sides build the manifest from the study and compare its digest; the manifest
itself never travels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phcc_model.errors import ContractError

DTYPES = ("bool", "float32", "int32", "int64", "uint8")
"""What a state may be made of. Weights are float32; a float64 or half-precision state is refused by name."""

LOCAL_OFFSET = -1
"""The offset of an entry that never travels."""

Array = NDArray[Any]
"""An array of one of several dtypes."""


def never(_name: str) -> bool:
    """No array is local to its site."""
    return False


@dataclass(frozen=True)
class Entry:
    """One array of the state.

    Attributes:
        name: its name in the state, unique.
        shape: its axes; ``()`` for a scalar.
        dtype: numpy's name of its type, one of `DTYPES`.
        local: True for what stays at its site (norms of one's own), False for what travels.
        offset: elements before it in the flat array of its dtype; -1 for a local entry.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    local: bool
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """All arrays of a state, ordered by name.

    Raises:
        ContractError: the entries are not in order, not unique, of an unknown dtype, or leave gaps.
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if names != sorted(set(names)):
            raise ContractError("the names of a manifest must be unique and in order", where="manifest")
        end = dict.fromkeys(DTYPES, 0)
        for entry in self.entries:
            if entry.dtype not in DTYPES:
                raise ContractError(
                    f"dtype {entry.dtype} cannot travel; known are {', '.join(DTYPES)}", where=entry.name
                )
            if any(n < 0 for n in entry.shape):
                raise ContractError(f"shape {entry.shape} has a negative axis", where=entry.name)
            if entry.offset != (LOCAL_OFFSET if entry.local else end[entry.dtype]):
                raise ContractError(f"offset {entry.offset} leaves a gap or overlaps", where=entry.name)
            if not entry.local:
                end[entry.dtype] += entry.size

    @classmethod
    def of(cls, state: Mapping[str, Array], local: Callable[[str], bool] = never) -> Manifest:
        """The manifest of a state.

        Args:
            state: array by name.
            local: tells by name which arrays stay at their site.

        Raises:
            ContractError: an array is of a dtype that cannot travel.
        """
        entries = []
        end: dict[str, int] = {}
        for name in sorted(state):
            array = state[name]
            kind, stays = array.dtype.name, bool(local(name))
            offset = LOCAL_OFFSET if stays else end.get(kind, 0)
            entries.append(Entry(name, tuple(array.shape), kind, stays, offset))
            if not stays:
                end[kind] = offset + array.size
        return cls(tuple(entries))

    @functools.cached_property
    def shared(self) -> tuple[Entry, ...]:
        """The entries that travel."""
        return tuple(entry for entry in self.entries if not entry.local)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Elements of the flat array of each dtype that travels, ordered by dtype."""
        sizes: dict[str, int] = {}
        for entry in self.shared:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size
        return dict(sorted(sizes.items()))

    @property
    def size(self) -> int:
        """Elements of the shared float32 weights: the length of a site's change."""
        return self.sizes.get("float32", 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the flat arrays of one order."""
        return sum(size * np.dtype(kind).itemsize for kind, size in self.sizes.items())

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal digests, equal places for every weight."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks."""
        return json.dumps([asdict(entry) for entry in self.entries], sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that `to_json` wrote.

        Raises:
            ContractError: the text is no manifest.
        """
        try:
            entries = tuple(_entry(item) for item in json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise ContractError(f"not a manifest ({error})", where="manifest") from error
        return cls(entries)

    def pack(self, state: Mapping[str, Array]) -> dict[str, Array]:
        """The shared arrays of a state as one flat array per dtype.

        Args:
            state: array by name; local entries may be there or not, nothing else.

        Returns:
            New 1-D arrays by dtype.

        Raises:
            ContractError: a name is missing or unknown, a shape or dtype differs; names it.
        """
        known = {entry.name for entry in self.entries}
        for name in state:
            if name not in known:
                raise ContractError("this array is not in the manifest", where=name)
        flats: dict[str, Array] = {kind: np.empty(size, dtype=kind) for kind, size in self.sizes.items()}
        for entry in self.shared:
            if entry.name not in state:
                raise ContractError("this array is missing from the state", where=entry.name)
            array = state[entry.name]
            if array.dtype.name != entry.dtype or tuple(array.shape) != entry.shape:
                found = f"{array.dtype.name} {tuple(array.shape)}"
                raise ContractError(
                    f"is {found}, the manifest says {entry.dtype} {entry.shape}", where=entry.name
                )
            flats[entry.dtype][entry.offset : entry.offset + entry.size] = array.reshape(-1)
        return flats

    def unpack(self, flats: Mapping[str, Array]) -> dict[str, Array]:
        """The shared arrays by name, as views into the flat arrays.

        Raises:
            ContractError: a flat array is missing or unknown, or of a wrong shape or dtype; names it.
        """
        self.check(flats)
        return {
            entry.name: flats[entry.dtype][entry.offset : entry.offset + entry.size].reshape(entry.shape)
            for entry in self.shared
        }

    def check(self, flats: Mapping[str, Array]) -> None:
        """Whether flat arrays are those of this manifest.

        Raises:
            ContractError: a flat array is missing or unknown, or of a wrong shape or dtype; names it.
        """
        check_flats(flats, {kind: (kind, size) for kind, size in self.sizes.items()})


def check_flats(flats: Mapping[str, Array], expected: Mapping[str, tuple[str, int]]) -> None:
    """Whether exactly these flat arrays are there.

    Args:
        flats: 1-D arrays by name.
        expected: dtype and number of elements by name.

    Raises:
        ContractError: an array is missing or unknown, or of a wrong shape or dtype; names it.
    """
    if unknown := sorted(set(flats) - set(expected)):
        raise ContractError(f"array not expected; expected are {sorted(expected)}", where=unknown[0])
    for name, (kind, size) in expected.items():
        if name not in flats:
            raise ContractError("array is missing", where=name)
        array = flats[name]
        if array.dtype != np.dtype(kind):
            raise ContractError(f"dtype is {array.dtype}, must be {kind}", where=name)
        if array.shape != (size,):
            raise ContractError(f"shape is {array.shape}, must be ({size},)", where=name)


def _entry(item: Mapping[str, object]) -> Entry:
    """One entry out of parsed JSON, types checked (bool is no int here)."""
    name, shape, kind, local, offset = (item[key] for key in ("name", "shape", "dtype", "local", "offset"))
    if len(item) != 5 or not isinstance(shape, list) or any(type(n) is not int for n in shape):
        raise ValueError("wrong keys or shape")
    if not (type(name) is str and type(kind) is str and type(local) is bool and type(offset) is int):
        raise ValueError("wrong type of a value")
    return Entry(name, tuple(shape), kind, local, offset)
