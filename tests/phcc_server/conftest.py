"""An instance of a server in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from phcc_server.instance import Instance


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """A server that hospitals would reach at phcc.example.org."""
    return Instance.create(tmp_path / "a server's folder", "coordinator", "phcc.example.org:9443")
