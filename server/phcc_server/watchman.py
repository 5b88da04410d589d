"""What the front door refused, as a hash-chained record: who knocked, at what, and how often.

nginx writes a line for every request; the watchman reads those that were refused (a key that is not admitted, a
path that is not for hospitals, a body that is too large, a request that never ended) and adds them up, so that an
intruder who knocks a thousand times leaves two lines a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Any, NamedTuple

from phcc_model.chain import Chain, read_held_records
from phcc_model.errors import PhccError
from phcc_server.front_door import ACCESS_LOG
from phcc_server.instance import Instance

REFUSALS = "refusals.jsonl"
EVERY_S = 30.0
REFUSED = range(400, 500)
LONGEST_PATH = 120
MOST_KINDS = 50
"""Kinds of refusals told apart at a time; the others are counted together."""
_WHAT = "the record of refusals"
_REMEDY = "Keep the file for whoever looks into it, and move it and its .head aside to begin a new one"


class Knock(NamedTuple):
    """One kind of refused request."""

    address: str
    path: str
    status: int


class Watchman:
    """Reads the front door's log as it grows.

    Args:
        instance: whose front door it is.
    """

    def __init__(self, instance: Instance) -> None:
        self._log = instance.folder / ACCESS_LOG
        self._record = instance.folder / REFUSALS
        self._read = self._log.stat().st_size if self._log.exists() else 0
        self._counted: Counter[Knock] = Counter()
        self._since: float | None = None

    def look(self, now: float) -> int:
        """Read what is new, and write down what was refused when half a minute is over; lines written.

        Args:
            now: seconds, of any clock that runs evenly.

        Raises:
            PhccError: the record cannot be written, or was altered.
        """
        for knock in self._new():
            known = knock in self._counted or len(self._counted) < MOST_KINDS
            self._counted[knock if known else Knock("others", "", knock.status)] += 1
            self._since = now if self._since is None else self._since
        if self._since is None or now - self._since < EVERY_S:
            return 0
        return self.write_down()

    def write_down(self) -> int:
        """Write down what was counted; lines written.

        Raises:
            PhccError: as `look`.
        """
        counted, self._counted, self._since = self._counted, Counter(), None
        if not counted:
            return 0
        chain = Chain(self._record, _WHAT, _REMEDY, end_only=True)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        for knock, times in sorted(counted.items()):
            chain.append({"at": at, **knock._asdict(), "times": times})
        return len(counted)

    def _new(self) -> list[Knock]:
        """The refused requests since the last look; a line that is still being written is left for the next."""
        knocks: list[Knock] = []
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size < self._read:  # it was begun anew
                self._read = 0
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    knocks += _knock(json.loads(line))
        return knocks


def refusals(instance: Instance) -> list[dict[str, Any]]:
    """What was refused, the oldest first.

    Raises:
        PhccError: the record was altered.
    """
    path = instance.folder / REFUSALS
    return list(read_held_records(path, _WHAT, _REMEDY)) if path.exists() else []


def last_refusals(instance: Instance, most: int) -> list[str]:
    """The last refusals in words, for `phcc-server status`."""
    try:
        found = refusals(instance)[-most:]
    except PhccError as error:
        return [str(error)]
    return [
        f"refused {r['times']} x {r['status']} {r['path']} from {r['address']} ({r['at']})" for r in found
    ]


def _knock(line: dict[str, Any]) -> list[Knock]:
    status = int(line["status"])
    if status not in REFUSED:  # 5xx is this server's own trouble, and nobody knocked in vain
        return []
    path = "".join(c if c.isprintable() else "?" for c in str(line["path"]))[:LONGEST_PATH]
    return [Knock(str(line["address"])[:64], path, status)]
