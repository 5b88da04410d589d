"""The second phantom's patients for one run: drawn from a seed of their own, prepared as the run's were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from phcc_client.imaging.case import Rejection
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.readers import read_cases
from phcc_client.preparing import tell_of_damage, write_prepared
from phcc_client.site import Site, Split
from phcc_model.config import PhantomSettings, StudyConfig
from phcc_model.seeds import derive_seed
from phcc_simulation.phantom.second import SECOND_CENTRES
from phcc_simulation.phantom.write import write_phantom

SITE = "judge"
"""The one site folder of them all."""

Progress = Callable[[str, int, int], None]


def judge_settings(study: StudyConfig, patients: int) -> PhantomSettings:
    """The second phantom for a run: the run's disease, other scanners, and a seed of its own.

    Args:
        study: as it was run.
        patients: of all scanners together, dealt evenly.
    """
    shared = len(SECOND_CENTRES)
    external = patients // (shared + 1)
    return study.data.phantom.model_copy(
        update={
            "scanners": "second",
            "training_centres": shared,
            "patients": patients - external,
            "external_patients": external,
            "seed": derive_seed(study.seed, "judge", study.data.phantom.seed),
        }
    )


class JudgePatients:
    """The judging patients, prepared once in each way that an arm asks for.

    Args:
        out: where they lie.
        whole: the study as it was run.
        jobs: files worked on at a time.
        progress: called with (what, done, total).

    Attributes:
        written: the second phantom.
        set_aside: cases that could not be prepared as the study itself asks, with their reasons.
    """

    def __init__(self, out: Path, whole: StudyConfig, patients: int, jobs: int, progress: Progress) -> None:
        self.out, self.whole, self.jobs, self.progress = out, whole, jobs, progress
        self.set_aside: tuple[Rejection, ...] = ()
        told = partial(progress, "writing the second phantom")
        self.written = write_phantom(out / "data", judge_settings(whole, patients), jobs=jobs, progress=told)
        self._sites: dict[str, Site] = {}

    def prepared_for(self, study: StudyConfig) -> Site:
        """All of them as test patients of one site.

        Args:
            study: what an arm runs.

        Raises:
            DatasetError: none can be prepared so.
            StorageError: the disk is full or not writable.
        """
        way = study.data.model_dump_json()
        if way not in self._sites:
            self._sites[way] = self._prepared(study)
        return self._sites[way]

    def _prepared(self, study: StudyConfig) -> Site:
        cache = self.out / "cache"
        told = partial(self.progress, "preparing cases")
        reading = read_cases(study.data, self.out / "data")
        found = prepare_all(reading, study.data, cache, jobs=self.jobs, progress=told)
        tell_of_damage(found)
        if study.data == self.whole.data:  # an arm of a single phase lacks those without it, as in the run
            self.set_aside = found.rejections
        places: dict[str, Split] = {entry.patient: "test" for entry in found.entries}
        folder = self.out / "sites" / SITE
        return write_prepared(
            folder, SITE, study, found.entries, places, cache, found.rejections, whole=self.whole
        )
