"""Prepared crops on disk, content-addressed: what is in a file decides its name, nothing grows stale.

One safetensors file per case. Several sites and processes may share one folder: a file is written aside and
then renamed, and two that write the same name write the same content. An entry carries a checksum of its
tensors, which is compared whenever it is read; one that is damaged counts as none. It is a CRC-32, which finds
damage in a fraction of the time of a SHA-256; a forger would write either anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from phcc_client.imaging.aside import remove_leftovers, write_atomically
from phcc_client.imaging.case import PREPROCESS_VERSION, PhaseImage, PreparedCase, RawCase, anchor_phase
from phcc_client.imaging.digest_book import DigestBook
from phcc_model.config import PHASES, DataSettings

__all__ = [
    "case_key",
    "clear_up",
    "entry_path",
    "load",
    "preparation_digest",
    "store",
    "write_atomically",
]

VOXEL_SETTINGS = {"phases", "crop", "normalisation", "smoothing_voxels", "clip"}
"""The settings that alter a prepared voxel."""

_TENSORS = ("volumes_pdhw", "present_p", "lesion_dhw")
_ADDED = "enhancement_p"  # not in the crops of earlier versions


def preparation_digest(settings: DataSettings) -> str:
    """SHA-256 of everything in the settings that alters a prepared voxel, and of the version of the code."""
    return _digest_of(
        {"version": PREPROCESS_VERSION, "settings": settings.model_dump(mode="json", include=VOXEL_SETTINGS)}
    )


def _digest_of(plain: object) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def case_key(raw: RawCase, settings: DataSettings, book: DigestBook) -> str:
    """The name of a case's prepared crop: SHA-256 over all that it is made from.

    Raises:
        CaseError: one of its files cannot be read.
    """
    # A phase outside the study can matter too: the lesion's place may be known from it.
    anchor = anchor_phase(raw)
    relevant = {anchor, *settings.phases} & set(raw.images)
    images = {p: _image_content(raw.images[p], book) for p in sorted(relevant, key=PHASES.index)}
    mask = None if raw.mask is None else book.digest(raw.mask)
    made_from = {"images": images, "anchor": anchor, "mask": mask}
    return _digest_of({"preparation": preparation_digest(settings), **made_from})


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
    if prepared.enhancement_p is not None:
        tensors[_ADDED] = np.ascontiguousarray(prepared.enhancement_p)
    write_atomically(entry_path(cache, key), save(tensors, metadata={"crc32": _checksum(tensors)}))


def load(cache: Path, key: str) -> PreparedCase | None:
    """One prepared case, its checksum compared, or None where there is no sound entry.

    Args:
        cache: the folder.
        key: from `case_key`.
    """
    try:
        with safe_open(entry_path(cache, key), framework="numpy") as file:
            there = [name for name in (*_TENSORS, _ADDED) if name in _TENSORS or name in file.keys()]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in there}
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return PreparedCase(**tensors) if metadata.get("crc32") == _checksum(tensors) else None


def clear_up(cache: Path) -> int:
    """Remove what killed processes left half written in a cache; those that live keep theirs.

    Returns:
        How many files there were.
    """
    return remove_leftovers([cache, *sorted(cache.glob("[0-9a-f][0-9a-f]"))])


def _checksum(tensors: dict[str, NDArray[np.generic]]) -> str:
    crc = 0
    for name in (name for name in (*_TENSORS, _ADDED) if name in tensors):
        tensor = np.ascontiguousarray(tensors[name])
        crc = isal_zlib.crc32(f"{name}{tensor.dtype.str}{tensor.shape}".encode(), crc)
        crc = isal_zlib.crc32(tensor.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"
