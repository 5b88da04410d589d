"""A finished run judged by the second phantom: patients of scanners that nothing was trained, chosen or tuned on.

The patients are drawn from a seed of their own, written and prepared as the run's own were, and scored by every
arm that is finished, with the weights and the threshold that it froze; what has no network is fitted on the run's
own patients, as in the run. Nothing is trained, and nothing in the run's folder is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from phcc_client.imaging.case import Rejection
from phcc_client.session import Runtime
from phcc_client.site import Site
from phcc_model.arms import ArmPlan, plan_arm, plan_arms
from phcc_model.checkpoint import state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import ConfigError, StorageError
from phcc_server.ledger import RoundRecord, read_rounds
from phcc_server.report.schema import EXTERNAL
from phcc_server.report.summary import ScoredCase
from phcc_server.standing import ArmResult
from phcc_server.store import RunStore
from phcc_server.validation_round import NO_THRESHOLD
from phcc_simulation.baselines import FittedScore
from phcc_simulation.finished import splits_of, study_of
from phcc_simulation.judge_patients import SITE, JudgePatients, Progress
from phcc_simulation.phantom.write import PhantomSummary
from phcc_simulation.scoring import baseline_of, combined_of, network_of
from phcc_simulation.study_run import CHECKPOINTS, LEDGER
from phcc_simulation.workspace import Workspace

PATIENTS = 500


@dataclass(frozen=True)
class Judged:
    """What came of one run.

    Attributes:
        study: as it was run.
        patients: the second phantom's.
        scored: every case of every arm; all are external.
        weights: SHA-256 of each network's weights, by arm.
        left_out: arms of the run that are not finished.
        set_aside: cases that could not be prepared, with their reasons.
    """

    study: StudyConfig
    patients: PhantomSummary
    scored: tuple[ScoredCase, ...]
    weights: dict[str, str]
    left_out: tuple[str, ...]
    set_aside: tuple[Rejection, ...]


def judge_run(
    run: Path, out: Path, patients: int, arms: Sequence[str], runtime: Runtime, jobs: int, progress: Progress
) -> Judged:
    """Write and prepare the second phantom's patients, and score them.

    Args:
        run: folder of a run of which arms are finished.
        out: of the patients; what is there already is used again.
        patients: of all scanners together.
        arms: these; none: those of the run that are finished.
        runtime: the device that scores.
        jobs: files worked on at a time.
        progress: called with (what, done, total).

    Raises:
        ConfigError: the folder holds no run on the first phantom, or there is no such arm.
        StorageError: an arm that was asked for, or every arm, is not finished; the disk is full.
        DataError: the run's prepared patients are gone.
    """
    whole = open_run(run)
    plans, results, left_out = _finished(whole, arms)
    drawn = JudgePatients(out, whole.study, patients, jobs, progress)
    scored: list[ScoredCase] = []
    for done, plan in enumerate(plans, start=1):
        base = plan if plan.kind == "baseline" else plan_arm(plan.base, whole.study, whole.centres)
        site = drawn.prepared_for(whole.study if plan.kind == "baseline" else base.study)
        scored += _scored(plan.name, _score_of(plan, base, results, whole, runtime), site)
        progress("scoring arms", done, len(plans))
    weights = {name: result.digest for name, result in results.items()}
    return Judged(whole.study, drawn.written, tuple(scored), weights, left_out, drawn.set_aside)


def open_run(run: Path) -> Workspace:
    """A run's folder, as it was left.

    Raises:
        ConfigError: it holds no run, or one that the second phantom cannot judge.
        StorageError: its splits are not there.
        SplitError: they are damaged.
    """
    study = study_of(run)
    if study.data.source != "phantom":
        raise ConfigError(
            f"its patients are those of data.source {study.data.source}, and the second phantom's are others",
            where=str(run),
            remedy="Judge a run whose data.source is phantom",
        )
    if study.data.phantom.scanners == "second":
        raise ConfigError(
            "was trained on the second phantom's scanners, and would judge itself",
            where=str(run),
            remedy="Judge a run whose data.phantom.scanners is first",
        )
    return Workspace(study, run, run / "data", splits_of(run), {}, ())


def _finished(
    whole: Workspace, arms: Sequence[str]
) -> tuple[list[ArmPlan], dict[str, ArmResult], tuple[str, ...]]:
    """The arms that can be scored, their networks by name, and the names of those that are not finished."""
    plans, left_out = [], []
    rounds = read_rounds(whole.out / LEDGER) if (whole.out / LEDGER).is_file() else ()
    results: dict[str, ArmResult] = {}
    for plan in plan_arms(arms or whole.study.evaluation.arms, whole.study, whole.centres):
        if plan.kind != "baseline" and plan.base not in results:
            found = finished_arm(whole.out, plan_arm(plan.base, whole.study, whole.centres), rounds)
            if found is None:
                left_out.append(plan.name)
                continue
            results[plan.base] = found
        plans.append(plan)
    if not plans or (arms and left_out):
        raise StorageError(
            f"not finished: {', '.join(left_out)}",
            where=str(whole.out),
            remedy="Resume the run, then judge it",
        )
    return plans, results, tuple(left_out)


def finished_arm(run: Path, plan: ArmPlan, rounds: Sequence[RoundRecord]) -> ArmResult | None:
    """An arm's chosen weights and its frozen threshold; None where it has not finished.

    Args:
        run: the run's folder.
        plan: of an arm that trains a network.
        rounds: of the run's ledger.

    Raises:
        StorageError: a checkpoint is damaged, or of another study.
    """
    store = RunStore(run / CHECKPOINTS, plan.study.digest)
    state = store.state(plan.name)
    if state is None or not state.finished:
        return None
    final = store.final(plan.name)
    records = {(r.stage, r.round): r for r in rounds if r.arm == plan.name}
    chosen = records.get((keys.FINETUNE, final.info.round_index))
    threshold = chosen.validation.threshold if chosen is not None and chosen.validation is not None else None
    return ArmResult(
        arm=plan.name,
        weights=final.arrays,
        threshold=NO_THRESHOLD if threshold is None else threshold,
        best_round=final.info.round_index,
        digest=state_digest(final.arrays),
        rounds=tuple(records.values()),
    )


def _score_of(
    plan: ArmPlan, base: ArmPlan, results: dict[str, ArmResult], whole: Workspace, runtime: Runtime
) -> FittedScore:
    if plan.kind == "baseline":
        return baseline_of(plan.name, whole, whole.study)
    if plan.kind == "combined":
        return combined_of(plan.name, results[base.name], base, whole, runtime)
    return network_of(results[base.name], plan, runtime)


def _scored(arm: str, model: FittedScore, site: Site) -> Iterator[ScoredCase]:
    cases = site.load("test")
    centre_of = {case.case: case.centre or SITE for case in site.record.cases}
    for i, value in enumerate(model.score(cases)):
        case, label = cases.case[i], int(cases.label_n[i])
        yield ScoredCase(
            arm, case, cases.patient[i], centre_of[case], EXTERNAL, label, float(value), model.threshold
        )
