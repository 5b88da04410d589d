"""What counts as trained on: the cases whose labels an arm was given, and no others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from exports import CENTRES, study_of, write_data

from phcc_client.preparations import open_prepared
from phcc_client.session import Runtime
from phcc_model.arms import plan_arm
from phcc_model.build import build_classifier, state_of
from phcc_model.config import StudyConfig
from phcc_model.training.labels import label_subset
from phcc_server.report.evaluation import ScoredCase
from phcc_server.standing import ArmResult
from phcc_simulation import scoring
from phcc_simulation.scoring import score_arm, score_baseline
from phcc_simulation.workspace import POOLED, Preparer, Workspace


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, StudyConfig]:
    folder: Path = tmp_path_factory.mktemp("scoring")
    study = study_of(write_data(folder / "export"), finetune={"label_fraction": 0.5})
    return Preparer(folder / "run", 1, lambda *_: None).prepare(study), study


def trained_on(rows: list[ScoredCase], centre: str) -> set[str]:
    return {row.case for row in rows if row.split == "train" and row.centre == centre}


def given(workspace: Workspace, study: StudyConfig, name: str) -> set[str]:
    """Cases whose labels a site trains on, as `finetune_round` chooses them."""
    cases = open_prepared(workspace.site(name), study, name, workspace.study).load("train")
    return set(label_subset(cases.labelled, study.finetune.label_fraction, study.seed, name).case)


@pytest.mark.parametrize("arm", ["full", "pooled", "local:Alma"])
def test_training_cases_are_those_whose_labels_the_arm_was_given(
    ready: tuple[Workspace, StudyConfig], arm: str
) -> None:
    workspace, study = ready
    plan = plan_arm(arm, study, workspace.centres)
    weights = state_of(build_classifier(plan.study))
    result = cast("ArmResult", SimpleNamespace(weights=weights, threshold=0.5))
    rows = score_arm(result, plan, workspace, Runtime("cpu", 1))
    whole = {POOLED: set(workspace.centres), "local:Alma": {"Alma"}}.get(arm, set(workspace.centres))
    found = {centre: trained_on(rows, centre) for centre in workspace.centres}
    if arm == "pooled":
        assert set().union(*found.values()) == given(workspace, study, POOLED)
    else:
        for centre in workspace.centres:
            assert found[centre] == (given(workspace, study, centre) if centre in whole else set())
    everyone = open_prepared(workspace.site("Alma"), study, "Alma", workspace.study).load("train")
    assert 0 < len(found["Alma"]) < len(everyone)
    assert Counter(row.split for row in rows)["external"] == len({r.case for r in rows if r.centre == "Ende"})
    assert set(CENTRES) == {row.centre for row in rows}


def test_a_baseline_is_taught_no_more_labels_than_the_networks(
    ready: tuple[Workspace, StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, study = ready
    seen: list[Any] = []
    fit = scoring.fit_baseline
    monkeypatch.setattr(
        scoring, "fit_baseline", lambda arm, cases, s: seen.append(cases) or fit(arm, cases, s)
    )
    rows = score_baseline("kinetics", workspace, study)
    taught = set().union(*(given(workspace, study, centre) for centre in workspace.centres))
    validation = {row.case for row in rows if row.split == "validation"}
    assert set(seen[0].case) == taught | validation
    assert {row.case for row in rows if row.split == "train"} == taught
