"""A whole data set prepared: side by side, from the cache where possible, no bad case in the others' way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phcc_client.imaging.cache import DigestBook, case_key, load, store
from phcc_client.imaging.case import GivenSplit, PreparedCase, RawCase, Reading, Rejection
from phcc_client.imaging.itk import one_thread
from phcc_client.imaging.preprocess import prepare
from phcc_model.cases import CaseSet
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError, DatasetError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One prepared case: who it is, and the key of its crop in the cache."""

    case: str
    patient: str
    centre: str | None
    scanner: str | None
    label: int
    afp: float
    given_split: GivenSplit | None
    key: str


@dataclass(frozen=True)
class Preparation:
    """What came of a reading.

    Attributes:
        entries: usable cases, in the reading's order.
        rejections: those set aside, by the reader first, then here.
        reused: how many crops were in the cache already.
    """

    entries: tuple[Entry, ...]
    rejections: tuple[Rejection, ...]
    reused: int


def prepare_all(
    reading: Reading,
    settings: DataSettings,
    cache: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Preparation:
    """Prepare every case of a reading, or find it in the cache.

    Threads, not processes: inflating, hashing, resampling and smoothing run outside the interpreter's lock.

    Args:
        reading: from a reader.
        settings: the study's phases, crop and normalisation.
        cache: the folder of prepared crops; may be shared between sites and processes.
        jobs: cases at a time.
        progress: called with (done, total) in the caller's thread.

    Returns:
        Entries in the reading's order, whatever `jobs` is.

    Raises:
        DatasetError: not one case could be prepared.
        StorageError: the cache cannot be written.
    """
    book = DigestBook(cache / "digests.json")

    def one(raw: RawCase) -> tuple[Entry, bool] | Rejection:
        try:
            key = case_key(raw, settings, book)
            reused = load(cache, key, verify=True) is not None
            if not reused:
                store(cache, key, prepare(raw, settings))
        except CaseError as error:
            return Rejection.of(error, case=raw.case, patient=raw.patient)
        entry = Entry(
            raw.case, raw.patient, raw.centre, raw.scanner, raw.label, raw.afp, raw.given_split, key
        )  # fmt: skip
        return entry, reused

    results: list[tuple[Entry, bool] | Rejection] = []
    total = len(reading.cases)
    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="prepare")
    try:
        with one_thread():
            for done, result in enumerate(pool.map(one, reading.cases), start=1):
                results.append(result)
                if progress is not None:
                    progress(done, total)
    finally:
        # After an error or an interrupt, what has not begun does not begin.
        pool.shutdown(wait=True, cancel_futures=True)
    book.save()
    found = [result for result in results if not isinstance(result, Rejection)]
    rejections = (*reading.rejections, *(result for result in results if isinstance(result, Rejection)))
    if not found:
        raise nothing_left(rejections)
    return Preparation(tuple(entry for entry, _ in found), rejections, sum(reused for _, reused in found))


def nothing_left(rejections: Sequence[Rejection], where: str | None = None) -> DatasetError:
    """The error of a data set of which nothing is left, with the first reason as an example."""
    if not rejections:
        return DatasetError(
            "there is no case in this data set", where=where, remedy="Check data.path and data.source"
        )
    first = rejections[0]
    return DatasetError(
        f"none of its {len(rejections)} cases can be used; the first, {first.case}, because {first.reason}",
        where=where,
        remedy=first.remedy,
    )


def stack(raws: Sequence[RawCase], prepared: Sequence[PreparedCase]) -> CaseSet:
    """Cases that were prepared in memory, as training and prediction take them.

    Args:
        raws: who they are.
        prepared: their crops, in the same order; at least one.
    """
    return CaseSet(
        case=tuple(raw.case for raw in raws),
        patient=tuple(raw.patient for raw in raws),
        volumes_npdhw=np.stack([p.volumes_pdhw for p in prepared]),
        present_np=np.stack([p.present_p for p in prepared]),
        lesion_ndhw=np.stack([p.lesion_dhw for p in prepared]),
        label_n=np.array([raw.label for raw in raws], dtype=np.int8),
        afp_n=np.array([raw.afp for raw in raws], dtype=np.float32),
    )
