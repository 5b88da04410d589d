"""From a message to flat fields and back: the boundary at which nothing is taken on trust.

`Message.to_fields` gives the values as Flower's records take them (flat scalars and lists, a map as
``name.key``). `Message.from_fields` checks the contract's version first, then the presence and the type of
every field, then the values that have a fixed vocabulary. What a count or an array may be is judged by
whoever knows what was ordered.
"""

from __future__ import annotations

import hashlib
import json
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from phcc_model.contract import keys, ranges
from phcc_model.contract.manifest import Array
from phcc_model.errors import ContractError, VersionMismatch

WireValue = bool | int | float | str | list[int]
"""What a field is on the wire."""

LINE = 300
"""Characters of a failure's line, at most."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What every message has.

    Attributes:
        contract: version of the contract that the sender speaks.
        package: version of this project at the sender.
        arrays: flat 1-D arrays by name.
    """

    carries_arrays: ClassVar[bool] = False

    contract: int = keys.CONTRACT_VERSION
    package: str
    arrays: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)

    def to_fields(self) -> dict[str, WireValue]:
        """All values but the arrays, flat.

        Raises:
            ContractError: a value is not of its type, or outside its vocabulary; names the field.
        """
        plain: dict[str, WireValue] = {}
        for name, kind in _kinds(type(self)).items():
            value = getattr(self, name)
            _check(name, kind, value)
            if isinstance(value, Mapping):
                plain |= {f"{name}.{key}": item for key, item in sorted(value.items())}
            else:
                plain[name] = list(value) if isinstance(value, list) else value
        return plain

    @property
    def digest(self) -> str:
        """SHA-256 of all that the message asks for: equal digests, equal orders, and so equal replies.

        What is only said along with an order (`keys.REMARKS`) is left out.
        """
        plain = {name: value for name, value in self.to_fields().items() if name not in keys.REMARKS}
        digest = hashlib.sha256(json.dumps([type(self).__name__, plain], sort_keys=True).encode())
        for name in sorted(self.arrays):
            array = np.ascontiguousarray(self.arrays[name])
            digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            digest.update(array.data.cast("B") if array.size else b"")
        return digest.hexdigest()

    @classmethod
    def from_fields(cls, plain: Mapping[str, object], arrays: Mapping[str, object] | None = None) -> Self:
        """The message that `to_fields` took apart.

        Args:
            plain: what `to_fields` returned at the other side.
            arrays: the arrays that came with it.

        Raises:
            VersionMismatch: the other side speaks another version of the contract.
            ContractError: a field is missing or unknown, of a wrong type or value; names it.
        """
        _check_version(cls, plain)
        values: dict[str, Any] = {name: _take(cls, name, kind, plain) for name, kind in _kinds(cls).items()}
        maps = tuple(f"{name}." for name, kind in _kinds(cls).items() if kind in _MAPS)
        for name in plain:
            if name not in values and not name.startswith(maps):
                raise ContractError("unknown field", where=f"{cls.__name__}.{name}")
        checked = _checked_arrays(cls, arrays or {})
        return cls(**values, arrays=checked)


def check_package(theirs: str, ours: str, where: str) -> None:
    """Both sides must run one version of this project: training is only then the same training.

    Raises:
        VersionMismatch: they do not; says what to install.
    """
    if theirs != ours:
        raise VersionMismatch(
            f"the other side runs {keys.DISTRIBUTION} {theirs}, this side {ours}",
            where=where,
            remedy=f"Install the same version on both sides, e.g. pip install {keys.DISTRIBUTION}=={theirs}",
        )


_MAPS: tuple[object, ...] = (dict[str, int], dict[str, float])
_VOCABULARIES: dict[str, Collection[str]] = {
    "metrics": keys.METRICS,
    "aside": keys.ASIDE,
    "seen": ranges.ENDS,
}
"""The names that a map may hold, by its field; those of any other map are splits."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _kinds(cls: type[Message]) -> dict[str, object]:
    """Type of each field on the wire, by name."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in fields(cls) if item.name != "arrays"}


