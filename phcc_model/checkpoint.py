"""Checkpoints: safetensors with a sealed manifest inside, written whole or not at all; no pickle.

numpy only: the coordinator aggregates and stores without torch. The manifest (JSON, in the header of the
safetensors file) says what the state is for and carries a digest of it; a file that does not match its
digest is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from phcc_model.errors import StorageError

State = Mapping[str, NDArray[Any]]

FORMAT = 1
_KEY = "phcc-checkpoint"


@dataclass(frozen=True)
class CheckpointInfo:
    """What a stored state is for.

    Attributes:
        stage: ``pretrain``, ``finetune``, or a site's own name for its state.
        round_index: the round after which it was written, from 0; -1 before the first one.
        study_digest: `StudyConfig.digest` of the study.
        package_version: version of this package that wrote it.
    """

    stage: str
    round_index: int
    study_digest: str
    package_version: str = version("phcc-ssl-federated")


def state_digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, by order of name: equal states, equal digests."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.asarray(state[name], order="C")
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, state: State, info: CheckpointInfo) -> str:
    """Write a state and its manifest; a reader sees the old file or the new one, never half of one.

    Args:
        path: the file; its folder is made if need be, and a file that is there is replaced.
        state: arrays by name.
        info: what the state is for.

    Returns:
        The digest of the state (`state_digest`).

    Raises:
        StorageError: the disk is full or the place is not writable; nothing that was there is lost.
    """
    digest = state_digest(state)
    manifest = {
        "format": FORMAT,
        "info": asdict(info),
        "arrays": {name: [state[name].dtype.name, list(state[name].shape)] for name in sorted(state)},
        "digest": digest,
    }
    manifest["seal"] = _seal(manifest)
    # safetensors writes memory as it lies: a transposed view must be laid out first (0-d arrays stay 0-d).
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    _write_atomically(path, save(arrays, {_KEY: json.dumps(manifest, sort_keys=True)}))
    return digest


def load_checkpoint(path: Path) -> tuple[dict[str, NDArray[Any]], CheckpointInfo]:
    """Read a checkpoint and verify it.

    Args:
        path: a file written by `save_checkpoint`.

    Returns:
        Arrays by name, and what they are for.

    Raises:
        StorageError: there is no such file, it is no checkpoint of ours, or it is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            text = (stored.metadata() or {}).get(_KEY)
            names = stored.keys()
            state = {name: stored.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise StorageError(
            "there is no such checkpoint",
            where=str(path),
            remedy="check the path, or run the stage that writes it",
        ) from error
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    if text is None:
        raise _damaged(path, "it holds no manifest of this project")
    try:
        manifest = json.loads(text)
        if manifest.pop("seal") != _seal(manifest):
            raise _damaged(path, "its manifest has been changed")
        if manifest["format"] != FORMAT:
            raise _damaged(path, f"it has format {manifest['format']}, this package reads format {FORMAT}")
        info = CheckpointInfo(**manifest["info"])
        expected = manifest["digest"]
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise _damaged(path, "its manifest cannot be read") from error
    if state_digest(state) != expected:
        raise _damaged(path, "its arrays do not match their digest")
    return state, info


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest, so that a changed round or stage is found as surely as a changed weight."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"this checkpoint cannot be used: {why}",
        where=str(path),
        remedy="take the checkpoint of an earlier round, or run the stage again",
    )


def _write_atomically(path: Path, content: bytes) -> None:
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise StorageError(
            f"no space left to write {len(content)} bytes"
            if full
            else f"cannot be written ({error.strerror})",
            where=str(path),
            remedy="make room and resume: the last complete checkpoint is untouched"
            if full
            else "check that the folder exists and belongs to you",
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
