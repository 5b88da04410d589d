"""Where the files are, and tools that a machine may lack: a test that needs one is skipped and says so."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture
def tool() -> Callable[[str, str], str]:
    """A program beside this Python or on the path; skips, with the way to get it, where there is none."""

    def find(name: str, package: str) -> str:
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.is_file() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed ({package})")
        return found

    return find
