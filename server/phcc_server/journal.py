"""The run's journal: one JSON line per event, written by the process that trains, read by the one that shows.

Flower runs the coordinator in a process of its own, so what a person sees on the terminal has to cross a
file. The journal is for people; the ledger is the record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phcc_model.errors import StorageError


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``plan`` | ``round`` | ``site`` | ``note`` | ``done`` | ``failed``.
        fields: what it is about (arm, stage, round, seconds, text...).
        at: seconds since the epoch.
    """

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    at: float = 0.0


def in_one_line(event: Event) -> str:
    """An event for a log: what happened, and the numbers that say how it went."""
    if event.kind == "round":
        shown = ("loss", "validation_loss", "auc", "seconds")
        numbers = "".join(
            f" {name} {value:.3f}" for name in shown if isinstance(value := event.fields.get(name), float)
        )
        where = f"{event.fields['arm']} {event.fields['stage']} round {event.fields['round'] + 1}"
        return f"{where}: {event.fields['status']}{numbers}"
    if event.kind == "plan":
        return "arms: " + ", ".join(arm["arm"] for arm in event.fields["arms"])
    return str(event.fields.get("text", event.kind))


class Journal:
    """Appends events to a file, and reads those that are new.

    Args:
        path: the file.
        echo: called with every event that is written here, for who watches in the same process.
    """

    def __init__(self, path: Path, echo: Callable[[Event], None] | None = None) -> None:
        self.path = path
        self._echo = echo
        self._read = 0

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event.

        Raises:
            StorageError: the line could not be written.
        """
        at = round(time.time(), 3)
        line = json.dumps({"kind": kind, "at": at, **fields}, ensure_ascii=False)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise StorageError(
                f"the journal cannot be written ({error.strerror})",
                where=str(self.path),
                remedy="Free some space or choose another --out",
            ) from error
        if self._echo is not None:
            self._echo(Event(kind, fields, at))

    def new_events(self) -> Iterator[Event]:
        """Events appended since the last call; a line still being written is left for the next."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                try:
                    fields = json.loads(line)
                except ValueError:
                    continue  # what a full disk left of a line, and the next one written behind it
                yield Event(kind=fields.pop("kind"), at=fields.pop("at"), fields=fields)
