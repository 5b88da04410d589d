"""Several seeds of one study judged by the second phantom: what they say together, beside the first phantom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_server.report.again import read_summary
from phcc_server.report.schema import EXTERNAL, Part
from phcc_server.report.scores import SCORES_FILE, read_scores
from phcc_simulation.phantom import SECOND_VERSION
from phcc_simulation.proof.claims import FULL
from phcc_simulation.proof.figures import BOOTSTRAP, REPLICATES, Draws, auc_over, delta_over
from phcc_simulation.proof.runs import SeedRun, digest_of, joined
from phcc_simulation.proof.schema import Figure

FORMAT = 1
"""Raised when a key changes its name or meaning."""
FIGURES = "judge.json"


class SeedJudged(Part):
    """One seed: how many patients judged it, and digests by which it is recognised.

    Attributes:
        oracle_auc: of the planted truth on its judging patients.
    """

    seed: int
    folder: str
    patients: int
    positives: int
    oracle_auc: float | None
    digests: dict[str, str]
    scores: str


class ArmJudged(Part):
    """An arm's mean AUC over seeds on the external patients of the first phantom and of the second."""

    arm: str
    first: Figure
    second: Figure


class DifferenceJudged(Part):
    """AUC of arm `a` less that of arm `b`, on the same patients of the same seeds, by either phantom."""

    a: str
    b: str
    first: Figure
    second: Figure


class JudgedSeeds(Part):
    """All seeds of one study before the second phantom.

    Attributes:
        bootstrap: how intervals were made, in words.
        best_possible_auc: by what a score may see; the same for both phantoms.
        left_out: folders of seeds that are not finished.
    """

    format: int = FORMAT
    study: str
    synthetic: bool = True
    phantom_version: str = SECOND_VERSION
    confidence: float
    replicates: int
    bootstrap: str
    seeds: tuple[SeedJudged, ...]
    arms: tuple[ArmJudged, ...]
    differences: tuple[DifferenceJudged, ...]
    best_possible_auc: dict[str, float] = Field({})
    left_out: tuple[str, ...] = ()
    package: str


def read_judged(out: Path, run: SeedRun) -> SeedRun:
    """What the judge wrote of one seed, as a run of which all patients are external.

    Args:
        out: holds a folder for each of the seed's, by the same name.
        run: the seed.

    Raises:
        StorageError: it is not there, or damaged.
        ConfigError: its folders were judged before other patients.
    """
    return joined([_read_part(out / folder.name, run.study) for folder in run.parts])


def _read_part(folder: Path, study: StudyConfig) -> SeedRun:
    scored = tuple(read_scores(folder / SCORES_FILE))
    return SeedRun(folder, study, read_summary(folder), scored, digest_of(folder / SCORES_FILE), (folder,))


def judge_together(
    first: Sequence[SeedRun],
    second: Sequence[SeedRun],
    left_out: Sequence[str] = (),
    *,
    replicates: int = REPLICATES,
) -> JudgedSeeds:
    """Work out every figure over seeds.

    Args:
        first: finished seeds of one study, by seed.
        second: the same seeds as the second phantom judged them, in the same order.
        left_out: folders of seeds that are not finished.
        replicates: of the bootstrap.

    Raises:
        DataError: a case has two labels.
    """
    draws = Draws(replicates, first[0].study.evaluation.confidence)
    arms = tuple(dict.fromkeys(arm for run in second for arm in run.arms))
    best = second[0].summary.best_possible_auc
    return JudgedSeeds(
        study=first[0].study.name,
        confidence=draws.confidence,
        replicates=replicates,
        bootstrap=BOOTSTRAP,
        seeds=tuple(_facts(run) for run in second),
        arms=tuple(
            ArmJudged(
                arm=arm,
                first=auc_over(first, arm, EXTERNAL, draws),
                second=auc_over(second, arm, EXTERNAL, draws),
            )
            for arm in arms
        ),
        differences=tuple(
            DifferenceJudged(
                a=FULL,
                b=arm,
                first=delta_over(first, FULL, arm, EXTERNAL, draws),
                second=delta_over(second, FULL, arm, EXTERNAL, draws),
            )
            for arm in arms
            if arm != FULL and FULL in arms
        ),
        best_possible_auc={name: value for name, value in best.items() if value is not None},
        left_out=tuple(left_out),
        package=keys.package_version(),
    )


def _facts(run: SeedRun) -> SeedJudged:
    whole = next(iter(run.summary.arms.values()))[EXTERNAL]
    reached = (run.summary.data.model_extra or {}).get("oracle_auc")
    oracle = reached.get("all") if isinstance(reached, dict) else None
    return SeedJudged(
        seed=run.seed,
        folder=run.folder.name,
        patients=whole.patients,
        positives=whole.n_pos,
        oracle_auc=oracle if isinstance(oracle, float) else None,
        digests=run.summary.digests,
        scores=run.scores_digest,
    )
