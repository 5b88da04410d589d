"""The door through which every data set comes: a source's name, and the function that reads it.

A further source (DICOM) is one function ``(path, settings) -> Reading``, registered here under the name that
`DataSettings.source` gives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from phcc_client.imaging.case import RawCase, Reading, Rejection
from phcc_client.imaging.dataset import nothing_left
from phcc_client.imaging.lld_crops import read_lld_crops
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.imaging.medmnist import read_medmnist
from phcc_client.imaging.nifti_csv import read_nifti_csv
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError, DatasetError

Reader = Callable[[Path, DataSettings], Reading]

READERS: dict[str, Reader] = {
    "phantom": read_lld_raw,  # the phantom is written as LLD-MMRI is, and read as any hospital's data
    "lld-raw": read_lld_raw,
    "lld-crops": read_lld_crops,
    "nifti-csv": read_nifti_csv,
    "medmnist": read_medmnist,
}


def read_cases(settings: DataSettings, path: Path) -> Reading:
    """Read a data set's cases, and set aside those that this study cannot use.

    Args:
        settings: source, phases, required phases and label.
        path: the data set's folder or file.

    Returns:
        The usable cases, and every other with its reason.

    Raises:
        DatasetError: the data set cannot be used as a whole, or nothing of it is left.
    """
    reader = READERS.get(settings.source)
    if reader is None:
        raise DatasetError(
            f"there is no reader for source {settings.source!r}", remedy=f"Choose one of {', '.join(READERS)}"
        )
    reading = reader(path, settings)
    times = Counter(raw.case for raw in reading.cases)
    cases: list[RawCase] = []
    rejections = list(reading.rejections)
    for raw in reading.cases:
        try:
            _check(raw, settings, times[raw.case])
            cases.append(raw)
        except CaseError as error:
            rejections.append(Rejection.of(error, case=raw.case, patient=raw.patient))
    if not cases:
        raise nothing_left(rejections, where=str(path))
    return replace(reading, cases=tuple(cases), rejections=tuple(rejections))


def _check(raw: RawCase, settings: DataSettings, times: int) -> None:
    if times > 1:
        raise CaseError(
            f"{times} cases of the data set have this name", remedy="Give every lesion its own name"
        )
    if not set(raw.images) & set(settings.phases):
        raise CaseError("it has none of the study's phases", remedy="Check the names of its phases")
    missing = [phase for phase in settings.required_phases if phase not in raw.images]
    if missing:
        raise CaseError(
            f"it lacks {', '.join(missing)}", remedy="Add the phase, or take it out of data.required_phases"
        )
