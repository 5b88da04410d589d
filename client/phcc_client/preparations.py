"""The ways in which one site's cases are prepared: a folder each, named after all that a study decides of them.

That is what alters a voxel, and the terms: who is in which part, and what is known of them. So studies that
differ in seed, split or label stand side by side in one site, and share the cache of crops; studies and arms that
differ in nothing of this share the folder. An order carries its study, and the study says which one is meant.

An arm that sees other phases than its study has a folder of its own, and its patients stand where they stand in
the study: all arms are compared on one split.

The version of the code that makes the crops is not in the name: a new one must find who stood where before.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from phcc_client.imaging.cache import VOXEL_SETTINGS, preparation_digest
from phcc_client.site import SITE_FILE, Site, SiteCase, SiteRecord, Split, Terms
from phcc_client.splits import external_centres, patient_labels, split_patients
from phcc_model.config import StudyConfig
from phcc_model.errors import DataError


def terms_of(study: StudyConfig, name: str, whole: StudyConfig | None = None) -> Terms:
    """What a study says about who is in which part of a site.

    Args:
        study: the study, or what one of its arms runs.
        name: of the site; the study may keep it out of training.
        whole: the study that the arm is of; None where it is no arm.
    """
    return Terms(
        source=study.data.source,
        label=study.data.label,
        required_phases=study.data.required_phases,
        seed=study.seed,
        split=study.data.split,
        external=name in external_centres(study.data.centres),
        dealt_as=None if deals(study, whole) else preparation_folder(Path(), whole or study, name).name,
    )


def deals(study: StudyConfig, whole: StudyConfig | None) -> bool:
    """Whether an arm's patients are dealt for itself: it is no arm, or sees the same cases as its study."""
    return whole is None or _cases_seen(study) == _cases_seen(whole)


def _cases_seen(study: StudyConfig) -> dict[str, object]:
    return study.data.model_dump(mode="json", include={*VOXEL_SETTINGS, "required_phases"})


def preparation_folder(site: Path, study: StudyConfig, name: str, whole: StudyConfig | None = None) -> Path:
    """Where a site's cases stand, prepared as a study asks.

    Args:
        site: the site's folder.
        study: the study, or what one of its arms runs.
        name: of the site.
        whole: the study that the arm is of; None where it is no arm.
    """
    decided = {
        "voxels": study.data.model_dump(mode="json", include=VOXEL_SETTINGS),
        "terms": terms_of(study, name, whole).model_dump(mode="json"),
    }
    text = json.dumps(decided, sort_keys=True, separators=(",", ":"))
    return site / f"prepared-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def find_prepared(site: Path, study: StudyConfig, name: str, whole: StudyConfig | None = None) -> Site | None:
    """A site's cases, listed as a study asks, whichever version made the crops; None where there is no list.

    An earlier version named the folder after what alters a voxel alone. Until the cases are prepared again, such
    a folder stands for the study that it was made for: a study goes on that runs while the package is changed.

    Raises:
        DatasetError: the list is damaged.
        SplitError: a patient stands in two splits.
    """
    folder = preparation_folder(site, study, name, whole)
    if (folder / SITE_FILE).exists():
        return Site.open(folder)
    for file in sorted(site.glob(f"prepared-*/{SITE_FILE}")):
        earlier = _without_terms(file, file.stat().st_mtime_ns)
        if earlier is not None and _was_made_for(earlier.record, study, name):
            return earlier
    return None


def is_prepared(site: Path, study: StudyConfig, name: str, whole: StudyConfig | None = None) -> bool:
    """Whether nothing is left to prepare: the list is there, and its crops are of this version.

    Raises:
        DataError: as `find_prepared`.
    """
    found = find_prepared(site, study, name, whole)
    if found is None or found.record.terms is None:
        return False
    return found.record.settings_digest == preparation_digest(study.data)


def open_prepared(site: Path, study: StudyConfig, name: str, whole: StudyConfig | None = None) -> Site:
    """A site's cases, prepared as a study asks.

    Raises:
        DatasetError: they have not been prepared so.
        SplitError: a patient stands in two splits.
    """
    opened = find_prepared(site, study, name, whole)
    if opened is None:  # says that there is none
        opened = Site.open(preparation_folder(site, study, name, whole))
    opened.must_suit(study.data)
    return opened


@functools.lru_cache(maxsize=256)
def _without_terms(file: Path, _changed_ns: int) -> Site | None:
    """A list that an earlier version made; None for any other, and for one that is damaged.

    Kept, because whoever looks through the studies of a hospital asks for each of them.
    """
    try:
        opened = Site.open(file.parent)
    except DataError:  # a list of another study, maybe, and no matter of this one
        return None
    return opened if opened.record.terms is None else None


def _was_made_for(record: SiteRecord, study: StudyConfig, name: str) -> bool:
    """Whether an earlier version, which wrote down no terms, seems to have made a list for this study."""
    data = study.data
    asked = (data.phases, data.normalisation, data.crop.size)
    if (record.phases, record.normalisation, record.crop_size) != asked:
        return False
    return would_stand(record.cases, study, name) == {case.patient: case.split for case in record.cases}


def would_stand(cases: Sequence[SiteCase], study: StudyConfig, name: str) -> Mapping[str, Split]:
    """The split of each patient, if a study dealt these cases with these labels.

    A split that comes with the data is not known here, and left out of account.
    """
    labels = patient_labels(cases)
    splits = split_patients(
        dict.fromkeys(labels, name),
        labels,
        study.data.split,
        study.seed,
        external=external_centres(study.data.centres),
    )
    return splits.site(name)
