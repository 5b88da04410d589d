"""Orders and replies between the process that Flower starts for a message and the one that trains.

::

    SPOOL/orders/<digest>/order.safetensors    what was asked, written by the desk
                          working.json         how far the worker is
                          reply.safetensors    its answer, kept: the order may come again
                          failure.safetensors  why there is none; taken away with the answer
    SPOOL/lanes/<study and arm>                the digest of the order that counts now

Every file is written aside and then renamed, so that either side may be killed at any moment: an order without
an answer is carried out again, with the same result, and an order that was answered is answered from the disk.
A new order of the same study and arm takes the place of the one before it; orders of other studies wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from phcc_model.contract import keys
from phcc_model.contract.messages import (
    EvaluateOrder,
    EvaluateReply,
    Failure,
    TrainOrder,
    TrainReply,
    Working,
)
from phcc_model.contract.wire import Message
from phcc_model.errors import PhccError
from phcc_model.storage import write_atomically

Order = TrainOrder | EvaluateOrder
Reply = TrainReply | EvaluateReply

KEPT = 12
"""Orders whose answers are kept: those of the last rounds, of whatever studies run here."""
REPORT_S = 1.0
"""Least time between two reports of how far a training is, and between two looks at whether it still counts."""
HEAD = "message"
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (TrainOrder, EvaluateOrder, TrainReply, EvaluateReply, Failure)
}


class Spool:
    """The spool of one site.

    Args:
        folder: made if need be.

    Raises:
        StorageError: by every method: the disk is full or not writable.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def offer(self, order: Order) -> str:
        """Put an order in, or find it there; it counts from now on for its study and arm. Its digest."""
        digest = order.digest
        place = self._place(digest)
        fresh = not (place / "order.safetensors").exists()
        if fresh:
            _write(place / "order.safetensors", order)
        write_atomically(self._lane(order), digest.encode())
        if fresh:
            self._forget_old(digest)
        return digest

    def order(self, digest: str) -> Order | None:
        """The order of this digest; None where it never came, or is damaged."""
        message = _read(self._place(digest) / "order.safetensors")
        return message if isinstance(message, TrainOrder | EvaluateOrder) else None

    def take_answer(self, digest: str) -> Reply | Failure | None:
        """The answer to an order; a failure is told once, then the order may be tried again."""
        place = self._place(digest)
        reply = _read(place / "reply.safetensors")
        if isinstance(reply, TrainReply | EvaluateReply):
            return reply
        failure = _read(place / "failure.safetensors")
        if isinstance(failure, Failure):
            (place / "failure.safetensors").unlink(missing_ok=True)
            return failure
        return None

    def working(self, digest: str, site: str) -> Working:
        """How far the worker is with an order."""
        place = self._place(digest)
        state, step, steps, seconds = keys.UNKNOWN, 0, 0, 0.0
        with contextlib.suppress(OSError):
            seconds = max(0.0, time.time() - (place / "order.safetensors").stat().st_mtime)
            state = keys.WAITING
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads((place / "working.json").read_text(encoding="utf-8"))
            state, step, steps = keys.TRAINING, int(told["step"]), int(told["steps"])
        return Working(
            package=keys.package_version(),
            site=site,
            order=digest,
            state=state,
            step=step,
            steps=steps,
            seconds=seconds,
        )

    def next(self) -> tuple[str, Order] | None:
        """The order that has waited the longest among those that count and have no answer."""
        waiting: list[tuple[float, str]] = []
        for lane in (self.folder / "lanes").glob("*"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                digest = lane.read_text(encoding="ascii")
                place = self._place(digest)
                answered = any((place / f"{kind}.safetensors").exists() for kind in ("reply", "failure"))
                if not answered:
                    waiting.append(((place / "order.safetensors").stat().st_mtime, digest))
        for _, digest in sorted(waiting):
            if (order := self.order(digest)) is not None:
                return digest, order
        return None

    def counts(self, digest: str, order: Order) -> bool:
        """Whether an order is still the one that counts for its study and arm."""
        try:
            return self._lane(order).read_bytes() == digest.encode()
        except OSError:
            return False

    def report(self, digest: str, step: int, steps: int) -> None:
        """Say how far the worker is; a full disk is no reason to stop training."""
        with contextlib.suppress(PhccError):
            write_atomically(
                self._place(digest) / "working.json", json.dumps({"step": step, "steps": steps}).encode()
            )

    def answer(self, digest: str, message: Reply | Failure) -> None:
        """Put an answer in; the order's arrays are not needed any more."""
        place = self._place(digest)
        kind = "failure" if isinstance(message, Failure) else "reply"
        _write(place / f"{kind}.safetensors", message)
        (place / "working.json").unlink(missing_ok=True)

    def _forget_old(self, newest: str) -> None:
        folders = [path for path in (self.folder / "orders").glob("*") if path.name != newest]
        counting = {_text(lane) for lane in (self.folder / "lanes").glob("*")}
        old = sorted((path for path in folders if path.name not in counting), key=_age, reverse=True)
        for path in old[KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    def _place(self, digest: str) -> Path:
        """Only digests become names here: what a message calls an order is checked by the contract."""
        return self.folder / "orders" / digest

    def _lane(self, order: Order) -> Path:
        name = hashlib.sha256(f"{order.study_digest}/{order.arm}".encode()).hexdigest()[:32]
        return self.folder / "lanes" / name


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="ascii")
    return ""


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _write(path: Path, message: Message) -> None:
    head = json.dumps([type(message).__name__, message.to_fields()])
    # safetensors writes memory as it lies: a view must be laid out first.
    arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
    write_atomically(path, save(arrays, {HEAD: head}))


def _read(path: Path) -> Message | None:
    """The message in a file; None where there is none, or none that can be read: it will be made again."""
    try:
        with safe_open(path, framework="numpy") as stored:
            kind, fields = json.loads((stored.metadata() or {})[HEAD])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        return _KINDS[kind].from_fields(fields, arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, PhccError):
        return None
