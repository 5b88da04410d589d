"""Slices of a few cases as a simulated run keeps them, so that its report can be drawn again.

One safetensors file holds what belongs together: for each case its arrays, and in the header what they are in
words. Nothing of the kind is written by a real run: images stay at the sites.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from phcc_model.errors import StorageError
from phcc_model.storage import write_atomically

_KEY = "phcc-slices"


@dataclass(frozen=True)
class Slices:
    """One case.

    Attributes:
        said: what it is, in values that JSON has.
        arrays: by name, e.g. ``target`` with axes phase, h, w.
    """

    said: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def save_slices(path: Path, kept: Sequence[Slices]) -> None:
    """Write some cases, whole or not at all.

    Raises:
        StorageError: the disk is full or not writable.
    """
    arrays = {
        f"{at}.{name}": np.ascontiguousarray(a)
        for at, one in enumerate(kept)
        for name, a in one.arrays.items()
    }
    header = {_KEY: json.dumps([dict(one.said) for one in kept], sort_keys=True)}
    write_atomically(path, save(arrays, header))


def load_slices(path: Path) -> list[Slices]:
    """What a file holds; nothing where there is none, as in a run of an earlier version.

    Raises:
        StorageError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="numpy") as stored:
            said = json.loads((stored.metadata() or {})[_KEY])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  no mapping
        return [
            Slices(
                words, {n.partition(".")[2]: a for n, a in arrays.items() if n.partition(".")[0] == str(at)}
            )
            for at, words in enumerate(said)
        ]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise StorageError(
            "the slices kept for the report cannot be read",
            where=str(path),
            remedy="Remove the file: the report is then made without these pictures",
        ) from error
