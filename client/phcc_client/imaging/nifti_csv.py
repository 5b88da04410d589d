"""A folder of NIfTI files and one table: the simplest thing a hospital can export.

``cases.csv``, one row per lesion:

- ``case`` (unique), ``patient``, the label's column (1, 0 or nothing), and where known ``centre``,
  ``scanner``, ``afp_ng_ml``;
- one column per phase, named as in the study or by a common alias (``arterial``, ``C+A``, ...), with a path
  relative to the folder; an empty cell is a missing phase;
- the lesion: ``mask``, a path to a file on the grid of the row's first phase; or ``x_min, x_max, y_min,
  y_max, z_min, z_max`` in voxels of the first phase as stored, the maximum not included, and for a phase
  whose box differs ``arterial.x_min`` and so on; with neither, the whole image is the lesion and its middle
  is cropped;
- ``given_split``, optional, ``train`` or ``test`` in every row: a split that comes with the data;
- ``lesion_phase``, optional: the phase on which the mask or the box was drawn, where it is not the first;
- ``fitted``, optional: 1 where the images are crops without any spacing, each stretched over the whole crop.

The files' spacing and orientation are trusted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from phcc_client.imaging.case import Box, GivenSplit, PhaseImage, RawCase, Reading, Rejection, Remark
from phcc_client.imaging.paths import folder_of, inside
from phcc_client.imaging.phases import recognise
from phcc_client.imaging.tables import AFP_COLUMN, Table, parse_afp, parse_label, read_table
from phcc_model.config import PHASES, DataSettings, Phase
from phcc_model.errors import CaseError, DatasetError

TABLE = "cases.csv"
_CORNERS = ("z_min", "y_min", "x_min", "z_max", "y_max", "x_max")
_NOT_PHASES = frozenset(
    {"case", "patient", "centre", "scanner", "mask", "lesion_phase", "fitted", "given_split"}
    | {AFP_COLUMN, *_CORNERS}
)
_SPLITS: dict[str, GivenSplit | None] = {"": None, "train": "train", "test": "validation"}
"""What a data set itself holds out is what a study tests on, whatever the data set calls it."""


def read_nifti_csv(path: Path, settings: DataSettings) -> Reading:
    """Read ``cases.csv`` and find the files it names; of the voxels nothing is read yet.

    Raises:
        DatasetError: the folder or the table cannot be used as a whole.
    """
    folder = folder_of(path)
    table = read_table(folder / TABLE)
    table.must_have("case", "patient", settings.label)
    columns = _phase_columns(table, settings.label)
    times = Counter(row["case"] for row in table.rows)
    cases: list[RawCase] = []
    rejections: list[Rejection] = []
    remarks: list[Remark] = []
    for row in table.rows:
        case, patient = row["case"], row["patient"]
        try:
            if not case or not patient:
                raise CaseError("a row without case or patient", where=str(table.path), remedy="Name both")
            if times[case] > 1:
                raise CaseError(
                    f"{times[case]} rows have this name", where=str(table.path), remedy="Name cases once"
                )
            label = parse_label(row[settings.label])
            afp, remark = parse_afp(row.get(AFP_COLUMN, ""))
            drawn_on = _lesion_phase(row, columns)
            images = _images(folder, row, columns, drawn_on)
            mask = inside(folder, row["mask"]) if row.get("mask") else None
            centre, scanner = row.get("centre") or None, row.get("scanner") or None
            found = RawCase(
                case, patient, images, centre, scanner, label, afp, mask, _given(row), drawn_on
            )  # fmt: skip
        except CaseError as error:
            rejections.append(Rejection.of(error, case=case, patient=patient))
            continue
        if remark:
            remarks.append(Remark(case, remark))
        cases.append(found)
    return Reading(tuple(cases), tuple(rejections), tuple(remarks))


def _given(row: Mapping[str, str]) -> GivenSplit | None:
    """The side on which the table puts the row's patient; None where it does not say."""
    name = row.get("given_split", "").lower()
    if name not in _SPLITS:
        raise CaseError(f"its given_split is {name!r}", remedy="Write train or test, or nothing in any row")
    return _SPLITS[name]


def _phase_columns(table: Table, label: str) -> dict[Phase, str]:
    """Which column holds which phase, in the order of acquisition.

    Raises:
        DatasetError: there is none, or two columns are one phase.
    """
    found: dict[Phase, str] = {}
    for column in table.columns:
        phase = None if column in _NOT_PHASES or column == label else recognise(column)
        if phase is None or phase == "other":
            continue
        if phase in found:
            raise DatasetError(
                f"columns {found[phase]!r} and {column!r} are both phase {phase}",
                where=str(table.path),
                remedy="Keep the right one",
            )
        found[phase] = column
    if not found:
        raise DatasetError(
            f"none of its columns is a phase; its columns are {', '.join(table.columns)}",
            where=str(table.path),
            remedy=f"Name a column {', '.join(PHASES[:-1])} or {PHASES[-1]}",
        )
    return {phase: found[phase] for phase in sorted(found, key=PHASES.index)}


def _lesion_phase(row: Mapping[str, str], columns: Mapping[Phase, str]) -> Phase | None:
    """The phase that the row's lesion is drawn on; None where the table does not say."""
    name = row.get("lesion_phase", "")
    if not name:
        return None
    phase = recognise(name)
    if phase is None or phase == "other" or not row.get(columns.get(phase, ""), ""):
        has = ", ".join(phase for phase, column in columns.items() if row[column]) or "none"
        raise CaseError(
            f"its lesion_phase is {name!r}, of which the row has no image (it has: {has})",
            remedy="Name the phase on whose image the mask or the box was drawn",
        )
    return phase


def _images(
    folder: Path, row: Mapping[str, str], columns: Mapping[Phase, str], drawn_on: Phase | None
) -> dict[Phase, PhaseImage]:
    there = [phase for phase, column in columns.items() if row[column]]
    images: dict[Phase, PhaseImage] = {}
    for phase in there:
        column = columns[phase]
        here = phase == (drawn_on or there[0])
        box = _box(row, f"{column}.") or (_box(row, "") if here else None)
        fitted = parse_label(row.get("fitted", "")) == 1
        images[phase] = PhaseImage(phase, inside(folder, row[column]), box=box, fitted=fitted)
    return images


def _box(row: Mapping[str, str], prefix: str) -> Box | None:
    cells = [row.get(prefix + corner, "") for corner in _CORNERS]
    if not any(cells):
        return None
    try:
        z0, y0, x0, z1, y1, x1 = (int(cell) for cell in cells)
    except ValueError as error:
        raise CaseError(
            f"its box is not six whole numbers ({', '.join(cell or 'nothing' for cell in cells)})",
            remedy=f"Fill {', '.join(prefix + corner for corner in _CORNERS)}",
        ) from error
    return Box((z0, y0, x0), (z1, y1, x1))
