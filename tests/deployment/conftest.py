"""One data set and one simulated run for all deployment tests; one running deployment where it can be shared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Deployment, simulated, write_study


@dataclass(frozen=True)
class Simulated:
    """The study, its data, and what the simulation makes of it."""

    study: Path
    data: Path
    digest: str


@pytest.fixture(scope="session")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    folder = tmp_path_factory.mktemp("simulation")
    study = write_study(folder)
    digest = simulated(folder / "run", study)
    return Simulated(study, folder / "run" / "data", digest)


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, simulation: Simulated, nginx: str
) -> Iterator[Deployment]:
    """A coordinator and three hospitals, connected, with the study approved at each."""
    made = Deployment(tmp_path_factory.mktemp("deployment"), simulation.data)
    try:
        made.make_server()
        for name in ("C1", "C2", "C3"):
            made.add(name, simulation.study)
        made.approve()
        made.start()
        yield made
    finally:
        made.stop()
