"""Finished arms on every patient of the run: possible in a simulation only, where all centres are ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from phcc_client.preparations import open_prepared
from phcc_client.session import Runtime
from phcc_client.site import SPLITS, Split
from phcc_model.arms import ArmPlan
from phcc_model.build import build_classifier, load_state
from phcc_model.cases import UNKNOWN_LABEL, CaseSet
from phcc_model.config import StudyConfig
from phcc_model.training.labels import label_subset
from phcc_model.training.predict import predict
from phcc_server.report.summary import ScoredCase
from phcc_server.standing import ArmResult
from phcc_simulation.baselines import FittedScore, Score, fit_baseline, fit_combined
from phcc_simulation.workspace import POOLED, Workspace


def score_arm(result: ArmResult, plan: ArmPlan, workspace: Workspace, runtime: Runtime) -> list[ScoredCase]:
    """Every patient's probability by an arm's chosen model, with the threshold that it froze."""
    taught = _taught(workspace, plan.study, _folders(plan))
    return list(_scored(plan.name, network_of(result, plan, runtime), workspace, plan.study, taught))


def score_combined(
    arm: str, result: ArmResult, base: ArmPlan, workspace: Workspace, runtime: Runtime
) -> list[ScoredCase]:
    """Every patient's probability by an arm's network and AFP together, fitted on validation patients."""
    taught = _taught(workspace, base.study, _folders(base))
    model = combined_of(arm, result, base, workspace, runtime)
    return list(_scored(arm, model, workspace, base.study, taught))


def score_baseline(arm: str, workspace: Workspace, study: StudyConfig) -> list[ScoredCase]:
    """Every patient's probability without a network, fitted on the patients whose labels the networks get."""
    taught = _taught(workspace, study, workspace.centres)
    return list(_scored(arm, baseline_of(arm, workspace, study), workspace, study, taught))


def network_of(result: ArmResult, plan: ArmPlan, runtime: Runtime) -> FittedScore:
    """An arm's chosen model and its threshold, ready for any cases that were prepared for the arm."""
    return FittedScore(_network(result, plan, runtime), result.threshold)


def combined_of(
    arm: str, result: ArmResult, base: ArmPlan, workspace: Workspace, runtime: Runtime
) -> FittedScore:
    """An arm's network and AFP together, fitted on the run's validation patients."""
    name = base.sites[0] if base.kind == "local" else POOLED
    held_out = open_prepared(workspace.site(name), base.study, name, workspace.study).load("validation")
    return fit_combined(arm, _network(result, base, runtime), held_out)


def baseline_of(arm: str, workspace: Workspace, study: StudyConfig) -> FittedScore:
    """A score without a network, fitted on the run's patients whose labels the networks get."""
    pooled = open_prepared(workspace.site(POOLED), study, POOLED, workspace.study)
    taught = _taught(workspace, study, workspace.centres)
    return fit_baseline(arm, CaseSet.join([taught, pooled.load("validation")]), study)


def _folders(plan: ArmPlan) -> tuple[str, ...]:
    """The site folders that an arm trains on."""
    return (POOLED,) if plan.kind == "pooled" else plan.sites


def _taught(workspace: Workspace, study: StudyConfig, folders: Sequence[str]) -> CaseSet:
    """The cases whose labels are trained on: below a `finetune.label_fraction` of 1, not all that are known."""
    fraction, seed = study.finetune.label_fraction, study.seed
    prepared = [open_prepared(workspace.site(name), study, name, workspace.study) for name in folders]
    labelled = [site.load("train").labelled for site in prepared]
    parts = zip(labelled, folders, strict=True)
    return CaseSet.join([label_subset(cases, fraction, seed, name) for cases, name in parts])


def _network(result: ArmResult, plan: ArmPlan, runtime: Runtime) -> Score:
    """Probabilities by an arm's chosen model."""
    model = build_classifier(plan.study)
    load_state(model, result.weights)
    device = torch.device(runtime.device)

    def score(cases: CaseSet) -> NDArray[np.float64]:
        return np.asarray(expit(predict(model, cases, device=device).astype(np.float64)), dtype=np.float64)

    return score


def _scored(
    arm: str, model: FittedScore, workspace: Workspace, study: StudyConfig, taught: CaseSet
) -> Iterator[ScoredCase]:
    """All cases but those of the training side whose known label was not trained on: they are no training AUC."""
    known = set(zip(taught.patient, taught.case, strict=True))
    for centre, split, place in _places(workspace):
        cases = open_prepared(workspace.site(centre), study, centre, workspace.study).load(place)
        if not len(cases):
            continue
        for i, value in enumerate(model.score(cases)):
            told = cases.label_n[i] == UNKNOWN_LABEL or (cases.patient[i], cases.case[i]) in known
            if place == "train" and not told:
                continue
            yield ScoredCase(
                arm,
                cases.case[i],
                cases.patient[i],
                centre,
                split,
                int(cases.label_n[i]),
                float(value),
                model.threshold,
            )


def _places(workspace: Workspace) -> Iterator[tuple[str, str, Split]]:
    """Centre, split of the study, split in the site's folder."""
    for centre in workspace.splits.centres:
        for split in SPLITS:
            yield centre, split, split
    for centre in workspace.splits.external:
        yield centre, "external", "test"