def _check_version(cls: type[Message], plain: Mapping[str, object]) -> None:
    theirs = plain.get("contract")
    if type(theirs) is not int:
        raise ContractError("is missing or no whole number", where=f"{cls.__name__}.contract")
    if theirs != keys.CONTRACT_VERSION:
        raise VersionMismatch(
            f"the other side speaks contract {theirs} (package {plain.get('package', 'unknown')}), this side "
            f"{keys.CONTRACT_VERSION} (package {keys.package_version()})",
            where=cls.__name__,
            remedy=f"Install the same version of {keys.DISTRIBUTION} on both sides",
        )


def _take(cls: type[Message], name: str, kind: object, plain: Mapping[str, object]) -> object:
    """One field out of flat values, checked."""
    value: object
    if kind in _MAPS:
        value = {key[len(name) + 1 :]: item for key, item in plain.items() if key.startswith(f"{name}.")}
    elif name in plain:
        value = plain[name]
    else:
        raise ContractError("field is missing", where=f"{cls.__name__}.{name}")
    _check(name, kind, value)
    return list(value) if isinstance(value, list) else value


def _check(name: str, kind: object, value: object) -> None:
    """Type, then vocabulary; True is not accepted for 1, nor 1 for 1.0."""
    if not _is_of(kind, value):
        wanted = getattr(kind, "__name__", kind) if not typing.get_args(kind) else kind
        raise ContractError(f"must be {wanted}, not {type(value).__name__}", where=name)
    for key in value if isinstance(value, dict) else ():
        known = _VOCABULARIES.get(name, keys.SPLITS)
        if key not in known:
            raise ContractError(
                f"this name is not in the contract; known are {', '.join(sorted(known))}",
                where=f"{name}.{key[:80]}",
            )
    if not isinstance(value, dict | list) and name in _RULES:
        holds, wanted = _RULES[name]
        if not holds(value):
            raise ContractError(f"must be {wanted}, not {str(value)[:80]!r}", where=name)


def _is_of(kind: object, value: object) -> bool:
    if kind in _MAPS:
        inner = typing.get_args(kind)[1]
        return isinstance(value, dict) and all(_is_of(inner, item) for item in value.values())
    if kind == list[int]:
        return isinstance(value, list) and all(_is_of(int, item) for item in value)
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) is kind


def _checked_arrays(cls: type[Message], arrays: Mapping[str, object]) -> dict[str, Array]:
    if arrays and not cls.carries_arrays:
        raise ContractError(
            f"a {cls.__name__} carries no arrays", where=f"{cls.__name__}.{next(iter(arrays))}"
        )
    checked: dict[str, Array] = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise ContractError("is no numeric array", where=f"{cls.__name__}.{name}")
        checked[name] = array
    return checked


def _name(longest: int) -> Callable[[object], bool]:
    """Fit for a log line and, once a separator is taken out, for a file name."""

    def holds(value: object) -> bool:
        return isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()

    return holds


def _line_or_none(value: object) -> bool:
    return value == "" or _name(LINE)(value)


def _at_least(least: int) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        return isinstance(value, int) and value >= least

    return holds


def _one_of(words: tuple[str, ...] | frozenset[str]) -> tuple[Callable[[object], bool], str]:
    return words.__contains__, f"one of {', '.join(sorted(words))}"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "package": (_name(64), "a version"),
    "study_digest": (_is_digest, "64 hexadecimal digits"),
    "manifest_digest": (_is_digest, "64 hexadecimal digits"),
    "arm": (_name(128), "a printable name of at most 128 characters"),
    "site": (_name(128), "a printable name of at most 128 characters"),
    "line": (_name(LINE), f"one printable line of at most {LINE} characters"),
    "notice": (_line_or_none, f"empty, or one printable line of at most {LINE} characters"),
    "order": (_is_digest, "64 hexadecimal digits"),
    "state": _one_of(keys.WORK_STATES),
    "step": (_at_least(0), "0 or more"),
    "stage": _one_of(keys.STAGES),
    "split": _one_of(keys.SPLITS),
    "encoding": _one_of(keys.ENCODINGS),
    "code": _one_of(keys.FAILURE_CODES),
    "round": (_at_least(0), "0 or more"),
    "rounds": (_at_least(1), "1 or more"),
    "seed": (_at_least(0), "0 or more"),
}
