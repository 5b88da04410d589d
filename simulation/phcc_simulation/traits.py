"""What a reviewer parts patients by: lesion size, phases missing, vendor, field strength.

Taken from where the data set itself says it: the lesion from its mask or box, phases from the files that are
there, the scanner from the table's ``scanner`` column, or from the records of an ingested site. What nothing says
is not recorded; nothing is guessed.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from phcc_client.imaging.case import PhaseImage, RawCase, anchor_phase
from phcc_client.imaging.readers import read_cases
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_client.ingest.check_files import read_records
from phcc_model.config import Phase
from phcc_model.errors import CaseError
from phcc_server.report.schema import TRAIN
from phcc_server.report.summary import ScoredCase
from phcc_simulation.workspace import Workspace

SIZE, MISSING, VENDOR, FIELD = "lesion size", "phases missing", "vendor", "field strength"

_TESLA = re.compile(r"(?<![\w.])(\d{1,2}(?:\.\d{1,2})?)\s*T(?:esla)?(?![\w])", re.IGNORECASE)


@dataclass(frozen=True)
class Facts:
    """What the data say of one case; empty or None where they say nothing.

    Attributes:
        lesion_mm: diameter of the ball that has the lesion's volume.
        missing: the study's phases that it lacks, in their order.
        vendor: first word of the scanner's name.
        field: strength of the main field, e.g. ``1.5 T``.
    """

    lesion_mm: float | None
    missing: tuple[Phase, ...]
    vendor: str = ""
    field: str = ""


def with_traits(scored: Sequence[ScoredCase], workspace: Workspace) -> list[ScoredCase]:
    """Scored cases with their traits; the thirds of lesion size are those of the training patients' lesions.

    Raises:
        DataError: the data cannot be read any more.
    """
    facts = read_facts(workspace)
    sizes = {row.case: one.lesion_mm for row in scored if row.split == TRAIN and (one := facts.get(row.case))}
    cuts = thirds_of([size for size in sizes.values() if size is not None])
    return [
        replace(row, lesion_mm=one.lesion_mm, traits=_traits(one, cuts))
        if (one := facts.get(row.case))
        else row
        for row in scored
    ]


def _traits(facts: Facts, cuts: tuple[float, float] | None) -> dict[str, str]:
    missing = f"{len(facts.missing)}: {', '.join(facts.missing)}" if facts.missing else "none"
    return {
        SIZE: third_of(facts.lesion_mm, cuts),
        MISSING: missing,
        VENDOR: facts.vendor,
        FIELD: facts.field,
    }


def thirds_of(sizes_mm: Sequence[float]) -> tuple[float, float] | None:
    """Where the smallest third ends and the largest begins, in mm to a tenth; None of fewer than three."""
    if len(sizes_mm) < 3:
        return None
    low, high = (round(float(cut), 1) for cut in np.quantile(sizes_mm, (1 / 3, 2 / 3)))
    return low, high


def third_of(size_mm: float | None, cuts: tuple[float, float] | None) -> str:
    """In which third a lesion lies; empty where its size, or the thirds, are not known."""
    if size_mm is None or cuts is None:
        return ""
    low, high = cuts
    if size_mm < low:
        return f"1st third, below {low:.1f} mm"
    return f"2nd third, {low:.1f} to {high:.1f} mm" if size_mm < high else f"3rd third, from {high:.1f} mm"


def read_facts(workspace: Workspace) -> dict[str, Facts]:
    """What the data say of each case, by its name.

    Raises:
        DataError: the data cannot be read any more.
    """
    settings = workspace.study.data
    told = _ingested(workspace.data)
    found = {}
    for raw in read_cases(settings, workspace.data).cases:
        vendor, field = told.get(raw.patient) or scanner_of(raw.scanner or "")
        missing = tuple(phase for phase in settings.phases if phase not in raw.images)
        found[raw.case] = Facts(lesion_diameter_mm(raw), missing, vendor, field)
    return found


def lesion_diameter_mm(raw: RawCase) -> float | None:
    """Diameter of the ball with the lesion's volume, to 0.01 mm; None where nothing says where the lesion ends.

    A box stands for the ellipsoid that it just holds: a lesion fills about half of its box. Images without any
    spacing have no millimetres.
    """
    image = raw.images[anchor_phase(raw)]
    if image.fitted:
        return None
    with contextlib.suppress(CaseError):  # the case was read when it was prepared: only its size is left out
        if raw.mask is not None:
            header = read_header(raw.mask, image.spacing_mm_dhw)
            volume = float(np.count_nonzero(read_voxels(header)) * np.prod(header.grid.spacing_mm_dhw))
            return round((6.0 * volume / math.pi) ** (1 / 3), 2) if volume else None
        sides = _sides_mm(image)
        return None if sides is None else round(math.prod(sides) ** (1 / 3), 2)
    return None


def _sides_mm(image: PhaseImage) -> list[float] | None:
    if image.box is None:
        return None
    if image.spacing_mm_dhw is not None:
        return [float(n * s) for n, s in zip(image.box.size_dhw, image.spacing_mm_dhw, strict=True)]
    if image.path is None:
        return None
    grid = read_header(image.path).grid
    return [float(side) for side in grid.turn_box(image.box).size_dhw * grid.spacing_mm_dhw]


def scanner_of(text: str) -> tuple[str, str]:
    """Vendor and field strength in a scanner's name, as ``SIEMENS Avanto 1.5T``; empty where it does not say."""
    found = _TESLA.search(text)
    words = re.split(r"[\s,;/_]+", _TESLA.sub(" ", text).strip())
    first = words[0]
    vendor = first.upper() if len(first) <= 3 else first.capitalize()
    return vendor, f"{float(found[1]):g} T" if found else ""


def _ingested(data: Path) -> Mapping[str, tuple[str, str]]:
    """Vendor and field strength by patient, where an ingest of DICOM left its records and a patient's agree."""
    if not (data / "records").is_dir():
        return {}
    found = {}
    for record in read_records(data)[0]:
        used = [series for series in record.series if series.used]
        makers = {scanner_of(series.manufacturer)[0] for series in used} - {""}
        fields = {f"{one.field_strength_t:g} T" for one in used if one.field_strength_t is not None}
        vendor = makers.pop() if len(makers) == 1 else ""
        found[record.patient] = vendor, fields.pop() if len(fields) == 1 else ""
    return {patient: facts for patient, facts in found.items() if any(facts)}
