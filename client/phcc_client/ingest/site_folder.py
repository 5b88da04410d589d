"""A site's folder on disk: where everything stands, written whole or not at all, names from pseudonyms only."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from phcc_client.imaging.tables import AFP_COLUMN
from phcc_client.ingest.record import PatientRecord, Stage
from phcc_client.ingest.settings import INGEST_VERSION, IngestSettings
from phcc_model.config import PHASES
from phcc_model.errors import DatasetError, StorageError
from phcc_model.storage import storage_error, write_atomically

RECORDS, IMAGES, CONTACT = "records", "images", "contact"
TABLE, ABOUT = "cases.csv", "ingest.json"
FORMAT = "phcc-site/1"
_PSEUDONYM = re.compile(r"P-[0-9a-f]{16}")


class SiteFolder:
    """The folder that an ingest writes and training reads.

    Args:
        folder: ``SITE``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private = folder.with_name(folder.name + ".private")
        """Beside it: the key, the table of names, what must never travel with the images."""

    def prepare(self, source: Path) -> None:
        """Make the folders, and make sure that nothing else is overwritten.

        Raises:
            DatasetError: the folder holds something else, is a link, or lies in the source or around it.
            StorageError: it cannot be made.
        """
        here, there = self.folder.resolve(), source.resolve()
        if here == there or here.is_relative_to(there) or there.is_relative_to(here):
            raise DatasetError(
                "source and site lie within one another",
                where=f"{source}, {self.folder}",
                remedy="Choose a folder for the site outside the source",
            )
        for place in (self.folder, self.private, *(self.folder / n for n in (RECORDS, IMAGES, CONTACT))):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise DatasetError(
                    "is a link or a file, not a folder", where=str(place), remedy="Choose another folder"
                )
        if self._holds_something() and not (self.folder / ABOUT).exists():
            raise DatasetError(
                "holds something else than an ingested site",
                where=str(self.folder),
                remedy="Choose a new or empty folder for --into",
            )
        try:
            self.private.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.private.chmod(0o700)
            for name in (RECORDS, IMAGES, CONTACT):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def _holds_something(self) -> bool:
        """Whether anything but our own empty folders is there (a run that was stopped early leaves those)."""
        if not self.folder.exists():
            return False
        ours = {self.folder / name for name in (RECORDS, IMAGES, CONTACT)}
        return any(entry not in ours or any(entry.iterdir()) for entry in self.folder.iterdir())

    def write_about(self, settings: IngestSettings) -> None:
        """Say what made the folder.

        Raises:
            StorageError: it cannot be written.
        """
        about = {"format": FORMAT, "version": INGEST_VERSION, "settings": settings.model_dump(mode="json")}
        self.write(ABOUT, json.dumps(about, indent=1, sort_keys=True) + "\n")

    def settings(self) -> IngestSettings:
        """The settings that made the folder.

        Raises:
            DatasetError: this is no ingested site.
        """
        file = self.folder / ABOUT
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            return IngestSettings.model_validate(about["settings"])
        except FileNotFoundError as error:
            raise DatasetError(
                "is no ingested site",
                where=str(self.folder),
                remedy="Run phcc-client ingest SOURCE --into it",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                "is damaged", where=str(file), remedy="Run phcc-client ingest again"
            ) from error

    def write(self, relative: str, content: str | bytes) -> None:
        """Write a file of the site, unless it is there with this very content.

        Raises:
            StorageError: the disk is full or not writable; what was there is still there.
        """
        path = self.folder / relative
        data = content.encode() if isinstance(content, str) else content
        try:
            if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
                return
        except OSError as error:
            raise storage_error(path, error) from error
        write_atomically(path, data)

    def write_record(self, record: PatientRecord) -> None:
        """Write down what became of a patient.

        Raises:
            StorageError: it cannot be written.
        """
        self.write(f"{RECORDS}/{record.patient}.json", record.model_dump_json(indent=1) + "\n")

    def records(self) -> tuple[PatientRecord, ...]:
        """All patients, by pseudonym.

        Raises:
            DatasetError: a record is damaged.
        """
        return tuple(read_record(file) for file in self._record_files())

    def _record_files(self) -> Iterator[Path]:
        folder = self.folder / RECORDS
        if folder.is_dir():
            yield from sorted(folder.glob("P-*.json"))

    def tidy(self, patient: str, keep: Iterable[str]) -> None:
        """Remove what an earlier ingest wrote for a patient and this one did not.

        Args:
            patient: the pseudonym.
            keep: files relative to the site's folder.

        Raises:
            StorageError: one cannot be removed.
        """
        kept = {self.folder / name for name in keep}
        try:
            for file in sorted((self.folder / IMAGES / patient).glob("*")):
                if file not in kept:
                    file.unlink()
            thumbnail = self.folder / CONTACT / f"{patient}.png"
            if thumbnail not in kept:
                thumbnail.unlink(missing_ok=True)
            images = self.folder / IMAGES / patient
            if images.is_dir() and not any(images.iterdir()):
                images.rmdir()
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def forget_others(self, patients: Iterable[str]) -> tuple[str, ...]:
        """Remove patients who are no longer in the source, and what an interrupted run left behind.

        Args:
            patients: the pseudonyms that stay.

        Returns:
            The pseudonyms that were removed.

        Raises:
            StorageError: something cannot be removed.
        """
        stay = set(patients)
        there = {file.stem for name in (RECORDS, CONTACT) for file in (self.folder / name).glob("P-*.*")}
        there |= {folder.name for folder in (self.folder / IMAGES).glob("P-*")}
        gone = tuple(sorted(name for name in there - stay if _PSEUDONYM.fullmatch(name)))
        try:
            for patient in gone:
                (self.folder / RECORDS / f"{patient}.json").unlink(missing_ok=True)
                (self.folder / CONTACT / f"{patient}.png").unlink(missing_ok=True)
                shutil.rmtree(self.folder / IMAGES / patient, ignore_errors=True)
            for left in self._leftovers():
                left.unlink()
        except OSError as error:
            raise storage_error(self.folder, error) from error
        return gone

    def _leftovers(self) -> list[Path]:
        """Half-written files of runs that were killed; hidden files of the hospital's own are not touched."""
        ours = [f".{name}.*" for name in (TABLE, ABOUT, "check.html", "check.json")]
        found = [file for pattern in (*ours, ".contact-sheet-*") for file in self.folder.glob(pattern)]
        for name in (RECORDS, IMAGES, CONTACT):
            found += (self.folder / name).rglob(".*")
        return sorted(file for file in found if file.is_file())

    def write_table(self, records: Sequence[PatientRecord], label: str) -> None:
        """Write ``cases.csv``: what training reads, one row a lesion of every usable patient.

        Raises:
            StorageError: it cannot be written.
        """
        phases = [p for p in PHASES if any(f.phase == p for r in records for f in r.phases)]
        fitted = ["fitted"] if any(record.fitted for record in records) else []
        columns = ["case", "patient", "centre", label, AFP_COLUMN, "lesion_phase", "mask", *fitted, *phases]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        for record in records:
            if not usable(record):
                continue
            files: dict[str, str] = {phase.phase: phase.file for phase in record.phases}
            for lesion in record.lesions:
                table.writerow(
                    {
                        "case": lesion.case,
                        "patient": record.patient,
                        "centre": record.centre or "",
                        label: "" if record.label < 0 else record.label,
                        AFP_COLUMN: "" if record.afp_ng_ml is None else f"{record.afp_ng_ml:g}",
                        "lesion_phase": lesion.drawn_on,
                        "mask": "" if record.fitted else lesion.mask,  # all of a crop is lesion
                        **({"fitted": int(record.fitted)} if fitted else {}),
                        **files,
                    }
                )
        self.write(TABLE, text.getvalue())


def usable(record: PatientRecord) -> bool:
    """Whether a patient is among those that training may use."""
    return record.reached in (Stage.USABLE, Stage.USED)


def record_of(folder: Path, patient: str) -> PatientRecord | None:
    """What ingest wrote of a patient, where the folder is an ingested site.

    Raises:
        DatasetError: the record is damaged.
    """
    if not (folder / ABOUT).is_file() or Path(patient).name != patient:
        return None
    file = folder / RECORDS / f"{patient}.json"
    return read_record(file) if file.is_file() else None


def read_record(file: Path) -> PatientRecord:
    """One patient's record.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return PatientRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror})", where=str(file)) from error
    except (ValidationError, ValueError) as error:
        raise DatasetError(
            "is damaged", where=str(file), remedy="Run phcc-client ingest again: it makes the record anew"
        ) from error
