"""The folder that one hospital (or one virtual centre) trains on: who is in which part, and the crops' names.

``SITE/site.json`` names every case, its patient, label, AFP and split, and the key of its crop in the cache;
the images stay in the cache, which several sites may share. Nothing of this folder ever leaves the hospital.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phcc_client.imaging.cache import load, preparation_digest, write_atomically
from phcc_client.imaging.case import Rejection, Remark
from phcc_client.imaging.facts import PhaseFacts
from phcc_model.cases import UNKNOWN_LABEL, CaseSet
from phcc_model.config import DataSettings, Phase, SplitSettings
from phcc_model.errors import DatasetError, SplitError, StorageError

if TYPE_CHECKING:  # the desk opens a site without the libraries that read images
    from phcc_client.imaging.dataset import Entry

SCHEMA_VERSION: Literal[1] = 1
SITE_FILE = "site.json"
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
LABELS = {1: "positive", 0: "negative", UNKNOWN_LABEL: "unknown"}

_AGAIN = "Prepare the site again"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteCase(_Record):
    """One case of a site; `afp` is None where unknown, `facts` are empty where an earlier version wrote it."""

    case: str
    patient: str
    label: Literal[-1, 0, 1]
    afp: Annotated[float, Field(ge=0.0)] | None
    split: Split
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    centre: str | None = None
    scanner: str | None = None
    facts: tuple[PhaseFacts, ...] = ()


class SetAside(_Record):
    """One case that is not trained on, and why."""

    case: str
    patient: str
    reason: str
    remedy: str


class Note(_Record):
    """Something to know about a case that is used."""

    case: str
    text: str


class Funnel(_Record):
    """From what was read to what is used: ``read = prepared + len(rejections)``, in cases.

    `aside` counts patients that are not used, by the reason (`keys.ASIDE`), from the source on.
    """

    read: int
    prepared: int
    aside: dict[str, int] = {}
    rejections: tuple[SetAside, ...] = ()
    remarks: tuple[Note, ...] = ()


class Terms(_Record):
    """What a study says about who is in which part and what is known of them; the voxels are not its matter.

    Attributes:
        source: how the data are laid out.
        label: the column or attribute that holds it.
        required_phases: a case without one of these is set aside.
        seed: of the split.
        split: shares of the patients.
        external: whether this site is kept out of training: all of its patients are for the test.
        dealt_as: the preparation whose split is taken over; None where the patients are dealt anew.
    """

    source: str
    label: str
    required_phases: tuple[Phase, ...]
    seed: int
    split: SplitSettings
    external: bool
    dealt_as: str | None = None


class SiteRecord(_Record):
    """What ``site.json`` holds; `terms` is None where an earlier version wrote it."""

    schema_version: Literal[1]
    name: Annotated[str, Field(min_length=1)]
    phases: tuple[Phase, ...]
    normalisation: str
    crop_size: tuple[int, int, int]
    settings_digest: str
    terms: Terms | None = None
    cache: str
    cases: tuple[SiteCase, ...]
    funnel: Funnel


class Site:
    """One hospital's prepared cases, opened.

    Args:
        folder: the site's folder.
        record: its validated file.
    """

    def __init__(self, folder: Path, record: SiteRecord) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def open(cls, folder: Path) -> Site:
        """Read and check a site's folder.

        Raises:
            DatasetError: the folder holds no site, or its file is damaged.
            SplitError: a patient stands in two splits.
        """
        record = _read(folder / SITE_FILE)
        _check_cases(record.cases, str(folder / SITE_FILE))
        return cls(folder, record)

    def must_suit(self, settings: DataSettings) -> None:
        """Check that the crops were prepared as a study asks, and as this version does it.

        Raises:
            DatasetError: they were not.
        """
        if self.record.settings_digest != preparation_digest(settings):
            raise DatasetError(
                "was prepared with other phases, crop or normalisation than the study's",
                where=str(self.folder),
                remedy="Prepare the site again with this study's file",
            )

    @property
    def name(self) -> str:
        """The site's name."""
        return self.record.name

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of its crops, in order."""
        return self.record.phases

    @property
    def cache(self) -> Path:
        """The folder of its crops."""
        return self.folder / self.record.cache

    def counts(self) -> dict[Split, dict[str, int]]:
        """Cases by split and by label (positive, negative, unknown)."""
        found = Counter((case.split, LABELS[case.label]) for case in self.record.cases)
        return {split: {label: found[split, label] for label in LABELS.values()} for split in SPLITS}

    def load(self, split: Split) -> CaseSet:
        """The cases of one split, stacked; an empty set where there are none.

        The arrays are kept in this process and shared between callers: do not write into them.

        Raises:
            StorageError: a crop is missing or damaged.
        """
        cases = tuple(case for case in self.record.cases if case.split == split)
        return _stacked(self.cache.resolve(), cases, len(self.phases), self.record.crop_size)


def _read(file: Path) -> SiteRecord:
    try:
        return SiteRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DatasetError("there is no prepared site here", where=str(file.parent), remedy=_AGAIN) from error
    except OSError as error:
        raise DatasetError(
            f"cannot be read ({error.strerror})", where=str(file), remedy="Check its permissions"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{key}: {first['msg'].lower()}", where=str(file), remedy=_AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"is no JSON ({error})", where=str(file), remedy=_AGAIN) from error


@lru_cache(maxsize=64)
def _stacked(cache: Path, cases: tuple[SiteCase, ...], phases: int, size: tuple[int, int, int]) -> CaseSet:
    """Keyed by what the crops hold, not by where they are listed: it can never be out of date."""
    n = len(cases)
    volumes_npdhw = np.zeros((n, phases, *size), dtype=np.float16)
    present_np = np.zeros((n, phases), dtype=np.bool_)
    lesion_ndhw = np.zeros((n, *size), dtype=np.uint8)
    for i, case in enumerate(cases):
        prepared = load(cache, case.key)
        if prepared is None or prepared.volumes_pdhw.shape != volumes_npdhw.shape[1:]:
            raise StorageError(
                f"the prepared crop of case {case.case} is missing or damaged",
                where=str(cache),
                remedy=_AGAIN,
            )
        volumes_npdhw[i] = prepared.volumes_pdhw
        present_np[i] = prepared.present_p
        lesion_ndhw[i] = prepared.lesion_dhw
    return CaseSet(
        case=tuple(case.case for case in cases),
        patient=tuple(case.patient for case in cases),
        volumes_npdhw=volumes_npdhw,
        present_np=present_np,
        lesion_ndhw=lesion_ndhw,
        label_n=np.array([case.label for case in cases], dtype=np.int8),
        afp_n=np.array([math.nan if case.afp is None else case.afp for case in cases], dtype=np.float32),
    )


def write_site(
    folder: Path,
    *,
    name: str,
    settings: DataSettings,
    terms: Terms | None = None,
    entries: Sequence[Entry],
    split_of: Mapping[str, Split],
    cache: Path,
    rejections: Sequence[Rejection] = (),
    remarks: Sequence[Remark] = (),
    aside: Mapping[str, int] | None = None,
) -> Site:
    """Write a site's file into its folder, whole or not at all.

    Args:
        folder: the site's folder; made where it is not there.
        name: of the site.
        settings: with which the entries were prepared.
        terms: by which they were chosen, labelled and split.
        entries: the site's cases.
        split_of: the split of every case, by its name.
        cache: the folder of crops; named relative to the site's folder where it lies near.
        rejections: cases of this site that were set aside.
        remarks: what to know about those that were not.
        aside: patients that are not used, by the reason.

    Returns:
        The site, opened.

    Raises:
        SplitError: a case has no split, or a patient would stand in two.
        DatasetError: two cases have one name.
        StorageError: the folder cannot be written.
    """
    cases = tuple(_site_case(entry, split_of.get(entry.case), name) for entry in entries)
    _check_cases(cases, f"site {name}")
    record = SiteRecord(
        schema_version=SCHEMA_VERSION,
        name=name,
        phases=settings.phases,
        normalisation=settings.normalisation,
        crop_size=settings.crop.size,
        settings_digest=preparation_digest(settings),
        terms=terms,
        cache=_from(folder, cache),
        cases=cases,
        funnel=Funnel(
            read=len(entries) + len(rejections),
            prepared=len(entries),
            aside=dict(aside or {}),
            rejections=tuple(
                SetAside(case=r.case, patient=r.patient, reason=r.reason, remedy=r.remedy) for r in rejections
            ),
            remarks=tuple(Note(case=r.case, text=r.text) for r in remarks),
        ),
    )
    write_atomically(folder / SITE_FILE, (record.model_dump_json(indent=1) + "\n").encode())
    return Site(folder, record)


def _site_case(entry: Entry, split: Split | None, site: str) -> SiteCase:
    if split is None:
        raise SplitError(
            f"case {entry.case} has no split", where=f"site {site}", remedy=f"Put it into {', '.join(SPLITS)}"
        )
    return SiteCase(
        case=entry.case,
        patient=entry.patient,
        label=1 if entry.label == 1 else 0 if entry.label == 0 else -1,
        afp=None if math.isnan(entry.afp) else entry.afp,
        split=split,
        key=entry.key,
        centre=entry.centre,
        scanner=entry.scanner,
        facts=entry.facts,
    )


def _from(folder: Path, cache: Path) -> str:
    """A cache near the site is named relative to it, so that a run's folder can be moved as a whole."""
    own, other = folder.resolve(), cache.resolve()
    near = any(other.is_relative_to(parent) for parent in own.parents[:3] if parent != parent.parent)
    return os.path.relpath(other, own) if near else str(other)


def _check_cases(cases: Sequence[SiteCase], where: str) -> None:
    """No case twice, no patient in two splits.

    Raises:
        DatasetError: two cases have one name.
        SplitError: a patient stands in two splits.
    """
    split_of: dict[str, Split] = {}
    names: set[str] = set()
    for case in cases:
        if case.case in names:
            raise DatasetError(f"case {case.case} is named twice", where=where, remedy="Name every case once")
        names.add(case.case)
        first = split_of.setdefault(case.patient, case.split)
        if first != case.split:
            raise SplitError(
                f"patient {case.patient} stands both in {first} and in {case.split}",
                where=where,
                remedy="Split by patient: all cases of a patient on one side",
            )
