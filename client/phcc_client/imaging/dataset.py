"""A whole data set prepared: side by side, from the cache where possible, no bad case in the others' way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phcc_client.imaging.cache import case_key, clear_up, entry_path, load, store
from phcc_client.imaging.case import GivenSplit, PreparedCase, RawCase, Reading, Rejection
from phcc_client.imaging.digest_book import DigestBook, changed_meanwhile
from phcc_client.imaging.facts import Facts, PhaseFacts
from phcc_client.imaging.itk import one_thread
from phcc_client.imaging.measure import enhancement_in, spacing_of
from phcc_client.imaging.preprocess import prepare
from phcc_model.cases import CaseSet
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError, DatasetError, PhccError, StorageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """One prepared case: who it is, the key of its crop in the cache, and what is known of its images."""

    case: str
    patient: str
    centre: str | None
    scanner: str | None
    label: int
    afp: float
    given_split: GivenSplit | None
    key: str
    facts: Facts = ()


@dataclass(frozen=True)
class Preparation:
    """What came of a reading.

    Attributes:
        entries: usable cases, in the reading's order.
        rejections: those set aside, by the reader first, then here.
        reused: how many crops were in the cache already.
        damaged: cases whose crop in the cache was damaged and was made again.
    """

    entries: tuple[Entry, ...]
    rejections: tuple[Rejection, ...]
    reused: int
    damaged: tuple[str, ...] = ()


def prepare_all(
    reading: Reading,
    settings: DataSettings,
    cache: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Preparation:
    """Prepare every case of a reading, or find it in the cache.

    What is kept of a case while others are worked on is its entry, never its voxels. One that fails in a way that
    nobody foresaw is set aside like any other, with what happened. Killed and begun again, it goes on with the
    cases that are not in the cache; what a killed process left half written is removed first.

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
    clear_up(cache)
    book = DigestBook(cache / "digests.json")
    results: list[_Found | Rejection] = []
    total = len(reading.cases)
    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="prepare")
    try:
        with one_thread():
            work = pool.map(lambda raw: _one(raw, settings, cache, book), reading.cases)
            for done, result in enumerate(work, start=1):
                results.append(result)
                if progress is not None:
                    progress(done, total)
    except BaseException:
        # What has not begun does not begin; what was read of the sources is not read again next time.
        pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(StorageError):
            book.save()
        raise
    pool.shutdown()
    book.save()
    found = [result for result in results if not isinstance(result, Rejection)]
    rejections = (*reading.rejections, *(result for result in results if isinstance(result, Rejection)))
    if not found:
        raise nothing_left(rejections)
    return Preparation(
        entries=tuple(one.entry for one in found),
        rejections=rejections,
        reused=sum(one.reused for one in found),
        damaged=tuple(one.entry.case for one in found if one.damaged),
    )


@dataclass(frozen=True)
class _Found:
    entry: Entry
    reused: bool
    damaged: bool


def _one(raw: RawCase, settings: DataSettings, cache: Path, book: DigestBook) -> _Found | Rejection:
    try:
        key = case_key(raw, settings, book)
        there = entry_path(cache, key).exists()
        kept = load(cache, key)
        prepared = kept or prepare(raw, settings)
        if kept is None:
            if case_key(raw, settings, book) != key:
                raise changed_meanwhile(f"case {raw.case}")
            store(cache, key, prepared)
        facts = _facts(raw, prepared, settings)
    except CaseError as error:
        return Rejection.of(error, case=raw.case, patient=raw.patient)
    except PhccError:
        raise
    except Exception as error:  # noqa: BLE001  one case never stops the rest, and never vanishes either
        what = f"failed in a way that nobody foresaw ({type(error).__name__}: {' '.join(str(error).split())})"
        unforeseen = CaseError(what, where=f"case {raw.case}", remedy="Leave the case out, and report this")
        return Rejection.of(unforeseen, case=raw.case, patient=raw.patient)
    entry = Entry(
        raw.case, raw.patient, raw.centre, raw.scanner, raw.label, raw.afp, raw.given_split, key, facts
    )  # fmt: skip
    return _Found(entry, kept is not None, damaged=there and kept is None)


def _facts(raw: RawCase, prepared: PreparedCase, settings: DataSettings) -> Facts:
    bright = enhancement_in(prepared, settings)
    return tuple(
        PhaseFacts(phase=phase, spacing_mm_dhw=spacing_of(raw.images[phase]), enhancement=bright.get(phase))
        for phase in settings.phases
        if phase in raw.images
    )


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
