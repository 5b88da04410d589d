"""Which patients of a site a study would use: each case prepared as the study asks, into a cache of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.preparing import split_entries
from phcc_model.errors import DatasetError
from phcc_model.study_file import load_study

Progress = Callable[[str, int, int], None]


def study_use(
    site: Path, study_path: Path, progress: Progress, jobs: int
) -> tuple[dict[str, bool], dict[str, str]]:
    """Prepare a site's cases as a study asks, and throw the crops away.

    Args:
        site: the site's folder.
        study_path: the study's file.
        progress: told how far it is.
        jobs: cases at a time.

    Returns:
        For each case whether the study can use it; the part (train, validation, test) of each patient.

    Raises:
        ConfigError: the study's file is wrong.
        DatasetError: the study reads another kind of data.
    """
    study = load_study(study_path)
    if study.data.source != "nifti-csv":
        raise DatasetError(
            f"reads data of source {study.data.source}, not an ingested site",
            where=str(study_path),
            remedy="Set data.source: nifti-csv in the study",
        )
    reading = read_cases(study.data, site)
    with tempfile.TemporaryDirectory(prefix="phcc-check-") as cache:
        prepared = prepare_all(
            reading,
            study.data,
            Path(cache),
            jobs=jobs,
            progress=lambda done, total: progress("preparing for the study", done, total),
        )
    used = {entry.case: True for entry in prepared.entries}
    used |= {rejection.case: False for rejection in prepared.rejections}
    places = split_entries(prepared.entries, {e.patient: "here" for e in prepared.entries}, study).site(
        "here"
    )
    return used, dict(places)
