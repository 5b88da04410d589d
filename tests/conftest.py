"""One thread for every test: small arrays gain nothing from more, and results are compared bit by bit."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from phcc_client.session import Session


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    """Three hospitals that a module's tests share; what they were asked before they know by heart."""
    from builders import RememberingSession, open_sessions, tiny_study

    return open_sessions(tmp_path_factory.mktemp("hospitals"), tiny_study(), kind=RememberingSession)


@pytest.fixture(scope="session")
def nginx() -> None:
    """For tests that need nginx: without it they are skipped, but never where PHCC_REQUIRE_NGINX is set."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None and not os.environ.get("PHCC_REQUIRE_NGINX"):
        pytest.skip("nginx is not installed")
