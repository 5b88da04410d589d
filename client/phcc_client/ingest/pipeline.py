"""The whole of an ingest: who is in the source, who is finished already, the rest made side by side, the end.

Whatever moment it is stopped at, the next start goes on: a patient is written whole, then marked as finished;
the table, and the mark that all is done, come last. The outcome is the same as without the stop, byte by byte.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from phcc_client.imaging.itk import one_thread
from phcc_client.ingest.candidate import Candidate
from phcc_client.ingest.choice import meant_studies
from phcc_client.ingest.duplicates import duplicate_findings, stopped
from phcc_client.ingest.patient import PatientMaker
from phcc_client.ingest.patient_files import Made
from phcc_client.ingest.phase_rules import recognise_series
from phcc_client.ingest.phases_file import PhasesFile, Unsure, load_phases, unsure_of
from phcc_client.ingest.progress_book import ProgressBook, digest_of, listing, stamp
from phcc_client.ingest.pseudonyms import KEY_FILE, SiteKey
from phcc_client.ingest.record import Finding, PatientRecord, Stage
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import SiteFolder, read_record
from phcc_client.ingest.sources import Found, Sources, find_patients
from phcc_client.ingest.spreadsheet import read_patients
from phcc_model.contract.keys import package_version
from phcc_model.errors import DatasetError, PhccError, StorageError

log = logging.getLogger("phcc_client.ingest")

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


_TEXT_IN_VOXELS = Finding(
    code="text-in-voxels",
    text="its voxels hold text of its headers: the export is damaged",
    remedy="Export the patient again",
    stops=Stage.USABLE,
)


@dataclass(frozen=True)
class Request:
    """What a person asked for.

    Attributes:
        source: the folder as it was exported.
        site: the folder to make.
        settings: choices that alter what is written.
        patients: the table, if there is one.
        phases: the hospital's own rules, if they lie elsewhere than beside the site.
        jobs: patients at a time.
    """

    source: Path
    site: Path
    settings: IngestSettings
    patients: Path | None = None
    phases: Path | None = None
    jobs: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        records: every patient of the source.
        candidates: who they are, in the order of `records`; identifies.
        found: what the source holds; None where nothing had changed.
        made: how many were made now; the others were finished before.
        gone: pseudonyms of patients who are no longer in the source, removed.
        unchanged: nothing had changed since the last ingest, and nothing was done.
    """

    records: tuple[PatientRecord, ...]
    candidates: tuple[Candidate, ...] = ()
    found: Found | None = None
    made: int = 0
    gone: tuple[str, ...] = ()
    unchanged: bool = False


