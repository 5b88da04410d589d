"""Signal-time curves as the TRISTAN project shares them: ``.dmr.zip``, three CSV tables in an archive.

``rois.csv`` holds one column per signal under three header lines (subject, study, name), ``time`` among them;
``pars.csv`` one row per subject, study, parameter and value; ``data.csv`` says what each name means and is not
needed here. A subject's "study" is a visit (``Day_1``). Columns are of different lengths, the rest is empty.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phcc_model.errors import DatasetError

SUFFIX = ".dmr.zip"
TIME = "time"
_ROIS, _PARAMETERS = "rois.csv", "pars.csv"
_HEADERS = 3


@dataclass(frozen=True)
class Recording:
    """One visit of one subject.

    Attributes:
        file: name of the archive.
        subject: as the file names it; another file, or another centre, may use the same name.
        visit: as the file names it.
        signals: by name, float64, NaN where nothing was written; ``time`` is in seconds.
        parameters: by name, as written.
    """

    file: str
    subject: str
    visit: str
    signals: Mapping[str, NDArray[np.float64]]
    parameters: Mapping[str, str]

    @property
    def name(self) -> str:
        """For messages and tables."""
        return f"{self.file.removesuffix(SUFFIX)}/{self.subject}/{self.visit}"


def find_dmr(folder: Path) -> list[Path]:
    """Every archive below a folder, in order.

    Raises:
        DatasetError: there is none.
    """
    found = sorted(folder.rglob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not found:
        raise DatasetError(
            f"holds no {SUFFIX} file", where=str(folder), remedy="Give the folder of the rats' curves"
        )
    return found


def read_dmr(path: Path) -> list[Recording]:
    """Every visit of every subject of an archive, in the order of its columns.

    Raises:
        DatasetError: the archive or one of its tables cannot be read.
    """
    rows, parameters = _table(path, _ROIS), _parameters(path)
    if len(rows) <= _HEADERS or len({len(row) for row in rows[:_HEADERS]}) != 1:
        raise DatasetError(
            f"{_ROIS} does not begin with three header lines of one length", where=str(path), remedy=_AGAIN
        )
    signals: dict[tuple[str, str], dict[str, NDArray[np.float64]]] = {}
    for at, (subject, visit, name) in enumerate(zip(*rows[:_HEADERS], strict=True)):
        column = np.array([_number(row[at] if at < len(row) else "", path) for row in rows[_HEADERS:]])
        signals.setdefault((subject, visit), {})[name] = column
    return [
        Recording(path.name, subject, visit, columns, parameters.get((subject, visit), {}))
        for (subject, visit), columns in signals.items()
    ]


_AGAIN = "Download the file again from its source"


def _table(path: Path, name: str) -> list[list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(name).decode("utf-8-sig")
    except KeyError as error:
        raise DatasetError(f"holds no {name}", where=str(path), remedy=_AGAIN) from error
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"cannot be read ({error})", where=str(path), remedy=_AGAIN) from error
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline="")) if row]


def _parameters(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    header, *rows = _table(path, _PARAMETERS) or [[]]
    if header[:4] != ["subject", "study", "parameter", "value"]:
        raise DatasetError(
            f"{_PARAMETERS} does not have the columns subject, study, parameter, value",
            where=str(path),
            remedy=_AGAIN,
        )
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        subject, visit, parameter, value = _four(row, path)
        found.setdefault((subject, visit), {})[parameter] = value
    return found


def _four(row: Sequence[str], path: Path) -> tuple[str, str, str, str]:
    if len(row) < 4:
        raise DatasetError(f"{_PARAMETERS} has a short line: {','.join(row)}", where=str(path), remedy=_AGAIN)
    return row[0], row[1], row[2], row[3]


def _number(cell: str, path: Path) -> float:
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError as error:
        raise DatasetError(
            f"{_ROIS} holds {cell!r} where a number is meant", where=str(path), remedy=_AGAIN
        ) from error
