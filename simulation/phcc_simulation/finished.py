"""A run's folder opened again: its study, its splits, and the network of an arm that has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phcc_client.imaging.case import RawCase
from phcc_client.imaging.readers import read_cases
from phcc_client.preparations import open_prepared
from phcc_client.site import Split
from phcc_client.splits import Splits, read_splits
from phcc_model.arms import ArmPlan, plan_arm
from phcc_model.build import build_classifier, load_state
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError, DatasetError, StorageError
from phcc_model.study_file import load_study
from phcc_server.store import RunStore
from phcc_simulation.study_run import CHECKPOINTS

STUDY_FILE, SPLITS_FILE = "study.yaml", "splits.json"


def study_of(run: Path) -> StudyConfig:
    """The study of a run, as it was configured.

    Raises:
        ConfigError: the folder holds no run, or its study cannot be read.
    """
    if not (run / STUDY_FILE).is_file():
        raise ConfigError(
            "this folder holds no run", where=str(run), remedy="Give the --out of a finished run"
        )
    return load_study(run / STUDY_FILE)


def splits_of(run: Path) -> Splits:
    """Which centre and side each of its patients is on.

    Raises:
        StorageError: the run has not come so far.
        SplitError: the file is damaged.
    """
    if not (run / SPLITS_FILE).is_file():
        raise StorageError(
            "this run stopped before its patients were dealt to their sides",
            where=str(run),
            remedy="Start the command that made it once more: it goes on from there",
        )
    return read_splits(run / SPLITS_FILE)


@dataclass(frozen=True)
class RunModel:
    """A finished arm.

    Attributes:
        run: the run's folder.
        study: as it was run.
        plan: the arm's.
        model: with the arm's chosen weights.
    """

    run: Path
    study: StudyConfig
    plan: ArmPlan
    model: Classifier

    @classmethod
    def open(cls, run: Path, arm: str) -> RunModel:
        """Read it.

        Raises:
            ConfigError: the folder holds no run, or the arm has no network.
            StorageError: the run or the arm has not finished, or its checkpoint is damaged.
        """
        study = study_of(run)
        plan = plan_arm(arm, study, splits_of(run).centres)
        if not plan.trained:
            raise ConfigError(
                "this arm trains no network of its own", where=f"--arm {arm}", remedy="Choose another arm"
            )
        model = build_classifier(plan.study)
        load_state(model, RunStore(run / CHECKPOINTS, plan.study.digest).final(arm).arrays)
        return cls(run, study, plan, model.eval())

    def cases(self, centres: Sequence[str], side: Split) -> CaseSet:
        """One side of these centres, at least one of them, in their order.

        Raises:
            DatasetError: a site's folder is damaged.
        """
        return CaseSet.join(
            [
                open_prepared(self.run / "sites" / centre, self.plan.study, centre, self.study).load(side)
                for centre in centres
            ]
        )

    @property
    def data(self) -> Path:
        """Where its data set lies."""
        path = self.study.data.path
        return Path(path) if path else self.run / "data"

    def unseen(self, count: int) -> CaseSet:
        """Patients that no one trained on, spread evenly over the test patients of all centres.

        Raises:
            DatasetError: there is none, or the site's folder is damaged.
        """
        splits = splits_of(self.run)
        cases = self.cases((*splits.centres, *splits.external), "test")
        if not len(cases):
            raise DatasetError(
                "the run has no test patients", where=str(self.run), remedy="Run a study with a test part"
            )
        count = min(count, len(cases))
        return cases.take([i * len(cases) // count for i in range(count)])

    def raw(self) -> Mapping[str, RawCase]:
        """The files of each case, by its name.

        Raises:
            DatasetError: the data are not where the study says, nor in the run's folder.
        """
        reading = read_cases(self.plan.study.data, self.data)
        return {raw.case: raw for raw in reading.cases}