class Ingest:
    """One ingest.

    Args:
        request: what was asked for.
        progress: told how far it is.
    """

    def __init__(self, request: Request, progress: Progress) -> None:
        self._request = request
        self._progress = progress
        self.site = SiteFolder(request.site)
        self.book = ProgressBook(self.site.private, self.site.folder)

    @property
    def rules_path(self) -> Path:
        """Where the hospital's own rules for series are read from."""
        return self._request.phases or self.site.private / "phases.yaml"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the site's folder: a second ingest into it is refused, not queued.

        Raises:
            DatasetError: another ingest is at it.
        """
        with (self.site.private / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DatasetError(
                    "another ingest into this site is running",
                    where=str(self.site.folder),
                    remedy="Wait until it has ended",
                ) from error
            yield

    def inputs(self) -> str:
        """A fingerprint of everything that an ingest is made from, and of the site as it stands.

        Raises:
            DatasetError: the table of patients cannot be read.
            StorageError: a folder cannot be listed.
        """
        request = self._request
        tables = [self.rules_path]
        if request.patients is not None:  # its masks lie beside it, not in the source
            tables += [request.patients, *read_patients(request.patients, request.settings.label).masks]
        key = SiteKey.open_or_make(self.site.private)
        return digest_of(
            {
                "settings": request.settings.digest,
                "package": package_version(),
                "key": key.name,
                "tables": {str(path): stamp(path) for path in tables},
                "source": list(listing(request.source)),
                "site": list(listing(self.site.folder)),
            }
        )

    def run(self) -> Outcome:
        """Make the site.

        Raises:
            DatasetError: source, table or site cannot be used as a whole.
            StorageError: the disk is full or not writable.
        """
        request, site = self._request, self.site
        self._key_is_there()
        if self.book.whole() == self.inputs():
            return Outcome(site.records(), unchanged=True)
        self.book.unfinish()
        key = SiteKey.open_or_make(site.private)
        rules = self.rules()
        sources = Sources(request.source, request.patients, site.private, request.settings.label)
        found = find_patients(sources, self._progress, jobs=request.jobs)
        named = _one_each([(key.patient(c.patient), c) for c in found.candidates])
        site.write_about(request.settings)
        maker = PatientMaker(site, request.settings, rules)
        records, made = self._make_all(maker, named, key, rules)
        gone = site.forget_others(named)
        self.book.forget(gone)
        self._write_table(records)
        return Outcome(tuple(records), tuple(named.values()), found, made, gone)

    def _write_table(self, records: Sequence[PatientRecord]) -> None:
        twice = stopped(duplicate_findings(records))
        rows = [record for record in records if record.patient not in twice]
        self.site.write_table(rows, self._request.settings.label)

    def rules(self) -> PhasesFile | None:
        """The hospital's own rules for series, if it has any.

        Raises:
            ConfigError: the file cannot be read as rules.
        """
        if self._request.phases is None and not self.rules_path.exists():
            return None
        return load_phases(self.rules_path)

    def _key_is_there(self) -> None:
        """A site whose key is lost would give every patient another name, and another side of the split.

        Raises:
            DatasetError: the site holds patients, and its key is gone.
        """
        if not (self.site.private / KEY_FILE).exists() and self.site.records():
            raise DatasetError(
                "the key of its pseudonyms is gone",
                where=str(self.site.private / KEY_FILE),
                remedy="Bring it back from a backup; or ingest into a new folder, as a new site",
            )

    def set_aside(self, outcome: Outcome, patients: Collection[str]) -> Outcome:
        """Take patients out whose voxels hold text of their headers, as damaged exports have it.

        Raises:
            StorageError: the site cannot be written.
        """
        records = []
        for record in outcome.records:
            if record.patient in patients:
                record = record.model_copy(
                    update={"findings": (*record.findings, _TEXT_IN_VOXELS), "reached": Stage.LABEL}
                    | {"phases": (), "lesions": (), "signature": "", "thumbnails": ""}
                )
                self.site.tidy(record.patient, ())
                self.site.write_record(record)
            records.append(record)
        self.book.forget(patients)
        self._write_table(records)
        return replace(outcome, records=tuple(records))

    def identity(self, outcome: Outcome) -> Iterator[tuple[str, str, str]]:
        """(patient, attribute, value) of everything that identifies, as it was read."""
        for candidate in outcome.candidates:
            yield candidate.patient, "PatientID", candidate.patient
            for attribute, values in candidate.identity.items():
                for value in sorted(values):
                    yield candidate.patient, attribute, value

    def unsure(self, outcome: Outcome) -> list[Unsure]:
        """The series that a person has to look at."""
        rules = self.rules()
        return [
            one
            for candidate in outcome.candidates
            for study in meant_studies(candidate.series, candidate.study)
            for one in unsure_of(
                candidate.patient, study, recognise_series(study, rules, patient=candidate.patient)
            )
        ]

    def finish(self) -> None:
        """Mark the site as whole, once all that belongs to it is written.

        Raises:
            StorageError: it cannot be written.
        """
        self.book.finish_whole(self.inputs())

    def _make_all(
        self,
        maker: PatientMaker,
        named: Mapping[str, Candidate],
        key: SiteKey,
        rules: PhasesFile | None,
    ) -> tuple[list[PatientRecord], int]:
        common = [self._request.settings.digest, package_version(), key.name, repr(rules)]

        def one(item: tuple[str, Candidate]) -> tuple[PatientRecord, bool]:
            pseudonym, candidate = item
            fingerprint = digest_of([*common, _content(candidate)])
            file = self.site.folder / "records" / f"{pseudonym}.json"
            if self.book.is_finished(pseudonym, fingerprint):
                return read_record(file), False
            made = _guarded(maker, candidate, pseudonym)
            outputs = [*made.files, f"records/{pseudonym}.json"]
            self.book.finish(pseudonym, fingerprint, outputs)
            return made.record, True

        records, count, total = [], 0, len(named)
        self._progress("patients", 0, total)
        pool = ThreadPoolExecutor(self._request.jobs, thread_name_prefix="ingest")
        try:
            with one_thread():
                for done, (record, new) in enumerate(_in_order(pool, one, named, self._request.jobs), 1):
                    records.append(record)
                    count += new
                    self._progress("patients", done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return records, count


def _in_order(
    pool: ThreadPoolExecutor,
    one: Callable[[tuple[str, Candidate]], tuple[PatientRecord, bool]],
    named: Mapping[str, Candidate],
    jobs: int,
) -> Iterator[tuple[PatientRecord, bool]]:
    """Results in the order of the patients, and never more than twice `jobs` under way."""
    waiting = iter(named.items())
    under_way = [pool.submit(one, item) for item in islice(waiting, 2 * jobs)]
    while under_way:
        yield under_way.pop(0).result()
        under_way += [pool.submit(one, item) for item in islice(waiting, 1)]


def _one_each(named: Sequence[tuple[str, Candidate]]) -> dict[str, Candidate]:
    """Patients by pseudonym; two who share a name in all but blanks are one, and told so."""
    found: dict[str, Candidate] = {}
    for pseudonym, candidate in sorted(named, key=lambda pair: (pair[0], pair[1].patient)):
        if pseudonym not in found:
            found[pseudonym] = candidate
            continue
        twice = Finding(
            code="same-id-twice",
            text="two patients of the source have the same id in all but blanks",
            remedy="Give each its own id, or export them as one patient",
            stops=Stage.READABLE,
        )
        found[pseudonym] = replace(found[pseudonym], findings=(*found[pseudonym].findings, twice))
    return found


def _content(candidate: Candidate) -> list[object]:
    """All that a patient is made from, in plain values."""
    files = [(str(path), stamp(path)) for path in candidate.files]
    told = replace(candidate, series=(), named={}, identity={}, files=())
    return [repr(told), [(s.uid, s.defect, s.remarks, repr(s.facts)) for s in candidate.series], files]


def _guarded(maker: PatientMaker, candidate: Candidate, pseudonym: str) -> Made:
    """Make a patient; a fault of the program's own costs this patient, not the site.

    Raises:
        StorageError: the disk is full or not writable.
    """
    try:
        return maker.make(candidate, pseudonym)
    except StorageError:
        raise
    except Exception as error:
        known = isinstance(error, PhccError)
        log.exception("%s could not be made", candidate.patient)
        finding = Finding(
            code="cannot-be-made" if known else "program-fault",
            text=f"it could not be made ({type(error).__name__})",
            remedy="See SITE.private/ingest.log, and report it if it is a fault of the program",
            stops=Stage.READABLE,
        )
        plain = Candidate(
            candidate.patient,
            label=candidate.label,
            centre=candidate.centre,
            findings=(*candidate.findings, finding),
        )
        return maker.make(plain, pseudonym)
