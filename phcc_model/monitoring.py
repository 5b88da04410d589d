"""Metrics for Prometheus: what stands in a program's files, read at every scrape and told on loopback.

What is told is worked out from the files, so nothing has to be kept in step: a restarted supervisor tells the
same. A scrape never fails either: a part that cannot be read is left out, and ``readable`` says so.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from phcc_model.errors import StorageError
from phcc_model.supervised import STATUS, is_locked, read_status

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
AGAIN_S = 60.0
"""Between two attempts at a port that is taken."""

MACHINE = {
    "readable": "Whether this part could be read at this scrape; where not, its metrics are missing",
    "supervisor_up": "Whether a supervisor serves the folder",
    "program_up": "Whether the program runs",
    "program_restarts_total": "Starts of the program after the first one, since the supervisor started",
    "program_changed_timestamp_seconds": "When the program last started, or ended while it is down",
    "disk_free_bytes": "Room on the disk of the folder",
}
"""Metrics of every folder that a supervisor serves: name and meaning."""


@dataclass(frozen=True)
class _Sample:
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Measures:
    """What one scrape found.

    Args:
        prefix: of every name.
        told: every metric that there may be, with its meaning; a name that ends in ``_total`` is a counter.
    """

    def __init__(self, prefix: str, told: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._told = told
        self._samples: list[_Sample] = []

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add one value.

        Raises:
            KeyError: there is no such metric.
        """
        if name not in self._told:
            raise KeyError(name)
        self._samples.append(_Sample(name, tuple(labels.items()), float(value)))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that is whole or left out: whatever goes wrong inside ends here."""
        before, readable = len(self._samples), True
        try:
            yield
        except Exception:
            log.debug("%s cannot be read", name, exc_info=True)
            del self._samples[before:]
            readable = False
        self.add("readable", readable, part=name)

    def families(self) -> Iterator[Metric]:
        """The values, those of one metric together, as Prometheus wants them."""
        for name, meaning in self._told.items():
            samples = [sample for sample in self._samples if sample.name == name]
            if not samples:
                continue
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"{self._prefix}_{name}", meaning, labels=[key for key, _ in samples[0].labels])
            for sample in samples:
                family.add_metric([value for _, value in sample.labels], sample.value)
            yield family


def add_machine(measures: Measures, folder: Path) -> None:
    """Programs and disk of a folder that a supervisor serves."""
    with measures.part("programs"):
        status = read_status(folder)
        if status is None and is_locked(folder):
            raise StorageError("is damaged", where=str(folder / STATUS))
        measures.add("supervisor_up", status is not None)
        for program in status.programs if status else ():
            measures.add("program_up", program.pid is not None, program=program.name)
            measures.add("program_restarts_total", program.restarts, program=program.name)
            measures.add("program_changed_timestamp_seconds", program.since, program=program.name)
    with measures.part("disk"):
        measures.add("disk_free_bytes", shutil.disk_usage(folder).free)


class _Looks(Collector):
    """Looks anew at every scrape."""

    def __init__(self, look: Callable[[], Measures]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        return self._look().families()

    def describe(self) -> Iterable[Metric]:
        return ()


def registry_of(look: Callable[[], Measures]) -> CollectorRegistry:
    """What Prometheus's library serves: what `look` finds, and nothing of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Looks(look))
    return registry


@contextlib.contextmanager
def serving(port: int, look: Callable[[], Measures]) -> Iterator[Callable[[], None]]:
    """Tell what `look` finds at ``http://127.0.0.1:<port>/metrics`` until the block ends.

    Yields:
        For the supervisor's tick: opens the port, once the supervisor has its folder. A port that is taken is
        no reason to end the service: that is said once, and it is tried again every minute.
    """
    registry = registry_of(look)
    with contextlib.ExitStack() as stack:
        due, said = 0.0, False

        def tick() -> None:
            nonlocal due, said
            if time.monotonic() < due:
                return
            try:
                server, thread = start_http_server(port, LOOPBACK, registry)
            except OSError as error:
                due = time.monotonic() + AGAIN_S
                if not said:
                    print(f"no metrics on port {port} yet: {error.strerror}", file=sys.stderr, flush=True)
                said = True
                return
            due = float("inf")
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)

        yield tick
