"""One of the processes that train together on several devices: ``python -m phcc_client.rank``.

`ranks.Ranks` starts one for each device and order. It reads its task from its standard input, one line of JSON,
and then holds on to that end of the pipe as to a leash: when the other end is gone, so is the worker, and this
process ends at once and sets the device free. The ranks talk to each other over the loopback interface only.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from phcc_client.devices import is_out_of_memory
from phcc_client.error_log import write_down
from phcc_client.guard import failure_of
from phcc_client.home import Home
from phcc_client.machine_notes import note
from phcc_client.session import Runtime, Session
from phcc_client.spool import REPORT_S, Spool
from phcc_model.contract.messages import TrainOrder, TrainReply
from phcc_model.errors import ContractError
from phcc_model.training.progress import Progress

EXIT_FAILED, EXIT_OUT_OF_MEMORY, EXIT_LEFT_ALONE = 1, 75, 76
PATIENCE = datetime.timedelta(minutes=30)
"""How long one rank waits for the others to come to the same place."""

log = logging.getLogger("phcc_client")


@dataclass(frozen=True)
class Task:
    """What one rank is to do.

    Attributes:
        home: the hospital's folder.
        digest: of the order in its spool.
        devices: of all ranks, in their order.
        rank: this one, from 0.
        threads: of torch.
        at_once: cases that it takes at once, at most; None: all of its own.
        folder: where the ranks of this order meet, and where each leaves what it has to say.
    """

    home: str
    digest: str
    devices: tuple[str, ...]
    rank: int
    threads: int
    at_once: int | None
    folder: str

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: bytes) -> Task:
        """The task of `to_json`."""
        plain = json.loads(line)
        return cls(**{**plain, "devices": tuple(plain["devices"])})

    @property
    def desk(self) -> Spool:
        """Where this rank's answer is put: the first one's reply, or whatever went wrong here."""
        return Spool(Path(self.folder) / f"rank-{self.rank}")


def carry_out(task: Task) -> int:
    """Train as one rank; the exit code."""
    home = Home.open(Path(task.home))
    try:
        reply = _trained(task, home)
        if task.rank == 0:
            task.desk.answer(task.digest, reply)
    except Exception as error:
        log.exception("rank %d on %s", task.rank, task.devices[task.rank])
        if is_out_of_memory(error):
            return EXIT_OUT_OF_MEMORY
        write_down(home.folder, error)
        task.desk.answer(task.digest, failure_of(error, home.settings.hospital))
        return EXIT_FAILED
    return 0


def _trained(task: Task, home: Home) -> TrainReply:
    spool = Spool(home.spool)
    order = spool.order(task.digest)
    if not isinstance(order, TrainOrder):
        raise ContractError("the order is not in the spool any more", where=f"rank {task.rank}")
    reported = 0.0

    def report(progress: Progress) -> None:
        nonlocal reported
        if task.rank == 0 and time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            spool.report(task.digest, progress.step, progress.steps)

    runtime = Runtime(task.devices[task.rank], task.threads, task.rank, len(task.devices))
    session = Session(
        home.site, home.settings.hospital, runtime, report, lambda text: note(home.folder, text)
    )
    with _group(task):
        return session.train_at_once(order, task.at_once)


@contextmanager
def _group(task: Task) -> Iterator[None]:
    """Torch's process group of all ranks; left in peace only, for taking leave means waiting for the others."""
    device = torch.device(task.devices[task.rank])
    on_gpu, meeting = device.type == "cuda", str(Path(task.folder) / "meeting")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.FileStore(meeting, len(task.devices)),  # type: ignore[attr-defined]
        rank=task.rank,
        world_size=len(task.devices),
        timeout=PATIENCE,
        device_id=device if on_gpu else None,
    )
    yield
    dist.destroy_process_group()


def _leash() -> None:
    """Wait for the end of the standard input."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(EXIT_LEFT_ALONE)


def main() -> None:
    """``python -m phcc_client.rank``, its task on the standard input."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
        task = Task.from_json(stream.readline())
    threading.Thread(target=_leash, daemon=True).start()
    code = carry_out(task)
    logging.shutdown()
    # Not by way of the interpreter's end, where a communicator whose peers are gone may wait for ever.
    os._exit(code)


if __name__ == "__main__":
    main()
