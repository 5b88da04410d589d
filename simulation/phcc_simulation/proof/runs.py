"""The finished seeds of one study, read from their folders; folders that are not of one study are refused.

A seed's arms may lie in several folders (``seed-3``, ``seed-3-fusion``): run on several machines, or one after
another. What they say is joined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from phcc_model.config import EvaluationSettings, StudyConfig
from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error
from phcc_model.study_file import load_study
from phcc_server.report.again import read_summary
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.page import SUMMARY_FILE
from phcc_server.report.schema import INTERNAL, Summary
from phcc_server.report.scores import SCORES_FILE, read_scores
from phcc_simulation.finished import STUDY_FILE

SEED_FOLDERS = "seed-*"


@dataclass(frozen=True)
class SeedRun:
    """One finished seed of the study.

    Attributes:
        folder: where it lies; the first where its arms lie in several.
        parts: all of these.
        study: as it was run.
        summary: its figures.
        scored: every case of every arm, the training centres' test parts as ``internal``.
        scores_digest: SHA-256 of its ``scores.csv``; of several, of their digests one after another.
    """

    folder: Path
    study: StudyConfig
    summary: Summary
    scored: tuple[ScoredCase, ...]
    scores_digest: str
    parts: tuple[Path, ...]

    @property
    def seed(self) -> int:
        """Of its first weights and, for a phantom, of its patients."""
        return self.study.seed

    @property
    def arms(self) -> tuple[str, ...]:
        """Those with scores, in the order of the run."""
        return tuple(self.summary.arms)

    def of(self, arm: str, split: str) -> dict[tuple[str, str], ScoredCase]:
        """An arm's cases in a split that have a label and a score, by centre and case."""
        return self._parts.get((arm, split), {})

    @cached_property
    def _parts(self) -> dict[tuple[str, str], dict[tuple[str, str], ScoredCase]]:
        parts: dict[tuple[str, str], dict[tuple[str, str], ScoredCase]] = {}
        # From here on the order in which the cases were written plays no part.
        for row in sorted(self.scored, key=lambda row: (row.centre, row.patient, row.case)):
            if row.scored:
                parts.setdefault((row.arm, row.split), {})[row.centre, row.case] = row
        return parts


def read_runs(out: Path) -> tuple[list[SeedRun], list[str]]:
    """The finished runs below a folder, by seed, and the names of those that are not finished.

    Args:
        out: holds a folder ``seed-<k>`` for each seed, or several whose names begin so, with other arms each.

    Raises:
        StorageError: there is no finished run, or a file of one is damaged.
        ConfigError: two folders hold different studies, or the same arm of one seed.
    """
    runs, unfinished = [], []
    for folder in sorted(out.glob(SEED_FOLDERS)):
        if (folder / SUMMARY_FILE).is_file():
            runs.append(read_run(folder))
        elif folder.is_dir():
            unfinished.append(folder.name)
    if not runs:
        raise StorageError(
            "no finished seed lies in this folder",
            where=str(out),
            remedy="Run phcc-simulate seeds STUDY --out with this folder first",
        )
    runs.sort(key=lambda run: (run.seed, run.folder.name))
    _refuse_mixed(runs)
    return [joined(list(parts)) for _, parts in groupby(runs, key=lambda run: run.seed)], unfinished


def read_run(folder: Path) -> SeedRun:
    """One finished run.

    Raises:
        StorageError: it is not finished, or a file of it is damaged.
        ConfigError: its study cannot be read.
    """
    summary = read_summary(folder)
    study = load_study(folder / STUDY_FILE)
    scored = read_scores(folder / SCORES_FILE)
    if {row.arm for row in scored} != set(summary.arms):
        raise StorageError(
            "summary.json and scores.csv are not of the same arms",
            where=str(folder),
            remedy="Run this seed again in the same folder",
        )
    rows = (replace(row, split=INTERNAL) if row.split == "test" else row for row in scored)
    return SeedRun(folder, study, summary, tuple(rows), digest_of(folder / SCORES_FILE), (folder,))


def digest_of(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise storage_error(path, error) from error


def without_seed(study: StudyConfig) -> StudyConfig:
    """What all seeds of a study have in common: seeds, name, and what is compared are taken out."""
    data = study.data.model_copy(
        update={"path": None, "phantom": study.data.phantom.model_copy(update={"seed": 0})}
    )
    return study.model_copy(
        update={"seed": 0, "name": "study", "data": data, "evaluation": EvaluationSettings()}
    )


def _refuse_mixed(runs: Sequence[SeedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if without_seed(run.study) != without_seed(first.study):
            key, here, there = _difference(
                without_seed(first.study).model_dump(mode="json"),
                without_seed(run.study).model_dump(mode="json"),
            )
            raise ConfigError(
                f"{key} is {there} here, but {here} in {first.folder.name}: not two seeds of one study",
                where=str(run.folder),
                remedy="Combine only runs that differ in seed, data.phantom.seed, name or evaluation",
            )


def joined(parts: Sequence[SeedRun]) -> SeedRun:
    """One seed, whose arms were run in one folder or in several.

    Raises:
        ConfigError: the folders hold other patients or splits, or the same arm.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for before, part in enumerate(parts[1:], 1):
        _refuse_unlike_parts(parts[:before], part)
    rounds = tuple(record for part in parts for record in part.summary.rounds)
    arms = {arm: figures for part in parts for arm, figures in part.summary.arms.items()}
    digests = "".join(part.scores_digest for part in parts)
    return replace(
        first,
        summary=first.summary.model_copy(update={"arms": arms, "rounds": rounds}),
        scored=tuple(row for part in parts for row in part.scored),
        scores_digest=hashlib.sha256(digests.encode()).hexdigest(),
        parts=tuple(folder for part in parts for folder in part.parts),
    )


def _refuse_unlike_parts(before: Sequence[SeedRun], part: SeedRun) -> None:
    """Two folders of one seed are of the same patients, in the same splits, and share no arm."""
    first = before[0]
    for digest, what in (("phantom", "other patients"), ("splits", "other splits")):
        here, there = (run.summary.digests.get(digest) for run in (part, first))
        if here != there:
            raise ConfigError(
                f"holds {what} than {first.folder.name}, though both are of seed {part.seed}",
                where=str(part.folder),
                remedy="Run the arms of one of the two again, on the same data and with the same version",
            )
    for run in before:
        if both := [arm for arm in part.arms if arm in run.arms]:
            raise ConfigError(
                f"has the arm {both[0]} of seed {part.seed}, as {run.folder.name} has: it would count twice",
                where=str(part.folder),
                remedy="Remove one of the two folders",
            )


def _difference(a: Mapping[str, Any], b: Mapping[str, Any], above: str = "") -> tuple[str, Any, Any]:
    """The first key in which two different studies differ, and its value in each."""
    here, there = ({key: one.get(key, "unsaid") for key in {**a, **b}} for one in (a, b))
    key = next(key for key in here if here[key] != there[key])
    if isinstance(here[key], dict) and isinstance(there[key], dict):
        return _difference(here[key], there[key], f"{above}{key}.")
    return f"{above}{key}", here[key], there[key]
