"""Where things lie on this machine: the folder of a run that names none."""

from __future__ import annotations

import os
from pathlib import Path

from phcc_model.config import StudyConfig


def default_out(study: StudyConfig) -> Path:
    """The folder of a run that names none: under the user's cache, one for each study as configured."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "phcc-ssl-federated" / f"{study.name}-{study.digest[:12]}"
