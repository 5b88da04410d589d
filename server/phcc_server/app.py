"""The coordinator's Flower app: a thin shell around `phcc_server.study_runner.StudyRunner`.

One start of this app is one attempt at a run. Whatever ends it early, the keeper asks Flower for another, which
goes on from the last checkpoint; a verdict ends the run for good.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from phcc_model.errors import ConfigError, PhccError, StorageError
from phcc_server.instance import Instance
from phcc_server.run_folder import RunFolder
from phcc_server.strategy import FlowerSites, Patience
from phcc_server.study_runner import StudyRunner, tell_heard
from phcc_server.superlink import INSTANCE_VARIABLE

log = logging.getLogger("phcc_server")

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """One attempt at the run that the run's configuration names."""
    folder = os.environ.get(INSTANCE_VARIABLE)
    if not folder:
        raise ConfigError(
            "the environment does not name the server's folder",
            where=INSTANCE_VARIABLE,
            remedy="Start the SuperExec with phcc-server start",
        )
    instance = Instance.open(Path(folder))
    run = RunFolder.open(instance.runs, str(context.run_config.get("run", "")))
    with run.held():
        if run.verdict is None:
            _attempt(run, grid)


def _attempt(run: RunFolder, grid: Grid) -> None:
    study = run.study
    patience = Patience(study.federation.lost_after_s)
    sites = FlowerSites(
        grid, study.federation.start_patience_s, patience, lambda heard: tell_heard(run, heard)
    )
    try:
        StudyRunner(run, sites).run()
    except StorageError:
        raise  # there may be room again: the keeper tries once more
    except PhccError as error:
        run.journal.write("failed", text=str(error))
        run.conclude("failed", str(error))
        raise
    run.conclude("finished", "every arm is trained and tested")
