"""The simulation's Flower apps: `flwr run .` in the repository, and what `phcc-simulate` launches.

The coordinator's app makes the run's folder ready and runs every arm; a client's app is one virtual centre,
chosen by its partition, and serves from its site folder as a hospital would.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from flwr.app import Context
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from phcc_client.app import serve
from phcc_client.session import Runtime, Session
from phcc_client.splits import read_splits
from phcc_model.config import StudyConfig
from phcc_model.errors import DataError, PhccError
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study
from phcc_server.journal import Journal, in_one_line
from phcc_server.strategy import FlowerSites
from phcc_simulation.places import default_out
from phcc_simulation.study_run import StudyRun
from phcc_simulation.workspace import Workspace

log = logging.getLogger("flwr")  # what `flwr run --stream` shows

SITES_PATIENCE_S = 300.0
JOURNAL = "progress.jsonl"
SPLITS = "splits.json"


@dataclass(frozen=True)
class Request:
    """What the run's configuration asks for."""

    study: StudyConfig
    out: Path
    runtime: Runtime


def request_of(config: UserConfig) -> Request:
    """Read the run's configuration (``study``, ``set``, ``out``, ``threads``, ``device``).

    Raises:
        ConfigError: the study does not exist or is not valid.
    """
    overrides = [part.strip() for part in str(config["set"]).split(";") if part.strip()]
    study = load_study(find_study(str(config["study"])), overrides)
    out = Path(str(config["out"])) if config["out"] else default_out(study)
    return Request(study, out, Runtime(str(config["device"]), int(config["threads"])))


def centre_of(context: Context) -> Session:
    """The virtual centre that this node is.

    Raises:
        DataError: there are more nodes than centres; the node has nothing to do.
    """
    request = request_of(context.run_config)
    centres = read_splits(request.out / SPLITS).centres
    partition = int(context.node_config["partition-id"])
    if partition >= len(centres):
        raise DataError(f"this node is number {partition + 1}, the study has {len(centres)} centres")
    centre = centres[partition]
    return Session(request.out / "sites" / centre, centre, request.runtime)


server_app = ServerApp()
client_app = ClientApp()
serve(client_app, centre_of)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study; the journal's last line says how it ended."""
    request = request_of(context.run_config)
    request.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(request.out / JOURNAL, lambda event: log.info(in_one_line(event)))
    log.info("the run's folder is %s", request.out)

    def federated(_: Workspace) -> FlowerSites:
        return FlowerSites(grid, SITES_PATIENCE_S)

    try:
        run = StudyRun(request.study, request.out, request.runtime, os.cpu_count() or 1, journal)
        run.run(federated)
    except PhccError as error:
        journal.write("failed", text=str(error))
        raise
    except Exception as error:
        journal.write("failed", text=f"{type(error).__name__}: {error}")
        raise
