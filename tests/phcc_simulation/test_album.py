"""What an autoencoder fills in, kept for the report: honest units, the same cases, a collapse that shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from builders import CENTRES, Centre, open_sessions, tiny_study

from phcc_client.preparations import open_prepared
from phcc_client.session import Runtime
from phcc_client.splits import Place, Splits
from phcc_model.arms import plan_arm
from phcc_model.build import build_autoencoder
from phcc_model.cases import CaseSet
from phcc_model.contract import keys
from phcc_model.pretrain import SWFCMAE
from phcc_server.coordinator import Coordinator
from phcc_server.ledger import Ledger, RoundRecord
from phcc_server.progress import pretrained_file
from phcc_server.report.kept import reconstruction_file
from phcc_server.report.schema import Failure
from phcc_server.report.slices import load_slices
from phcc_server.store import RunStore
from phcc_simulation.album import MOST_CASES, Album, fixed_cases, keep_mistakes, reconstruct
from phcc_simulation.federation import MemorySites
from phcc_simulation.workspace import Workspace

STUDY = tiny_study()
SITES = tuple(CENTRES)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    open_sessions(tmp_path, STUDY)
    splits = Splits(tuple(Place(site, "train", f"{site}-x") for site in SITES))
    whole = SimpleNamespace(
        study=STUDY,
        out=tmp_path,
        splits=splits,
        centres=SITES,
        site=lambda centre: tmp_path / "sites" / centre,
    )
    return cast("Workspace", whole)


def cases_of(workspace: Workspace) -> CaseSet:
    plan = plan_arm("full", STUDY, SITES)
    return CaseSet.join([cases for _, cases in fixed_cases(plan, workspace)])


def blinded(model: SWFCMAE) -> SWFCMAE:
    """One that predicts the mean of every patch."""
    with torch.no_grad():
        for parameter in list(model.decoder.parameters())[-2:]:  # weight and bias of its last layer
            parameter.zero_()
    return model


def test_the_cases_are_one_of_each_centres_validation_patients(workspace: Workspace) -> None:
    plan = plan_arm("full", STUDY, SITES)
    found = fixed_cases(plan, workspace)
    assert [centre for centre, _ in found] == ["Alma", "Berg", "Cork"]
    assert len(found) <= MOST_CASES
    assert [cases.case for _, cases in found] == [(f"{site}-validation-0-0",) for site in SITES]
    local = plan_arm("local:Berg", STUDY, SITES)
    assert [cases.case for _, cases in fixed_cases(local, workspace)] == [cases.case for _, cases in found]


def test_a_centre_without_validation_patients_shows_a_test_patient_or_nobody(tmp_path: Path) -> None:
    centres = {"Alma": Centre((1, 0), (), (1,)), "Berg": Centre((1, 0))}
    open_sessions(tmp_path, STUDY, centres)
    splits = Splits(tuple(Place(site, "train", f"{site}-x") for site in centres))
    whole: Any = SimpleNamespace(study=STUDY, splits=splits, site=lambda centre: tmp_path / "sites" / centre)
    found = fixed_cases(plan_arm("full", STUDY, tuple(centres)), whole)
    assert [(centre, cases.case) for centre, cases in found] == [("Alma", ("Alma-test-0-0",))]


@pytest.mark.parametrize("target", ["norm-pix", "raw", "norm-across-phases", "norm-volume", "enhancement"])
def test_what_is_drawn_is_the_prediction_in_units_of_the_image(workspace: Workspace, target: str) -> None:
    study = tiny_study(pretrain={"target": target})
    cases = cases_of(workspace)
    model = build_autoencoder(study)
    first, again = (reconstruct(model, cases, study.seed, "cpu") for _ in range(2))
    for i, (one, same) in enumerate(zip(first, again, strict=True)):
        assert one.said == same.said
        np.testing.assert_array_equal(one.arrays["prediction"], same.arrays["prediction"])
        middle = cases.volumes_npdhw.shape[2] // 2
        np.testing.assert_array_equal(one.arrays["target"], cases.volumes_npdhw[i, :, middle])
        assert 0.2 < one.arrays["visible"].mean() < 0.6
    assert model.training  # as it was


def test_a_collapsed_network_has_no_agreement_although_patch_means_are_drawn(workspace: Workspace) -> None:
    cases = cases_of(workspace)
    model = blinded(build_autoencoder(STUDY))
    for one in reconstruct(model, cases, STUDY.seed, "cpu"):
        assert one.said["agreement"] is None
        assert one.said["spread"] == 0.0
        prediction, target = one.arrays["prediction"][0], one.arrays["target"][0].astype(np.float32)
        # Flat squares at the height of the target's own patches, which would pass for skill.
        assert len(np.unique(prediction.round(4))) <= prediction.size / 16
        assert np.corrcoef(prediction.ravel(), target.ravel())[0, 1] > 0.05


def run(workspace: Workspace, arm: str, album: Album | None = None) -> Album:
    plan = plan_arm(arm, STUDY, SITES)
    checkpoints = workspace.out / "checkpoints"
    album = album or Album(checkpoints, plan, workspace, Runtime())
    result = Coordinator(
        arm,
        plan.study,
        MemorySites(open_sessions(workspace.out, STUDY)),
        RunStore(checkpoints, plan.study.digest),
        Ledger(workspace.out / "ledger.jsonl"),
        pretrained_file(checkpoints, plan),
        album.listen,
        STUDY,
    ).run(SITES)
    album.finish(result.rounds)
    return album


def test_the_first_and_the_last_round_are_kept_by_the_arm_that_pretrained(workspace: Workspace) -> None:
    run(workspace, "full")
    run(workspace, "concat")  # takes over the other's pre-training
    run(workspace, "no-pretraining")
    kept = sorted((workspace.out / "pictures" / "reconstructions").iterdir())
    assert [file.name for file in kept] == ["full-0000.safetensors", "full-0001.safetensors"]
    first, last = (load_slices(file) for file in kept)
    assert [(one.said["centre"], one.said["round"]) for one in first] == [(site, 0) for site in SITES]
    assert {one.said["round"] for one in last} == {1}
    for before, after in zip(first, last, strict=True):
        np.testing.assert_array_equal(before.arrays["visible"], after.arrays["visible"])
        np.testing.assert_array_equal(before.arrays["target"], after.arrays["target"])
        assert not np.array_equal(before.arrays["prediction"], after.arrays["prediction"])


def test_a_run_of_an_earlier_version_gets_the_last_round_only(workspace: Workspace) -> None:
    album = run(workspace, "full")
    first, last = (reconstruction_file(workspace.out, "full", number) for number in (0, 1))
    before = last.read_bytes()
    first.unlink()
    last.unlink()
    run(workspace, "full", album)  # finished: nothing is trained
    assert not first.exists()
    assert last.read_bytes() == before


def test_a_failed_round_has_no_pictures(workspace: Workspace) -> None:
    album = Album(workspace.out / "checkpoints", plan_arm("full", STUDY, SITES), workspace, Runtime())
    record: Any = SimpleNamespace(stage=keys.PRETRAIN, round=0, status=SimpleNamespace(value="FAILED"))
    album.listen(cast("RoundRecord", record))
    assert not (workspace.out / "pictures").exists()


def test_mistakes_are_kept_in_the_middle_of_their_lesion(workspace: Workspace) -> None:
    site = open_prepared(workspace.site("Alma"), STUDY, "Alma", STUDY)
    cases = site.load("test")
    failure = Failure(
        arm="full", split="internal", centre="Alma", patient=cases.patient[1], case=cases.case[1], label=1,
        score=0.1, threshold=0.5, sureness=0.8,
    )  # fmt: skip
    keep_mistakes([failure], workspace)
    (one,) = load_slices(workspace.out / "pictures" / "mistakes.safetensors")
    assert one.said["case"] == cases.case[1]
    middle = 2  # of slices 1 and 2
    assert np.flatnonzero(cases.lesion_ndhw[1].any((1, 2))).tolist() == [1, middle]
    np.testing.assert_array_equal(one.arrays["slice"], cases.volumes_npdhw[1, :, middle])
    np.testing.assert_array_equal(one.arrays["lesion"], cases.lesion_ndhw[1, middle])
