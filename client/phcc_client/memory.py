"""What a site remembers from round to round, on its own disk: it never leaves.

Stored under the round that wrote it, so that a round ordered a second time (after a crash, say) starts from
the same memory and gives the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint

KEPT_ROUNDS = 3
"""Rounds kept: the last ones, from which an ordered round may have to be done again."""


class SiteMemory:
    """A site's own arrays of one study and arm.

    Args:
        folder: where this site keeps its memories.
        study_digest: of the study.
        arm: of the study; taken from outside, so it is never used as a file's name.
    """

    def __init__(self, folder: Path, study_digest: str, arm: str) -> None:
        name = hashlib.sha256(f"{study_digest}/{arm}".encode()).hexdigest()[:32]
        self.folder = folder / name
        self.study_digest = study_digest

    def before(self, round_index: int) -> dict[str, NDArray[Any]] | None:
        """What the round before this one kept; None before the first.

        Raises:
            StorageError: the file is damaged.
        """
        path = self._path(round_index - 1)
        return load_checkpoint(path)[0] if path.exists() else None

    def keep(self, round_index: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep this round's memory, and drop those that are too old to be asked for again.

        Raises:
            StorageError: it cannot be written.
        """
        save_checkpoint(
            self._path(round_index), arrays, CheckpointInfo("memory", round_index, self.study_digest)
        )
        self._path(round_index - KEPT_ROUNDS).unlink(missing_ok=True)

    def _path(self, round_index: int) -> Path:
        return self.folder / f"round-{round_index}.safetensors"
