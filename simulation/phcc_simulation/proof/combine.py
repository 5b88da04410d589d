"""From the finished seeds of a study to every figure over them: a pure function of what their folders hold."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence

from phcc_model.contract import keys
from phcc_server.report.schema import EXTERNAL, INTERNAL, TEST_SPLITS, TRAIN
from phcc_simulation.proof.claims import FULL, claims_of, pretrained_alone, without_pretraining
from phcc_simulation.proof.figures import (
    BOOTSTRAP,
    CROSSED,
    REPLICATES,
    Draws,
    auc_over,
    delta_over,
    shares_patients,
)
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import ArmFigure, Combined, DifferenceFigure, SeedFacts
from phcc_simulation.proof.work import works_of

TEST_OF = {"medmnist": "the validation part that comes with the data; its test part was not read"}
"""What the internal test is, where the data say it themselves."""


def combine(
    runs: Sequence[SeedRun],
    left_out: Sequence[str] = (),
    *,
    replicates: int = REPLICATES,
) -> Combined:
    """Work out every figure over seeds.

    Args:
        runs: finished seeds of one study, by seed.
        left_out: folders of seeds that are not finished.
        replicates: of the bootstrap.

    Raises:
        DataError: a case has two labels.
    """
    first = runs[0]
    facts = tuple(_facts(run) for run in runs)
    drawn = {one.phantom_seed for one in facts}
    same_patients = len(runs) > 1 and drawn in ({None}, {first.study.data.phantom.seed})
    draws = Draws(replicates, first.study.evaluation.confidence, same_patients)
    arms = tuple(dict.fromkeys(arm for run in runs for arm in run.arms))
    areas, differences = [], []
    for arm in arms:
        areas += [
            ArmFigure(arm=arm, split=split, auc=auc_over(runs, arm, split, draws))
            for split in (TRAIN, *TEST_SPLITS)
        ]
    for a, b in _pairs(arms):
        differences += [
            DifferenceFigure(a=a, b=b, split=split, delta=delta_over(runs, a, b, split, draws))
            for split in TEST_SPLITS
        ]
    split = EXTERNAL if any(run.of(arm, EXTERNAL) for run in runs for arm in run.arms) else INTERNAL
    same_test = same_patients and shares_patients(runs, split)
    found = Combined(
        study=first.study.name,
        synthetic=any(run.summary.data.synthetic for run in runs),
        same_patients=len(runs) > 1 and (None in drawn or len(drawn) < len(runs)),
        same_test=same_test,
        test=TEST_OF.get(first.study.data.source, "") if split == INTERNAL else "",
        confidence=draws.confidence,
        replicates=replicates,
        bootstrap=CROSSED if same_test else BOOTSTRAP,
        split=split,
        seeds=facts,
        arms=tuple(areas),
        differences=tuple(differences),
        claims=(),
        works=works_of(runs),
        best_possible_auc={k: v for k, v in first.summary.best_possible_auc.items() if v is not None},
        left_out=tuple(left_out),
        combined_with={"package": keys.package_version(), "torch": importlib.metadata.version("torch")},
    )
    return found.model_copy(update={"claims": claims_of(found, runs)})


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Which arms are compared: `full` with every other, any with the same one without pre-training, or with
    the pre-training of its one centre alone.
    """
    whole = [(FULL, arm) for arm in arms if arm != FULL] if FULL in arms else []
    changed = [(arm, without_pretraining(arm)) for arm in arms if arm != FULL]
    alone = [(arm, other) for arm in arms if (other := pretrained_alone(arm)) is not None]
    return whole + [(a, b) for a, b in changed + alone if b in arms]


def _facts(run: SeedRun) -> SeedFacts:
    summary, phantom = run.summary, run.study.data.source == "phantom"
    versions = {str(v) for r in summary.rounds if (v := _package(r.model_extra)) is not None}
    seconds = sum(record.seconds or 0.0 for record in summary.rounds)
    return SeedFacts(
        seed=run.seed,
        phantom_seed=run.study.data.phantom.seed if phantom else None,
        folder=run.folder.name,
        arms=run.arms,
        patients=summary.data.patients,
        study=run.study.digest,
        splits=summary.digests.get("splits"),
        phantom=summary.digests.get("phantom"),
        scores=run.scores_digest,
        package=", ".join(sorted(versions)) or None,
        seconds=round(seconds, 1),
    )


def _package(extra: dict[str, object] | None) -> object:
    """The version by which a round was done, which its record holds beside what is named in the schema."""
    versions = (extra or {}).get("versions")
    return versions.get("package") if isinstance(versions, dict) else None
