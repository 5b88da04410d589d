"""One thread for every test: small arrays gain nothing from more, and results are compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from builders import CENTRES, Centre, open_sessions

from phcc_client.session import Session
from phcc_model.config import StudyConfig

Sessions = Callable[..., dict[str, Session]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
