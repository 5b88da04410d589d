"""Prepared crops on disk, content-addressed: what is in a file decides its name, nothing grows stale.

One safetensors file per case. Several sites and processes may share one folder: a file is written aside and
then renamed, and two that write the same name write the same content. An entry carries the digest of its
tensors; one that is damaged is made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from phcc_client.imaging.case import PREPROCESS_VERSION, PhaseImage, PreparedCase, RawCase, anchor_phase
from phcc_model.config import PHASES, DataSettings
from phcc_model.errors import CaseError, StorageError

VOXEL_SETTINGS = {"phases", "crop", "normalisation", "smoothing_voxels", "clip"}
"""The settings that alter a prepared voxel."""

_TENSORS = ("volumes_pdhw", "present_p", "lesion_dhw")


def preparation_digest(settings: DataSettings) -> str:
    """SHA-256 of everything in the settings that alters a prepared voxel, and of the version of the code."""
    return _digest_of(
        {"version": PREPROCESS_VERSION, "settings": settings.model_dump(mode="json", include=VOXEL_SETTINGS)}
    )


def _digest_of(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class DigestBook:
    """SHA-256 of source files, remembered by path, size and time of change: not read again for a second run.

    Args:
        path: the book's own file; a missing or damaged one is an empty book.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known = self._load()
        self._added: dict[str, list[object]] = {}

    def _load(self) -> dict[str, list[object]]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def digest(self, source: Path) -> str:
        """SHA-256 of a file's bytes.

        Raises:
            CaseError: the file is not there or cannot be read.
        """
        try:
            state = source.stat()
            stamp = [state.st_size, state.st_mtime_ns]
            name = str(source.absolute())
            entry = self._added.get(name) or self._known.get(name)
            if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
                return str(entry[2])
            with source.open("rb") as file:
                value = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CaseError(
                f"cannot be read ({error.strerror})",
                where=str(source),
                remedy="Check the file and its permissions",
            ) from error
        with self._lock:
            self._added[name] = [*stamp, value]
        return value

    def save(self) -> None:
        """Write down what is new, beside what other processes wrote meanwhile.

        Raises:
            StorageError: the book cannot be written.
        """
        if self._added:
            merged = self._load() | self._added
            write_atomically(self._path, json.dumps(merged, separators=(",", ":")).encode())
            self._known, self._added = merged, {}


def case_key(raw: RawCase, settings: DataSettings, book: DigestBook) -> str:
    """The name of a case's prepared crop: SHA-256 over all that it is made from.

    Raises:
        CaseError: one of its files cannot be read.
    """
    # A phase outside the study can matter too: the lesion's place may be known from it.
    relevant = {anchor_phase(raw), *settings.phases} & set(raw.images)
    images = {p: _image_content(raw.images[p], book) for p in sorted(relevant, key=PHASES.index)}
    mask = None if raw.mask is None else book.digest(raw.mask)
    return _digest_of({"preparation": preparation_digest(settings), "images": images, "mask": mask})


def _image_content(image: PhaseImage, book: DigestBook) -> dict[str, object]:
    if image.path is not None:
        content = book.digest(image.path)
    else:
        array = np.ascontiguousarray(image.array_dhw)
        content = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()
    box = None if image.box is None else [image.box.low_dhw, image.box.high_dhw]
    return {"content": content, "spacing": image.spacing_mm_dhw, "box": box, "fitted": image.fitted}


def entry_path(cache: Path, key: str) -> Path:
    """Where the crop with this key lies."""
    return cache / key[:2] / f"{key}.safetensors"


def store(cache: Path, key: str, prepared: PreparedCase) -> None:
    """Keep one prepared case.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    tensors: dict[str, NDArray[np.generic]] = {
        "volumes_pdhw": np.ascontiguousarray(prepared.volumes_pdhw),
        "present_p": np.ascontiguousarray(prepared.present_p),
        "lesion_dhw": np.ascontiguousarray(prepared.lesion_dhw),
    }
    write_atomically(entry_path(cache, key), save(tensors, metadata={"sha256": _payload_digest(tensors)}))


def load(cache: Path, key: str, *, verify: bool = False) -> PreparedCase | None:
    """One prepared case, or None where there is no sound entry.

    Args:
        cache: the folder.
        key: from `case_key`.
        verify: compare the tensors with the digest they were stored with.
    """
    try:
        with safe_open(entry_path(cache, key), framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    if verify and metadata.get("sha256") != _payload_digest(tensors):
        return None
    return PreparedCase(**tensors)


def _payload_digest(tensors: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name in _TENSORS:
        digest.update(f"{name}{tensors[name].dtype.str}{tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    aside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(aside).replace(path)
    except OSError as error:
        if aside is not None:
            with contextlib.suppress(OSError):
                Path(aside).unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            "the disk is full" if full else f"cannot be written ({error.strerror})",
            where=str(path.parent),
            remedy="Make room or choose another folder" if full else "Check the folder and its permissions",
        ) from error
