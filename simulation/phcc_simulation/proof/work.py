"""What a federated arm costs: rounds, bytes and seconds, as the ledgers of its seeds say."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from phcc_model.arms import ArmPlan, plan_arm
from phcc_model.contract import keys
from phcc_model.errors import ConfigError
from phcc_server.report.schema import RoundSummary
from phcc_simulation.proof.monitors import rounds_of, training_centres_of
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import Work


def works_of(runs: Sequence[SeedRun]) -> tuple[Work, ...]:
    """One for every federated arm of which a ledger tells, in the order of the arms."""
    arms = dict.fromkeys(arm for run in runs for arm in run.arms)
    found = (work_of([run for run in runs if arm in run.arms], arm) for arm in arms)
    return tuple(work for work in found if work is not None)


def work_of(runs: Sequence[SeedRun], arm: str) -> Work | None:
    """Mean over the seeds that ran it, pre-training included though another arm did it; None where unknown.

    Args:
        runs: of seeds that ran the arm.
        arm: its name.
    """
    plan = _plan(runs[0], arm)
    each = [(rounds_of(run, arm, keys.PRETRAIN), rounds_of(run, arm, keys.FINETUNE)) for run in runs]
    if plan is None or plan.kind != "federated" or not all(second for _, second in each):
        return None
    if plan.stage_one is not None:  # one centre's stage 1 was no one's traffic
        return None
    sent = [[_sent(record) for record in first + second] for first, second in each]
    stages = plan.study.pretrain, plan.study.finetune
    return Work(
        arm=arm,
        rounds=(stages[0].rounds, stages[1].rounds),
        local_epochs=(stages[0].local_epochs, stages[1].local_epochs),
        bytes_up=fmean(sum(up for up, _ in records) for records in sent),
        bytes_down=fmean(sum(down for _, down in records) for records in sent),
        seconds=fmean(sum(r.seconds or 0.0 for r in first + second) for first, second in each),
    )


def _sent(record: RoundSummary) -> tuple[float, float]:
    """Bytes from and to one site in a round, mean over its sites."""
    sites = list(record.sites.values())
    if not sites:
        return 0.0, 0.0
    return fmean(site.bytes_up for site in sites), fmean(site.bytes_down for site in sites)


def _plan(run: SeedRun, arm: str) -> ArmPlan | None:
    try:
        return plan_arm(arm, run.study, training_centres_of(run.summary))
    except ConfigError:  # an arm of another version of this software
        return None
