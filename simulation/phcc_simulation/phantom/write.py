"""Write the phantom to disk as any public data set lies there; idempotent, and resumed where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from phcc_model.config import PhantomSettings
from phcc_model.errors import StorageError

from . import PHANTOM_VERSION, SECOND_VERSION
from .anatomy import LABELS
from .centres import centres_of
from .layout import (
    LLD_CATEGORIES,
    Record,
    Task,
    csv_bytes,
    json_bytes,
    record_path,
    storage_error,
    write_bytes,
    write_patient,
)
from .oracle import best_possible_auc, oracle_auc
from .pool import Progress, map_ordered

CLINICAL_COLUMNS = ("patient", "centre", "scanner", "afp_ng_ml", "proliferative")
SIGNS_COLUMNS = (
    "patient", "centre", "proliferative", "rim", "core", "washout", "rim_mimic", "core_mimic", "afp_score",
    "size_score", "kinetics_only", "radius_mm", "volume_ml", "log_likelihood_ratio", "missing_phases",
)  # fmt: skip
_COLLECTED = ("labels/Annotation.json", "clinical.csv", "truth/signs.csv")


@dataclass(frozen=True)
class PhantomSummary:
    """What lies on disk.

    Attributes:
        root: the folder.
        digest: of the phantom's version and settings.
        patients: all of them.
        written: how many of them this call wrote.
        by_centre: patients and proliferative ones of each centre.
        best_possible_auc: what any score can reach, by what it may see.
        oracle_auc: what the planted truth reaches on the patients drawn, all and by centre; None where a
            class is missing.
    """

    root: Path
    digest: str
    patients: int
    written: int
    by_centre: dict[str, dict[str, int]]
    best_possible_auc: dict[str, float]
    oracle_auc: dict[str, float | None] = field(default_factory=dict)


def phantom_version(settings: PhantomSettings) -> str:
    """The version of the phantom that these settings are of."""
    return SECOND_VERSION if settings.scanners == "second" else PHANTOM_VERSION


def phantom_digest(settings: PhantomSettings) -> str:
    """SHA-256 of the phantom's version and settings: equal digests, equal files."""
    content = {"version": phantom_version(settings), "settings": settings.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_phantom(
    root: Path, settings: PhantomSettings, *, jobs: int = 1, progress: Progress | None = None
) -> PhantomSummary:
    """Write every patient that is not there yet, then the lists of them all.

    What is on disk after an interruption is whole files, so that the next call goes on from there. The files
    do not depend on ``jobs``.

    Args:
        root: an empty or new folder, or one that holds this very phantom.
        settings: of the phantom.
        jobs: processes.
        progress: called with (patients done, patients).

    Raises:
        ConfigError: fewer patients than training centres.
        StorageError: the folder holds something else, or the disk is full or not writable.
        DataError: a worker process was killed.
    """
    digest = phantom_digest(settings)
    tasks = [(profile, number) for profile, count in centres_of(settings) for number in range(count)]
    complete = _open_folder(root, settings, digest)
    todo = [task for task in tasks if not _is_written(root, task)]
    counted = partial(_from, len(tasks) - len(todo), len(tasks), progress) if progress else None
    if progress is not None and len(todo) < len(tasks):
        progress(len(tasks) - len(todo), len(tasks))
    for _ in map_ordered(partial(write_patient, root, settings), todo, jobs, counted):
        pass
    records = [_read_record(root, task) for task in tasks]
    summary = _summarise(root, digest, settings, records, len(todo))
    if todo or not complete or not all((root / name).is_file() for name in _COLLECTED):
        _write_lists(root, settings, records, summary)
    return summary


def _from(start: int, total: int, progress: Progress, done: int, _: int) -> None:
    progress(start + done, total)


def _open_folder(root: Path, settings: PhantomSettings, digest: str) -> bool:
    """Claim the folder for this phantom; True if the phantom in it is complete."""
    manifest = root / "phantom.json"
    try:
        if manifest.is_file():
            found = json.loads(manifest.read_text())
            if found["digest"] == digest:
                return bool(found["complete"])
            raise StorageError(
                "holds a phantom with other settings or of another version",
                where=str(root),
                remedy="Choose another folder, or delete this one",
            )
        if root.exists() and any(root.iterdir()):
            raise StorageError(
                "is not empty and holds no phantom", where=str(root), remedy="Choose an empty or new folder"
            )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise StorageError("cannot be understood", where=str(manifest), remedy="Delete the folder") from error
    except OSError as error:
        raise storage_error(root, error) from error
    write_bytes(manifest, json_bytes(_manifest(settings, digest), indent=2))
    return False


def _manifest(
    settings: PhantomSettings, digest: str, summary: PhantomSummary | None = None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "synthetic": True,
        "note": "Computed, not acquired: no image and no number here comes from a patient.",
        "phantom_version": phantom_version(settings),
        "digest": digest,
        "complete": summary is not None,
        "settings": settings.model_dump(mode="json"),
        "layout": "lld-raw",
        "truth_labels": LABELS,
    }
    if summary is not None:
        content["patients"] = summary.patients
        content["centres"] = summary.by_centre
        content["best_possible_auc"] = summary.best_possible_auc
        content["oracle_auc"] = summary.oracle_auc
    return content


def _is_written(root: Path, task: Task) -> bool:
    """Whether the patient's record, which is written last, and all of its files are there."""
    try:
        record = json.loads(record_path(root, task).read_text())
        return all((root / name).is_file() for name in record["files"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return False


def _read_record(root: Path, task: Task) -> Record:
    path = record_path(root, task)
    try:
        record: Record = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise StorageError(
            "cannot be read back", where=str(path), remedy="Delete the file and run again"
        ) from error
    return record


def _summarise(
    root: Path, digest: str, settings: PhantomSettings, records: Sequence[Record], written: int
) -> PhantomSummary:
    by_centre: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_centre.setdefault(record["signs"]["centre"], []).append(record["signs"])
    return PhantomSummary(
        root=root,
        digest=digest,
        patients=len(records),
        written=written,
        by_centre={
            centre: {"patients": len(rows), "proliferative": sum(row["proliferative"] for row in rows)}
            for centre, rows in by_centre.items()
        },
        best_possible_auc=best_possible_auc(settings),
        oracle_auc={
            "all": oracle_auc(record["signs"] for record in records),
            **{centre: oracle_auc(rows) for centre, rows in by_centre.items()},
        },
    )


def _write_lists(
    root: Path, settings: PhantomSettings, records: Sequence[Record], summary: PhantomSummary
) -> None:
    """Annotations, clinical data, signs of all patients; the manifest last, as it says that all is there."""
    annotation = {
        "Annotation_info": {record["clinical"]["patient"]: record["annotation"] for record in records},
        "Category_info": LLD_CATEGORIES,
    }
    contents = (
        json_bytes(annotation),
        csv_bytes([record["clinical"] for record in records], CLINICAL_COLUMNS),
        csv_bytes([record["signs"] for record in records], SIGNS_COLUMNS),
    )
    for name, content in zip(_COLLECTED, contents, strict=True):
        write_bytes(root / name, content)
    write_bytes(root / "phantom.json", json_bytes(_manifest(settings, summary.digest, summary), indent=2))
