"""Where a run keeps its checkpoints: each arm's latest round and its best one, never half of either.

::

    folder/<arm>/finetune-0007.safetensors   latest
    folder/<arm>/finetune-0004.safetensors   best on validation
    folder/<arm>/finetune-0007-rule.safetensors   what the rule of aggregation keeps; FedAvg's keeps nothing
    folder/<arm>/arm.json                    where the arm stands, and which file is which

A round counts once `arm.json` has been replaced, in one step: a crash before that leaves the round before, a
crash after it leaves this one. Files that it does not name are removed, so the disk holds two models an arm, and
what the rule keeps once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from phcc_model.contract.manifest import Array
from phcc_model.errors import StorageError
from phcc_model.storage import storage_error, write_atomically
from phcc_server.rounds import StudyState

INDEX = "arm.json"


@dataclass(frozen=True)
class Stored:
    """One checkpoint of an arm.

    Attributes:
        path: the file.
        arrays: the model's state by name.
        info: what it is for.
    """

    path: Path
    arrays: dict[str, Array]
    info: CheckpointInfo


_FileName = Annotated[str, Field(pattern=r"^[a-z]+-(\d{4,}|start)(-rule)?\.safetensors$")]


class _Index(BaseModel):
    """What `arm.json` says; file names within its folder, None where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: str
    study_digest: str
    state: dict[str, Any]
    latest: _FileName | None = None
    best: _FileName | None = None
    rule: _FileName | None = None


class RunStore:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made if need be.
        study_digest: `StudyConfig.digest` of the run's study.
    """

    def __init__(self, folder: Path, study_digest: str) -> None:
        self.folder = folder
        self.study_digest = study_digest

    def save_round(
        self,
        arm: str,
        stage: str,
        round_index: int,
        arrays: Mapping[str, Array],
        state: StudyState,
        held: Mapping[str, Array] | None = None,
    ) -> str:
        """Keep the model that a round's aggregation gave, and where the arm now stands.

        Args:
            arm: of the study.
            stage: of the round.
            round_index: of the stage, from 0; -1 for the weights before the first round.
            arrays: the model's whole state by name.
            state: after the training.
            held: what the rule of aggregation keeps for the next round, where it keeps anything.

        Returns:
            The digest of the model's state.

        Raises:
            StorageError: the disk is full or not writable; what was kept before is still there.
        """
        index = self._index(arm)
        name = f"{stage}-{round_index:04d}.safetensors" if round_index >= 0 else f"{stage}-start.safetensors"
        info = CheckpointInfo(stage=stage, round_index=round_index, study_digest=self.study_digest)
        digest = save_checkpoint(self._folder(arm) / name, arrays, info)
        best = index.best if index and index.best and index.best.startswith(stage) else None
        rule: str | None = None
        if held:
            rule = name.replace(".safetensors", "-rule.safetensors")
            save_checkpoint(self._folder(arm) / rule, held, info)
        self._commit(arm, state, name, best, rule)
        return digest

    def save_state(self, arm: str, state: StudyState) -> None:
        """Keep where the arm stands after an evaluation; the latest round becomes the best one if it is.

        Raises:
            StorageError: no round was kept before, or the disk is full or not writable.
        """
        index = self._index(arm)
        if index is None or index.latest is None:
            raise StorageError("no round has been kept that could be evaluated", where=arm)
        latest = self._folder(arm) / index.latest
        is_best = state.best_round is not None and latest.stem == f"{state.stage}-{state.best_round:04d}"
        self._commit(arm, state, latest.name, latest.name if is_best else index.best, index.rule)

    def state(self, arm: str) -> StudyState | None:
        """Where the arm stands; None if it has not begun.

        Raises:
            StorageError: what is kept is damaged or belongs to another study.
        """
        index = self._index(arm)
        return StudyState.from_json(json.dumps(index.state)) if index else None

    def latest(self, arm: str) -> Stored | None:
        """The model of the last round that was kept.

        Raises:
            StorageError: the checkpoint is missing or damaged.
        """
        index = self._index(arm)
        return self._load(arm, index.latest) if index and index.latest else None

    def best(self, arm: str) -> Stored | None:
        """The model of the stage's best round on validation so far.

        Raises:
            StorageError: the checkpoint is missing or damaged.
        """
        index = self._index(arm)
        return self._load(arm, index.best) if index and index.best else None

    def rule(self, arm: str) -> Stored | None:
        """What the rule of aggregation kept in the last round; None where it keeps nothing.

        Raises:
            StorageError: the file is missing or damaged.
        """
        index = self._index(arm)
        return self._load(arm, index.rule) if index and index.rule else None

    def final(self, arm: str) -> Stored:
        """The model of a finished arm.

        Raises:
            StorageError: the arm has not finished, or its checkpoint is missing or damaged.
        """
        state, best = self.state(arm), self.best(arm)
        if state is None or not state.finished or best is None:
            raise StorageError("this arm has not finished", where=arm, remedy="Resume the run")
        return best

    def _load(self, arm: str, name: str) -> Stored:
        path = self._folder(arm) / name
        arrays, info = load_checkpoint(path)
        if info.study_digest != self.study_digest:
            raise StorageError("this checkpoint belongs to another study", where=str(path))
        return Stored(path, arrays, info)

    def _folder(self, arm: str) -> Path:
        """A folder of its own for every arm, whatever its name is made of."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", arm).strip("-")
        return self.folder / (
            plain if plain == arm else f"{plain}-{hashlib.sha256(arm.encode()).hexdigest()[:8]}"
        )

    def _index(self, arm: str) -> _Index | None:
        path = self._folder(arm) / INDEX
        try:
            index = _Index.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error
        except ValidationError as error:
            raise StorageError(
                "cannot be read as the index of an arm",
                where=str(path),
                remedy="Restore it, or start the arm anew",
            ) from error
        if index.study_digest != self.study_digest:
            raise StorageError(
                "this folder holds the run of another study", where=str(path), remedy="Choose another folder"
            )
        return index

    def _commit(self, arm: str, state: StudyState, latest: str, best: str | None, rule: str | None) -> None:
        index = _Index(
            arm=arm,
            study_digest=self.study_digest,
            state=asdict(state),
            latest=latest,
            best=best,
            rule=rule,
        )
        folder = self._folder(arm)
        # A rule that keeps nothing is not mentioned: the file is then what it was before there were others.
        exclude = None if rule else {"rule"}
        write_atomically(folder / INDEX, index.model_dump_json(indent=1, exclude=exclude))
        try:
            for path in folder.glob("*.safetensors"):
                if path.name not in (latest, best, rule):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error
