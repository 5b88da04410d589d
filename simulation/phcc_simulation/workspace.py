"""The folder of a run, made ready: data on disk, crops in the cache, one site folder per virtual centre.

Everything here is idempotent: what is there already, and fits the study, is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from phcc_client.found import with_records
from phcc_client.imaging.case import Reading, Rejection
from phcc_client.imaging.dataset import Preparation, prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.preparing import split_entries, tell_of_damage, write_prepared
from phcc_client.site import Split
from phcc_client.splits import Splits, patient_labels, read_splits, write_splits
from phcc_model.config import DataSettings, StudyConfig
from phcc_model.errors import DatasetError, SplitError
from phcc_simulation.partition import PatientRow, assign_centres
from phcc_simulation.phantom.write import write_phantom

POOLED = "pooled"
"""The site folder of all training centres' patients together."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Workspace:
    """Where everything of a run lies.

    Attributes:
        study: as configured.
        out: the run's folder.
        data: the data set's folder or file.
        splits: every patient's centre and side.
        labels: 1, 0 or -1 by patient.
        set_aside: cases that were set aside, with their reasons.
    """

    study: StudyConfig
    out: Path
    data: Path
    splits: Splits
    labels: Mapping[str, int]
    set_aside: tuple[Rejection, ...]

    @property
    def centres(self) -> tuple[str, ...]:
        """The training centres."""
        return self.splits.centres

    def site(self, centre: str) -> Path:
        """The site folder of a centre."""
        return self.out / "sites" / centre


class Preparer:
    """Makes a run's folder ready for a study, and for the variants of it that its arms need.

    Args:
        out: the run's folder.
        jobs: files worked on at a time.
        progress: called with (what, done, total).
    """

    def __init__(self, out: Path, jobs: int, progress: Progress) -> None:
        self.out = out
        self.jobs = jobs
        self.progress = progress

    def prepare(self, study: StudyConfig) -> Workspace:
        """Write the phantom if the study asks for it, read, prepare, deal to centres, split, write site folders.

        Raises:
            PhccError: the data cannot be used, in one line.
        """
        data = self._data(study)
        reading = read_cases(study.data, data)
        preparation = self._prepared(study.data, reading, data)
        splits, labels = self._split(study, preparation)
        self._write_sites(study, study, preparation, splits)
        return Workspace(study, self.out, data, splits, labels, preparation.rejections)

    def variant(self, workspace: Workspace, study: StudyConfig) -> None:
        """Prepare the same patients in another way, for an arm that needs it (a single phase, say)."""
        reading = read_cases(study.data, workspace.data)
        preparation = self._prepared(study.data, reading, workspace.data)
        self._write_sites(study, workspace.study, preparation, workspace.splits)

    def _data(self, study: StudyConfig) -> Path:
        if study.data.path is not None:
            return Path(study.data.path).expanduser().resolve()
        if study.data.source != "phantom":
            raise DatasetError(
                "the study does not say where its data lie",
                where="data.path",
                remedy="Add --set data.path=FOLDER_OR_FILE",
            )
        folder = self.out / "data"
        write_phantom(
            folder,
            study.data.phantom,
            jobs=self.jobs,
            progress=lambda done, total: self.progress("writing the phantom", done, total),
        )
        return folder

    def _prepared(self, settings: DataSettings, reading: Reading, data: Path) -> Preparation:
        preparation = prepare_all(
            reading,
            settings,
            self.out / "cache",
            jobs=self.jobs,
            progress=lambda done, total: self.progress("preparing cases", done, total),
        )
        tell_of_damage(preparation)
        return replace(preparation, entries=tuple(with_records(preparation.entries, data)))

    def _split(self, study: StudyConfig, preparation: Preparation) -> tuple[Splits, dict[str, int]]:
        rows = [PatientRow(e.patient, e.centre, e.scanner, e.label) for e in preparation.entries]
        assignment = assign_centres(rows, study.data.centres, study.seed)
        if POOLED in assignment.values():
            raise SplitError(
                f"{POOLED!r} stands for all training centres together",
                where="data.centres",
                remedy="Give the centre of this name another one in the data",
            )
        splits = split_entries(preparation.entries, assignment, study)
        path = self.out / "splits.json"
        if path.exists():
            before = read_splits(path)
            if before.digest != splits.digest:
                raise SplitError(
                    f"this run's folder holds another split of the patients ({_told_apart(before, splits)})",
                    where=str(path),
                    remedy="Choose another --out, or remove the folder",
                )
        else:
            write_splits(splits, path)
        return splits, patient_labels(rows)

    def _write_sites(
        self, study: StudyConfig, whole: StudyConfig, preparation: Preparation, splits: Splits
    ) -> None:
        split_of: dict[str, Mapping[str, Split]] = {
            centre: splits.site(centre) for centre in (*splits.centres, *splits.external)
        }
        split_of[POOLED] = {p: split for centre in splits.centres for p, split in split_of[centre].items()}
        for name, places in split_of.items():
            write_prepared(
                self.out / "sites" / name,
                name,
                study,
                [entry for entry in preparation.entries if entry.patient in places],
                places,
                self.out / "cache",
                whole=whole,
            )


def _told_apart(before: Splits, now: Splits) -> str:
    """How many patients two splits have, and one who is in one of them alone: often a case was set aside once."""
    names, others = ({place.patient for place in one.places} for one in (before, now))
    alone = f", {min(names ^ others)} in one of them alone" if names != others else ""
    return f"{len(names)} there, {len(others)} now{alone}"
