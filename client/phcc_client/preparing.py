"""A hospital's own images made ready for a study: read, cropped into the cache, split by patient, listed.

What is done to a case, and on which side its patient stands, is the same whether the hospital is real or a
virtual centre of a simulation: both go through `split_entries` and `write_prepared`. A centre's split depends
on its own patients only, so a hospital has the one that the simulation gave it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from phcc_client.found import aside_of, with_records
from phcc_client.home import Home
from phcc_client.imaging.case import Reading, Rejection, Remark
from phcc_client.imaging.dataset import Entry, Preparation, Progress, prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.preparations import deals, find_prepared, is_prepared, preparation_folder, terms_of
from phcc_client.site import Site, Split, write_site
from phcc_client.splits import Splits, external_centres, patient_labels, split_patients
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, DatasetError, SplitError

log = logging.getLogger("phcc_client")

_GIVEN = {"train": "train", "validation": "test", "test": "test"}
"""A data set's own validation part is held out whole; what chooses a round is taken from its training part."""


def prepare_site(
    home: Home,
    study: StudyConfig,
    progress: Progress | None = None,
    *,
    again: bool = False,
    whole: StudyConfig | None = None,
) -> Site:
    """Make this hospital's images ready for a study; what is ready already is used again.

    A patient who was tested on must not be trained on later. So where this hospital was prepared before as this
    study asks, a patient stays where it stands: data that grew are refused if they would move one. A study with
    another seed, split or label has a preparation of its own beside it; `overlaps` tells who is tested in the one
    and trained on in the other.

    Args:
        home: the hospital's folder; crops go into ``site/cache``, the list into ``site/prepared-<digest>``.
        study: which phases, crops and split are asked for. Where it calls this hospital external, all of its
            patients are for the test.
        progress: called with (done, total) cases.
        again: move patients all the same; for when no study has begun on the split that is there.
        whole: the study that ``study`` is an arm of, and whose split it takes over; made ready first where it is
            not. None where it is no arm.

    Returns:
        The hospital's cases, prepared.

    Raises:
        ConfigError: nobody said where the images are.
        DataError: they cannot be used, or hold none of this hospital's.
        SplitError: a patient would move to another part of the split, or change its label.
        StorageError: the disk is full or not writable.
    """
    path = data_path(home)
    reading = read_cases(study.data, path)
    if home.settings.centre is not None:
        reading = _of_centre(reading, home.settings.centre, path)
    jobs = home.settings.threads or os.cpu_count() or 1
    cache = home.site / "cache"
    preparation = prepare_all(reading, study.data, cache, jobs=jobs, progress=progress)
    tell_of_damage(preparation)
    name = home.settings.hospital
    if deals(study, whole):
        assignment = {entry.patient: name for entry in preparation.entries}
        split_of = split_entries(preparation.entries, assignment, study).site(name)
    else:
        assert whole is not None
        split_of = _split_of_whole(home, whole, progress, again=again)
    entries, rejections = _in_split(preparation, split_of)
    entries = with_records(entries, path)
    if not again and (before := find_prepared(home.site, study, name, whole)) is not None:
        _nobody_may_move(before, entries, split_of)
        if before.record.terms is None:
            log.info("study %s: an earlier version prepared its cases; they are listed anew", study.name)
    return write_prepared(
        home.site,
        name,
        study,
        entries,
        split_of,
        cache,
        rejections,
        reading.remarks,
        whole=whole,
        aside=aside_of(entries, rejections, path, home.settings.centre),
    )


def _in_split(
    preparation: Preparation, split_of: Mapping[str, Split]
) -> tuple[list[Entry], tuple[Rejection, ...]]:
    """The cases whose patients have a place, and what is set aside, the others among it."""
    placed = [entry for entry in preparation.entries if entry.patient in split_of]
    others = [entry for entry in preparation.entries if entry.patient not in split_of]
    why, remedy = (
        "its patient is not among those of the study itself",
        "Prepare the study again with all its arms",
    )
    return placed, (*preparation.rejections, *(Rejection(e.case, e.patient, why, remedy) for e in others))


def _split_of_whole(
    home: Home, whole: StudyConfig, progress: Progress | None, *, again: bool
) -> dict[str, Split]:
    """The split of each patient that a study has, for an arm that sees other phases or needs other ones."""
    name = home.settings.hospital
    found = find_prepared(home.site, whole, name) if is_prepared(home.site, whole, name) else None
    site = found or prepare_site(home, whole, progress, again=again)
    return {case.patient: case.split for case in site.record.cases}


