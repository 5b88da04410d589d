"""The apps of `bench_scale`: the coordinator's own loop over so many virtual centres.

The way is a simulation's: orders through Flower's grid and records, read and answered by the site's shell around
Flower. Where the run's folder is prepared, as a simulation prepares it, centres train on their patients; else the
session is another, which replies at once with a change of the right shape. The coordinator's process notes by how
much its memory grew at its highest; in a simulation Flower keeps its messages there too.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench import peak_mib
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from null_site import NullDesk

from phcc_client.app import serve
from phcc_client.session import Session
from phcc_client.splits import read_splits
from phcc_model.config import StudyConfig
from phcc_server.coordinator import Coordinator
from phcc_server.journal import Journal
from phcc_server.ledger import Ledger
from phcc_server.sites import Sites
from phcc_server.store import RunStore
from phcc_server.strategy import FlowerSites
from phcc_simulation.app import JOURNAL, SPLITS, request_of
from phcc_simulation.app import centre_of as prepared_centre

LEDGER, MEMORY, CHECKPOINTS, SITES = "ledger.jsonl", "memory.json", "checkpoints", "sites"
PATIENCE_S = 1800.0


class NullCentre(NullDesk):
    """A virtual centre that trains nothing; `NullDesk` without a hospital's home."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder


def names_of(study: StudyConfig, out: Path) -> tuple[str, ...]:
    """The centres: those that are prepared, or as many as ``data.centres.count`` says."""
    if (out / SPLITS).is_file():
        return read_splits(out / SPLITS).centres
    return tuple(f"S{number:03d}" for number in range(study.data.centres.count))


def coordinate(study: StudyConfig, out: Path, sites: Sites) -> float:
    """Run the study's arm to its end; by how many MiB this process grew at its highest."""
    coordinator = Coordinator(
        "full",
        study,
        sites,
        RunStore(out / CHECKPOINTS, study.digest),
        Ledger(out / LEDGER),
        out / "pretrained.safetensors",
        lambda _record: None,
    )
    return peak_mib(lambda: coordinator.run(names_of(study, out)))


def centre_of(context: Context) -> NullCentre | Session:
    """The virtual centre that this node is."""
    request = request_of(context.run_config)
    if (request.out / SPLITS).is_file():
        return prepared_centre(context)
    name = names_of(request.study, request.out)[int(context.node_config["partition-id"])]
    return NullCentre(name, request.out / SITES / name)


server_app = ServerApp()
client_app = ClientApp()
serve(client_app, centre_of)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, and note the memory."""
    request = request_of(context.run_config)
    journal = Journal(request.out / JOURNAL)
    try:
        peak = coordinate(request.study, request.out, FlowerSites(grid, PATIENCE_S))
        (request.out / MEMORY).write_text(json.dumps({"peak_mib": peak}), encoding="utf-8")
    except Exception as error:
        journal.write("failed", text=f"{type(error).__name__}: {error}")
        raise
    journal.write("done")
