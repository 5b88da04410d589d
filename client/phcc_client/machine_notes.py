"""What the people at this hospital should know of their machine: ``HOME/machine_notes.jsonl``.

A card that cannot do what a study asks for, a batch that does not fit: training goes on, and says so here, in
the worker's log and in `phcc-client status`. Nothing of it leaves the hospital.
"""

from __future__ import annotations

import contextlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from phcc_model.errors import StorageError
from phcc_model.storage import write_atomically

NOTES = "machine_notes.jsonl"
KEPT = 20

log = logging.getLogger("phcc_client")


def note(folder: Path, text: str) -> None:
    """Write a note down; what was noted before is noted again with its new time, not twice.

    A full disk is no reason to stop training: the log says it then.

    Args:
        folder: the hospital's.
        text: one line, about this machine and no patient.
    """
    log.warning("%s", text)
    kept = [line for line in _lines(folder) if line["note"] != text][-KEPT + 1 :]
    kept.append({"at": datetime.now(UTC).isoformat(timespec="seconds"), "note": text})
    with contextlib.suppress(StorageError):
        write_atomically(folder / NOTES, "".join(json.dumps(line) + "\n" for line in kept))


def latest(folder: Path, count: int = 3) -> list[str]:
    """The last notes, the newest at the end, each with its time."""
    return [f"This machine ({line['at']}): {line['note']}" for line in _lines(folder)[-count:]]


def _lines(folder: Path) -> list[dict[str, str]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        plain = [json.loads(line) for line in (folder / NOTES).read_text(encoding="utf-8").splitlines()]
        return [{"at": str(line["at"]), "note": str(line["note"])} for line in plain]
    return []
