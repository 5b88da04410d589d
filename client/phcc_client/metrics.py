"""A hospital's metrics for Prometheus: programs, connection, order at work, what left; nothing of patients."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import get_args

from phcc_client.connection import CONNECTED, connection_of
from phcc_client.home import Home
from phcc_client.policy import Policy, Standing
from phcc_client.spool import Spool
from phcc_model.contract import keys
from phcc_model.monitoring import MACHINE, Measures, add_machine, serving
from phcc_model.supervised import read_status

PREFIX = "phcc_client"
STANDINGS: tuple[str, ...] = get_args(Standing)
GPU_QUERY = ("--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
GPU_PATIENCE_S = 3.0

METRICS = MACHINE | {
    "info": "The version that is installed; always 1",
    "connected": "Whether the node's log says that it is connected to the coordinator",
    "order_at_work": "Whether an order is waiting or being carried out",
    "order_state": "1 for the state of the order at work, 0 for the others",
    "order_round": "Round of the order at work, from 1, by arm and stage",
    "order_step": "Steps of training done for the order at work",
    "order_steps": "Steps of training that the order at work takes",
    "order_age_seconds": "How long ago the order at work came",
    "outbox_messages_total": "Messages that left, by kind",
    "outbox_bytes_total": "Bytes of arrays (changes of weights) that left, by kind of message",
    "outbox_last_timestamp_seconds": "When the last message left",
    "studies": "Studies by what was decided about them here",
    "gpu_memory_used_bytes": "Memory of a GPU that is in use, by whomever",
    "gpu_memory_total_bytes": "Memory of a GPU",
}
"""Every metric, without its prefix, and what it means."""


def serve_metrics(home: Home) -> AbstractContextManager[Callable[[], None]]:
    """Tell a hospital's metrics on its loopback port; gives the supervisor's tick, see `serving`."""
    left = WhatLeft(home.outbox)
    return serving(home.settings.metrics_port, lambda: look(home, left))


class WhatLeft:
    """Sums over the outbox, a record that only grows, for months: a line is read once, and its sum kept.

    That is the one thing that outlives a scrape, and it is worked out anew after a restart. Whether the record
    holds is for `phcc-client outbox` to say.

    Args:
        record: the outbox's file.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lock = threading.Lock()  # two scrapes at a time
        self._forget()

    def _forget(self) -> None:
        self._inode, self._read, self._last = 0, 0, ""
        self._messages: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add_to(self, measures: Measures) -> None:
        """Read what is new, and add the sums.

        Raises:
            OSError, ValueError, KeyError, TypeError: the file cannot be read, or a line is none of the record.
        """
        with self._lock:
            if self._record.exists():
                self._catch_up()
            for kind, count in self._messages.items():
                measures.add("outbox_messages_total", count, kind=kind)
                measures.add("outbox_bytes_total", self._bytes[kind], kind=kind)
            if self._last:
                measures.add("outbox_last_timestamp_seconds", datetime.fromisoformat(self._last).timestamp())

    def _catch_up(self) -> None:
        with self._record.open("rb") as stream:
            now = self._record.stat()
            if now.st_ino != self._inode or now.st_size < self._read:
                self._forget()
                self._inode = now.st_ino
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    break  # it is being written
                record = json.loads(line)["record"]
                kind, size = str(record["kind"]), int(record["bytes"])
                self._messages[kind] += 1
                self._bytes[kind] += size
                self._last = str(record["when"])
                self._read += len(line)


def look(home: Home, left: WhatLeft | None = None) -> Measures:
    """Everything, as it stands now.

    Args:
        home: the hospital's folder.
        left: the sums over its outbox so far; worked out from the beginning where not given.
    """
    measures = Measures(PREFIX, METRICS)
    measures.add("info", 1, version=keys.package_version(), site=home.settings.hospital)
    add_machine(measures, home.folder)
    with measures.part("connection"):
        running = read_status(home.folder)
        up = running is not None and any(p.name == "supernode" and p.pid for p in running.programs)
        measures.add("connected", up and connection_of(home) == CONNECTED)
    with measures.part("order"):
        _add_order(measures, home)
    with measures.part("outbox"):
        (left or WhatLeft(home.outbox)).add_to(measures)
    with measures.part("studies"):
        found: Counter[str] = Counter(study.standing for study in Policy(home.folder).studies())
        for standing in STANDINGS:
            measures.add("studies", found[standing], standing=standing)
    with measures.part("gpus"):
        _add_gpus(measures)
    return measures


def _add_order(measures: Measures, home: Home) -> None:
    spool = Spool(home.spool)
    found = spool.next()
    measures.add("order_at_work", found is not None)
    if found is None:
        return
    digest, order = found
    working = spool.working(digest, home.settings.hospital)
    for state in keys.WORK_STATES:
        measures.add("order_state", working.state == state, state=state)
    measures.add("order_round", order.round + 1, arm=order.arm, stage=order.stage)
    measures.add("order_step", working.step)
    measures.add("order_steps", working.steps)
    measures.add("order_age_seconds", working.seconds)


def _add_gpus(measures: Measures) -> None:
    """What the driver's own program says, where there is one: this process neither trains nor loads torch."""
    if (program := shutil.which("nvidia-smi")) is None:
        return
    said = subprocess.run(  # noqa: S603 - a command of our own
        [program, *GPU_QUERY], capture_output=True, check=True, text=True, timeout=GPU_PATIENCE_S
    )
    for line in said.stdout.splitlines():
        number, used, total = (word.strip() for word in line.split(","))
        measures.add("gpu_memory_used_bytes", int(used) * 2**20, gpu=number)
        measures.add("gpu_memory_total_bytes", int(total) * 2**20, gpu=number)