def tell_of_damage(preparation: Preparation) -> None:
    """Say which crops lay damaged in the cache and were made again: a disk that does so will do it again."""
    if preparation.damaged:
        shown = ", ".join(preparation.damaged[:5])
        log.warning("%d prepared crops were damaged and made again: %s", len(preparation.damaged), shown)


def data_path(home: Home) -> Path:
    """Where this hospital's images are.

    Raises:
        ConfigError: nobody said so, or there is nothing.
    """
    if home.settings.data is None:
        raise ConfigError(
            "nobody said yet where this hospital's images are",
            where="data",
            remedy="Run phcc-client set data=FOLDER",
        )
    path = Path(home.settings.data).expanduser()
    if not path.is_absolute():
        path = home.folder / path
    if not path.exists():
        raise ConfigError(
            "there is no such file or folder", where=f"data: {path}", remedy="Run phcc-client set data=FOLDER"
        )
    return path


def split_entries(entries: Sequence[Entry], assignment: Mapping[str, str], study: StudyConfig) -> Splits:
    """Split prepared cases' patients as a study asks, each centre for itself.

    Args:
        entries: the cases.
        assignment: the centre of each patient.
        study: its shares, its seed, and the centres that it keeps out of training.

    Raises:
        SplitError: the split that comes with the data leaves a patient out.
    """
    given = {entry.patient: _GIVEN[entry.given_split] for entry in entries if entry.given_split is not None}
    return split_patients(
        assignment,
        patient_labels(entries),
        study.data.split,
        study.seed,
        external=external_centres(study.data.centres),
        given=given or None,
    )


def write_prepared(
    folder: Path,
    name: str,
    study: StudyConfig,
    entries: Sequence[Entry],
    split_of: Mapping[str, Split],
    cache: Path,
    rejections: Sequence[Rejection] = (),
    remarks: Sequence[Remark] = (),
    *,
    whole: StudyConfig | None = None,
    aside: Mapping[str, int] | None = None,
) -> Site:
    """List a site's prepared cases in its folder.

    Args:
        folder: the site's.
        name: of the site.
        study: for which the cases were prepared, or what one of its arms runs.
        entries: the site's cases.
        split_of: the split of each of its patients.
        cache: the folder of crops.
        rejections: cases that were set aside.
        remarks: what to know about those that were not.
        whole: the study that ``study`` is an arm of; None where it is no arm.
        aside: patients that are not used, by the reason.

    Raises:
        DataError: two cases have one name.
        StorageError: it cannot be written.
    """
    return write_site(
        preparation_folder(folder, study, name, whole),
        name=name,
        settings=study.data,
        terms=terms_of(study, name, whole),
        entries=entries,
        split_of={entry.case: split_of[entry.patient] for entry in entries},
        cache=cache,
        rejections=rejections,
        remarks=remarks,
        aside=aside,
    )


def _nobody_may_move(before: Site, entries: Sequence[Entry], split_of: Mapping[str, Split]) -> None:
    """Check a new list of a site's cases against the one that is there."""
    label_of = {entry.case: entry.label for entry in entries}
    for case in before.record.cases:
        split = split_of.get(case.patient, case.split)
        label = label_of.get(case.case, case.label)
        if split != case.split or {case.label, label} == {0, 1}:
            what = f"from {case.split} to {split}" if split != case.split else "to the other label"
            raise SplitError(
                f"patient {case.patient} would move {what}",
                where=str(before.folder),
                remedy="Keep the data as they were; a study with another seed has a split of its own; or prepare "
                "--again if no study has begun on this one",
            )


def _of_centre(reading: Reading, centre: str, path: Path) -> Reading:
    """The cases of one centre, where the data hold several centres'."""
    cases = tuple(case for case in reading.cases if case.centre == centre)
    if not cases:
        named = sorted({case.centre for case in reading.cases if case.centre is not None})
        raise DatasetError(
            f"no case is of centre {centre}",
            where=str(path),
            remedy=f"The data name {', '.join(named[:20])}: run phcc-client set centre=NAME"
            if named
            else "The data name no centre: run phcc-client set centre=null",
        )
    return replace(reading, cases=cases)
