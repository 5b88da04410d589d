"""CSV tables as hospitals write them: commas or semicolons, byte order marks, labels, laboratory values."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

from phcc_client.imaging.case import Remark
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.errors import CaseError, DatasetError

AFP_COLUMN = "afp_ng_ml"

_UNKNOWN = frozenset({"", "-1", "na", "n/a", "nan", "none", "null", "unknown", "?", "-"})
_POSITIVE = frozenset({"1", "1.0", "true", "yes", "y", "positive", "pos"})
_NEGATIVE = frozenset({"0", "0.0", "false", "no", "n", "negative", "neg"})


@dataclass(frozen=True)
class Table:
    """A CSV file: its columns, and its rows by column name, cells stripped."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def must_have(self, *columns: str) -> None:
        """Check that columns are there.

        Raises:
            DatasetError: one is not; names those that are.
        """
        for column in columns:
            if column not in self.columns:
                raise DatasetError(
                    f"has no column {column!r}; its columns are {', '.join(self.columns)}",
                    where=str(self.path),
                    remedy="Add the column (its cells may be empty) or name the right one in the study",
                )


def read_table(path: Path) -> Table:
    """Read a CSV file with a header line.

    Raises:
        DatasetError: it is missing, empty, not text, or a line has more cells than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError("there is no such file", where=str(path), remedy="Check data.path") from error
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror})", where=str(path), remedy="Check the file and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError("is not UTF-8 text", where=str(path), remedy="Save it as CSV UTF-8") from error
    header = text.split("\n", 1)[0]
    delimiter = ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [[cell.strip() for cell in line] for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise DatasetError(
            f"is no CSV table ({error})", where=str(path), remedy="Save it as CSV UTF-8"
        ) from error
    if not lines:
        raise DatasetError("is empty", where=str(path), remedy="Write a header line and one line per case")
    columns = tuple(lines[0])
    if len(set(columns)) != len(columns):
        raise DatasetError("names a column twice", where=str(path), remedy="Name every column once")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) > len(columns):
            raise DatasetError(
                f"line {number} has {len(line)} cells, the header {len(columns)}",
                where=str(path),
                remedy="Put cells that hold the delimiter in quotes",
            )
        rows.append(dict(zip(columns, [*line, *[""] * (len(columns) - len(line))], strict=True)))
    return Table(path, columns, tuple(rows))


def parse_label(cell: str) -> int:
    """1, 0 or -1 (unknown) from what people write for yes, no and nothing.

    Raises:
        CaseError: it is none of these.
    """
    word = cell.strip().lower()
    if word in _UNKNOWN:
        return UNKNOWN_LABEL
    if word in _POSITIVE:
        return 1
    if word in _NEGATIVE:
        return 0
    raise CaseError(f"its label is {cell!r}", remedy="Write 1, 0, or nothing where it is unknown")


def parse_afp(cell: str) -> tuple[float, str | None]:
    """Alpha-fetoprotein in ng/mL from a laboratory's cell.

    A value beyond the assay's range (``<2``, ``>60500``) counts as the bound itself.

    Returns:
        The value, NaN where unknown, and a remark where the cell could not be taken as it stood.
    """
    word = cell.strip().lower()
    if word in _UNKNOWN:
        return math.nan, None
    bounded = word[0] in "<>≤≥"
    digits = word.lstrip("<>≤≥= ").replace(" ", "")
    # A decimal comma; before exactly three digits it could as well part thousands, and is not guessed at.
    if digits.count(",") == 1 and "." not in digits and len(digits) - digits.index(",") != 4:
        digits = digits.replace(",", ".")
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        return math.nan, f"AFP {cell!r} is no number of ng/mL and counts as unknown"
    return value, f"AFP {cell!r} lies beyond the assay's range and counts as {value:g}" if bounded else None


@dataclass(frozen=True)
class Clinical:
    """What a clinical table says of one patient; where the row is unusable, `error` says why."""

    centre: str | None = None
    scanner: str | None = None
    label: int = UNKNOWN_LABEL
    afp: float = math.nan
    error: CaseError | None = None


def read_clinical(path: Path, label_column: str | None) -> tuple[dict[str, Clinical], list[Remark]]:
    """The optional ``clinical.csv`` beside a data set, by patient.

    Columns: ``patient``, the label's, and where known ``centre``, ``scanner``, ``afp_ng_ml``; others are not
    read.

    Args:
        path: the file; where there is none, nothing is known of anyone.
        label_column: the column that the study takes its label from; None where the label comes from
            elsewhere.

    Raises:
        DatasetError: the table cannot be read, or lacks the column of patients or of labels.
    """
    if not path.exists():
        return {}, []
    table = read_table(path)
    table.must_have("patient", *([label_column] if label_column else []))
    known: dict[str, Clinical] = {}
    remarks: list[Remark] = []
    for row in table.rows:
        patient = row["patient"]
        afp, remark = parse_afp(row.get(AFP_COLUMN, ""))
        label, error = UNKNOWN_LABEL, None
        try:
            label = parse_label(row[label_column]) if label_column else UNKNOWN_LABEL
        except CaseError as wrong:
            error = CaseError(wrong.what, where=str(path), remedy=wrong.remedy)
        found = Clinical(row.get("centre") or None, row.get("scanner") or None, label, afp, error)
        if patient in known and repr(known[patient]) != repr(found):
            two = CaseError(
                f"patient {patient} has two rows that disagree", where=str(path), remedy="Keep the right one"
            )
            found = Clinical(error=two)
        elif remark and patient not in known:
            remarks.append(Remark(patient, remark))
        known[patient] = found
    return known, remarks
