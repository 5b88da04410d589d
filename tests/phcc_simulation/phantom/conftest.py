"""Where real reference data lie, if they do; and one small phantom on disk, written once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phcc_model.config import PhantomSettings
from phcc_simulation.phantom.write import PhantomSummary, write_phantom


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """A file of the shared reference data, by its path there; the test is skipped where it does not exist."""
    root = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"reference data {name} are not on this machine")
        return path

    return find


@pytest.fixture(scope="session")
def small_settings() -> PhantomSettings:
    return PhantomSettings(patients=7, external_patients=2, training_centres=3, seed=5)


@pytest.fixture(scope="session")
def small_phantom(
    tmp_path_factory: pytest.TempPathFactory, small_settings: PhantomSettings
) -> PhantomSummary:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "data", small_settings)
