"""The arms of a study that real hospitals can run."""

from __future__ import annotations

from phcc_model.arms import ArmPlan, plan_arms
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError

AT_SITES = ("federated",)
"""Kinds of arms that need no patient to leave its hospital."""


def arms_at_sites(study: StudyConfig, sites: tuple[str, ...]) -> tuple[tuple[ArmPlan, ...], tuple[str, ...]]:
    """The arms of a study that real hospitals can run, and a note for each one that they cannot.

    Raises:
        ConfigError: none is left, or one is unknown, or the quorum cannot be met.
    """
    plans = plan_arms(study.evaluation.arms, study, sites)
    kept = tuple(plan for plan in plans if plan.kind in AT_SITES and plan.stage_one is None)
    notes = tuple(
        f"arm {plan.name} is left out: it would need patients of several hospitals in one place"
        if plan.kind == "pooled"
        else f"arm {plan.name} is left out: it runs in the simulation only"
        for plan in plans
        if plan not in kept
    )
    if not kept:
        raise ConfigError("no arm can run in real hospitals", where="evaluation.arms", remedy="Add full")
    return kept, notes
