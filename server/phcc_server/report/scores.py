"""A simulation's ``scores.csv``: every case of every arm, written and read in one place.

After the columns that every run has stand the traits by which the report parts the patients, one column each; an
empty cell is a trait that is not recorded. A file without them, of an earlier version, is read all the same.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from phcc_model.errors import StorageError
from phcc_server.report.evaluation import ScoredCase

SCORES_FILE = "scores.csv"

_COLUMNS = ("arm", "centre", "split", "patient", "case", "label", "score", "threshold")
_SIZE = "lesion_mm"


def scores_csv(scored: Sequence[ScoredCase]) -> str:
    """The file as text; every float is written so that it is read back to the bit."""
    traits = tuple(dict.fromkeys(name for row in scored for name in row.traits))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, _SIZE, *traits])
    for row in scored:
        told = [row.traits.get(name, "") for name in traits]
        known = [row.arm, row.centre, row.split, row.patient, row.case, row.label, row.score, row.threshold]
        writer.writerow([*known, row.lesion_mm, *told])
    return text.getvalue()


def read_scores(path: Path) -> list[ScoredCase]:
    """The cases of a simulation's ``scores.csv``.

    Raises:
        StorageError: it is not there, or a line of it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file, strict=True))
            if any(None in row for row in lines):
                raise ValueError("more cells than columns")
            return [
                ScoredCase(
                    row["arm"],
                    row["case"],
                    row["patient"],
                    row["centre"],
                    row["split"],
                    int(row["label"]),
                    _number(row["score"]),
                    _number(row["threshold"]),
                    traits={k: v or "" for k, v in row.items() if k not in (*_COLUMNS, _SIZE)},
                    lesion_mm=_number(row.get(_SIZE) or ""),
                )
                for row in lines
            ]
    except FileNotFoundError:
        raise StorageError(
            "the scores are not there", where=str(path), remedy="Run the study again in the same folder"
        ) from None
    except (OSError, csv.Error, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise StorageError(
            "a line of the scores cannot be read", where=str(path), remedy="Run the study again"
        ) from error


def _number(text: str) -> float | None:
    return None if text in ("", "None") else float(text)
