"""The DICOM maker of the ingest's tests, and predictions to write pages of."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "ingest"))
