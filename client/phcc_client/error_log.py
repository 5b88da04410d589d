"""What went wrong at a site, in full, in its own folder: it never leaves."""

from __future__ import annotations

import contextlib
import traceback
from datetime import UTC, datetime
from pathlib import Path

ERROR_LOG = "errors.log"
"""In the site's folder."""


def write_down(folder: Path, error: Exception) -> None:
    """Append an error, whole; where even that fails, nothing more can be done."""
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError), (folder / ERROR_LOG).open("a", encoding="utf-8") as stream:
        stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
