"""What a site remembers from round to round, on its own disk: it never leaves.

Stored under the round that wrote it, so that a round ordered a second time (after a crash, say) starts from
the same memory and gives the same answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint

KEPT_ROUNDS = 3
"""Rounds kept: the last ones, from which an ordered round may have to be done again."""
_NAME = re.compile(r"round-(\d+)\.safetensors")


class SiteMemory:
    """A site's own arrays of one study and arm.

    Args:
        folder: where this site keeps its memories.
        study_digest: of the study.
        arm: of the study; taken from outside, so it is never used as a file's name.
        kind: which of several memories of the arm; empty: that of the sample weighting.
    """

    def __init__(self, folder: Path, study_digest: str, arm: str, kind: str = "") -> None:
        whole = "/".join(part for part in (study_digest, arm, kind) if part)
        name = hashlib.sha256(whole.encode()).hexdigest()[:32]
        self.folder = folder / name
        self.study_digest = study_digest

    def before(self, round_index: int) -> dict[str, NDArray[Any]] | None:
        """What the round before this one kept; None before the first.

        Raises:
            StorageError: the file is damaged.
        """
        return self.of(round_index - 1)

    def of(self, round_index: int) -> dict[str, NDArray[Any]] | None:
        """What this round kept; None where it kept nothing, or not any more.

        Raises:
            StorageError: the file is damaged.
        """
        path = self._path(round_index)
        return load_checkpoint(path)[0] if path.exists() else None

    def last_before(self, round_index: int) -> dict[str, NDArray[Any]] | None:
        """What the last round before this one kept in which the site took part; None before its first.

        Raises:
            StorageError: the file is damaged.
        """
        earlier = [kept for kept in self._rounds() if kept < round_index]
        return self.of(earlier[-1]) if earlier else None

    def keep(self, round_index: int, arrays: Mapping[str, NDArray[Any]], needed: int | None = None) -> None:
        """Keep this round's memory, and drop those that are not asked for again.

        Of earlier rounds the last ones stay. Those of later rounds are from before the study went on from an
        earlier point, and a site that is not there in one of these rounds must not find them.

        Args:
            round_index: the round.
            arrays: what is remembered.
            needed: an earlier round that stays however old it is.

        Raises:
            StorageError: it cannot be written.
        """
        save_checkpoint(
            self._path(round_index), arrays, CheckpointInfo("memory", round_index, self.study_digest)
        )
        rounds = self._rounds()
        last = [kept for kept in rounds if kept <= round_index][-KEPT_ROUNDS:]
        for kept in set(rounds) - {*last, needed}:
            self._path(kept).unlink(missing_ok=True)

    def _rounds(self) -> list[int]:
        """The rounds of which something is kept, in order."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("*.safetensors"))
        return sorted(int(name[1]) for name in names if name)

    def _path(self, round_index: int) -> Path:
        return self.folder / f"round-{round_index}.safetensors"
