"""Whole arms over a federation in memory: what goes wrong at a site or on the disk, and what comes of it."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    CENTRES,
    Centre,
    RememberingSession,
    TamperedSites,
    open_sessions,
    tiny_study,
    train_order,
)

from phcc_client.session import Session
from phcc_model.build import first_weights
from phcc_model.checkpoint import load_checkpoint, save_checkpoint, state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import SiteCard, TrainOrder, TrainReply
from phcc_model.errors import RoundError, StorageError
from phcc_server.coordinator import Coordinator
from phcc_server.ledger import Ledger, RoundRecord, verify
from phcc_server.rounds import RoundStatus
from phcc_server.sites import NoReply, Sites
from phcc_server.standing import ArmResult
from phcc_server.store import RunStore
from phcc_simulation.federation import MemorySites

STUDY = tiny_study()
ONE_ROUND = tiny_study(pretrain={"rounds": 0}, finetune={"rounds": 1})
SITES = tuple(CENTRES)
Hospitals = dict[str, Session]


def coordinator(
    folder: Path,
    study: StudyConfig,
    sites: Sites,
    *,
    arm: str = "full",
    pretrained: Path | None = None,
    listen: Callable[[RoundRecord], None] = lambda record: None,
) -> Coordinator:
    store, ledger = RunStore(folder / "checkpoints", study.digest), Ledger(folder / "ledger.jsonl")
    return Coordinator(
        arm, study, sites, store, ledger, pretrained or folder / "pretrained.safetensors", listen
    )


def run(
    folder: Path, study: StudyConfig, sites: Sites, expected: Sequence[str] = SITES, **others: Any
) -> ArmResult:
    return coordinator(folder, study, sites, **others).run(expected)


def records(folder: Path) -> tuple[RoundRecord, ...]:
    assert verify(folder / "ledger.jsonl") == ()
    return Ledger(folder / "ledger.jsonl").read()


def weights(study: StudyConfig, stage: str = keys.FINETUNE) -> dict[str, Array]:
    """The float32 weights of a stage's start, and their manifest, as one flat array."""
    state = first_weights(study, stage)
    return Manifest.of(state).pack(state)


@pytest.fixture(scope="module")
def undisturbed(hospitals: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> ArmResult:
    """Two rounds of either stage over three hospitals at which nothing goes wrong."""
    return run(tmp_path_factory.mktemp("undisturbed"), STUDY, MemorySites(hospitals))


# ---- A whole arm


def test_an_arm_runs_both_stages_to_its_result(undisturbed: ArmResult) -> None:
    result = undisturbed
    assert [(r.stage, r.round, r.status) for r in result.rounds] == [
        (stage, number, RoundStatus.COMPLETE) for stage in keys.STAGES for number in range(2)
    ]
    assert result.digest == state_digest(result.weights)
    finetuned = result.rounds[2:]
    losses = [
        r.validation.loss for r in finetuned if r.validation is not None and r.validation.loss is not None
    ]
    assert result.best_round == int(np.argmin(losses))
    chosen = finetuned[result.best_round]
    assert chosen.best
    assert chosen.digest_after == result.digest
    assert chosen.validation is not None
    assert result.threshold == chosen.validation.threshold
    for before, after in itertools.pairwise(finetuned):
        assert after.digest_before == before.digest_after
    assert len({r.digest_after for r in result.rounds}) == 4  # every round moved the weights


def test_a_round_is_recorded_with_who_gave_what(undisturbed: ArmResult) -> None:
    patients = {"pretrain": {"Alma": 6, "Berg": 4, "Cork": 3}, "finetune": {"Alma": 5, "Berg": 4, "Cork": 3}}
    for record in undisturbed.rounds:
        manifest = Manifest.of(first_weights(STUDY, record.stage))
        whole = manifest.nbytes - 4 * manifest.size  # counters are no change, and travel as they are
        assert list(record.sites) == sorted(SITES)
        for name, site in record.sites.items():
            assert (site.status, site.reason) == ("accepted", None)
            assert site.patients == site.weight == patients[record.stage][name]
            assert site.bytes_down == manifest.nbytes
            assert site.bytes_up == 2 * manifest.size + 4 + whole  # halves, and one scale
            assert site.delta_norm is not None
            assert site.delta_norm > 0
            assert set(site.metrics) <= keys.METRICS
        assert record.validation is not None
        assert record.validation.cases == 7
        assert (record.validation.auc is None) == (record.stage == keys.PRETRAIN)
        assert record.finished >= record.started


def test_the_second_stage_starts_from_the_first_ones_last_encoder(
    tmp_path: Path, hospitals: Hospitals
) -> None:
    result = run(tmp_path, STUDY, MemorySites(hospitals))
    pretrained, info = load_checkpoint(tmp_path / "pretrained.safetensors")
    assert (info.stage, info.round_index) == (keys.PRETRAIN, 1)
    assert state_digest(pretrained) == result.rounds[1].digest_after
    start = first_weights(STUDY, keys.FINETUNE, pretrained)
    assert state_digest(start) == result.rounds[2].digest_before
    assert state_digest(start) != state_digest(first_weights(STUDY, keys.FINETUNE))


def test_two_runs_have_one_digest_and_the_order_of_the_sites_is_no_matter(
    tmp_path: Path, undisturbed: ArmResult
) -> None:
    """Trained again, from other folders, by sessions that remember nothing."""
    fresh = open_sessions(tmp_path / "again", STUDY, dict(reversed(CENTRES.items())))
    again = run(tmp_path / "run", STUDY, MemorySites(fresh), SITES[::-1])
    assert again.digest == undisturbed.digest
    assert (again.best_round, again.threshold) == (undisturbed.best_round, undisturbed.threshold)
    assert [r.digest_after for r in again.rounds] == [r.digest_after for r in undisturbed.rounds]


def test_another_seed_gives_another_model(tmp_path: Path, undisturbed: ArmResult) -> None:
    other = tiny_study(seed=1)
    prepared = open_sessions(tmp_path / "hospitals", other)
    assert run(tmp_path, other, MemorySites(prepared)).digest != undisturbed.digest


def test_the_listener_hears_every_round_once_it_is_kept(tmp_path: Path, hospitals: Hospitals) -> None:
    heard: list[RoundRecord] = []

    def listen(record: RoundRecord) -> None:
        assert records(tmp_path)[-1] == record
        heard.append(record)

    result = run(tmp_path, STUDY, MemorySites(hospitals), listen=listen)
    assert tuple(heard) == result.rounds


def test_a_finished_arm_is_not_run_again(tmp_path: Path, hospitals: Hospitals) -> None:
    first = run(tmp_path, STUDY, MemorySites(hospitals))
    again = run(tmp_path, STUDY, MemorySites({}))  # nobody is there, and nobody is asked
    assert again.digest == first.digest
    assert again.rounds == first.rounds
    assert (again.threshold, again.best_round) == (first.threshold, first.best_round)


def test_a_folder_of_another_study_is_not_touched(tmp_path: Path, hospitals: Hospitals) -> None:
    run(tmp_path, ONE_ROUND, MemorySites(hospitals))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="holds the run of another study"):
        run(tmp_path, tiny_study(seed=5), MemorySites(hospitals))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_arms_share_a_pre_training(tmp_path: Path, hospitals: Hospitals) -> None:
    mean = tiny_study(model={"classifier": {"fusion": "mean"}})
    alone = run(tmp_path / "alone", mean, MemorySites(hospitals), arm="mean")
    pretrained = tmp_path / "shared" / "pretrained.safetensors"
    run(tmp_path / "full", STUDY, MemorySites(hospitals), pretrained=pretrained)
    written = pretrained.read_bytes()
    sites = TamperedSites(hospitals)
    second = run(tmp_path / "mean", mean, sites, arm="mean", pretrained=pretrained)
    assert second.digest == alone.digest
    assert {stage for _, stage, _, _ in sites.asked} == {keys.FINETUNE}  # nothing is pre-trained twice
    assert [r.stage for r in second.rounds] == [keys.FINETUNE] * 2
    assert pretrained.read_bytes() == written


# ---- A crash anywhere


def test_an_arm_killed_at_any_point_goes_on_to_the_same_model(
    tmp_path: Path, hospitals: Hospitals, undisturbed: ArmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the replies of every round, and before and after everything that is written to the disk."""
    points: list[str] = []
    kill_at = -1

    def burn(where: str) -> None:
        points.append(where)
        if len(points) - 1 == kill_at:
            raise KeyboardInterrupt

    def fused(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            burn(f"before {name}")
            result = act(*args, **kwargs)
            burn(f"after {name}")
            return result

        return wrapped

    class FusedSites(TamperedSites):
        def _count(self, what: str, order: Any) -> None:
            if order.site == "Berg":
                burn(f"{what} {order.stage} {order.round}")

    def start(folder: Path, sites: Sites) -> ArmResult:
        arm = coordinator(folder, STUDY, sites)
        for thing, names in (
            (arm.standing.ledger, ["append"]),
            (arm.standing.store, ["save_round", "save_state"]),
        ):
            for name in names:
                monkeypatch.setattr(thing, name, fused(name, getattr(thing, name)))
        return arm.run(SITES)

    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no power is cut here
    monkeypatch.setattr("phcc_server.standing.save_checkpoint", fused("save_checkpoint", save_checkpoint))
    assert start(tmp_path / "whole", FusedSites(hospitals)).digest == undisturbed.digest
    whole = list(points)
    assert len(whole) == 8 + 2 * (4 + 4 + 5 + 1)
    for kill_at, where in enumerate(whole):
        folder = tmp_path / str(kill_at)
        points.clear()
        with pytest.raises(KeyboardInterrupt):
            start(folder, FusedSites(hospitals))
        assert points[-1] == where
        after = run(folder, STUDY, MemorySites(hospitals))
        assert after.digest == undisturbed.digest, where
        assert (after.best_round, after.threshold) == (undisturbed.best_round, undisturbed.threshold), where
        assert [(r.stage, r.round, r.digest_after, r.best) for r in after.rounds] == [
            (r.stage, r.round, r.digest_after, r.best) for r in undisturbed.rounds
        ], where
        assert len(records(folder)) <= 5, where  # at most the round that was cut short is done twice
        assert (folder / "pretrained.safetensors").exists()


def times(factor: float) -> Callable[[TrainReply], TrainReply]:
    """A change that is so many times as long; fp16's one scale carries it."""

    def change(reply: TrainReply) -> TrainReply:
        scaled = reply.arrays | {keys.SCALES: reply.arrays[keys.SCALES] * np.float32(factor)}
        return dataclasses.replace(reply, arrays=scaled)

    return change


def test_a_round_done_again_is_judged_as_it_was_the_first_time(
    tmp_path: Path, hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is there, the checkpoint is not: the round's own lengths must not become its measure."""
    sites = TamperedSites(hospitals, {"Cork": times(60)})
    whole = run(tmp_path / "whole", ONE_ROUND, sites)
    lengths = [site.delta_norm or 0.0 for site in whole.rounds[0].sites.values()]
    assert lengths[2] > ONE_ROUND.federation.largest_change * np.median(lengths)  # else nothing is shown
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "save_round", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", ONE_ROUND, sites)
    assert len(records(tmp_path / "cut")) == 1
    assert run(tmp_path / "cut", ONE_ROUND, sites).digest == whole.digest


# ---- Sites that fail, and sites that lie


class FailingSession(RememberingSession):
    """A site at which training raises in one round."""

    fails = (keys.FINETUNE, 0)

    def train(self, order: TrainOrder) -> TrainReply:
        if (order.stage, order.round) == self.fails:
            raise RuntimeError("/srv/patients/Meier_Anna.nii.gz is damaged")
        return super().train(order)


@pytest.mark.parametrize("stage", keys.STAGES)
def test_a_site_that_fails_in_one_round_is_named_and_the_run_goes_on(
    stage: str, tmp_path: Path, hospitals: Hospitals
) -> None:
    berg = FailingSession(hospitals["Berg"].folder, "Berg")
    berg.fails = (stage, 0)
    result = run(tmp_path, STUDY, MemorySites({**hospitals, "Berg": berg}))
    status: dict[tuple[str, int], RoundStatus] = {(r.stage, r.round): r.status for r in result.rounds}
    assert status.pop((stage, 0)) is RoundStatus.PARTIAL
    assert set(status.values()) == {RoundStatus.COMPLETE}  # it is asked again in the next round
    record = next(r for r in result.rounds if (r.stage, r.round) == (stage, 0))
    failed = record.sites["Berg"]
    assert (failed.status, failed.weight, failed.patients) == ("failed", None, None)
    assert failed.reason == "an unexpected error at this site (RuntimeError); its own log says more"
    assert "Meier" not in (tmp_path / "ledger.jsonl").read_text(encoding="utf-8")
    assert [record.sites[site].status for site in ("Alma", "Cork")] == ["accepted"] * 2


def expected_mean(study: StudyConfig, hospitals: Mapping[str, Session], who: Sequence[str]) -> Array:
    """One round's weights, worked out from the sites' own replies in double precision."""
    start = weights(study)[keys.FLOAT].astype(np.float64)
    replies = [hospitals[site].train(train_order(study, keys.FINETUNE, site)) for site in who]
    manifest = Manifest.of(first_weights(study, keys.FINETUNE))
    deltas = [codec.decode_change(r.arrays, r.encoding, manifest).delta.astype(np.float64) for r in replies]
    patients = [reply.patients for reply in replies]
    return start + sum(n * d for n, d in zip(patients, deltas, strict=True)) / sum(patients)


def changed(**values: Any) -> Callable[[TrainReply], TrainReply]:
    return lambda reply: dataclasses.replace(reply, **values)


def rearranged(act: Callable[[Array], Array], name: str = keys.CHANGE) -> Callable[[TrainReply], TrainReply]:
    return lambda reply: dataclasses.replace(reply, arrays=reply.arrays | {name: act(reply.arrays[name])})


LIES: dict[str, tuple[Callable[[TrainReply], TrainReply | NoReply], str, str]] = {
    "NaN in the change": (
        rearranged(lambda a: np.full_like(a, np.nan)),
        "refused",
        "values that are not finite",
    ),
    "one infinite value": (
        rearranged(lambda a: np.where(np.arange(a.size) == 3, np.float16(np.inf), a)),
        "refused",
        "values that are not finite",
    ),
    "scale that is NaN": (
        rearranged(lambda a: np.full_like(a, np.nan), keys.SCALES),
        "refused",
        "a scale is negative or not finite",
    ),
    "too short": (rearranged(lambda a: a[:-1]), "refused", r"change: shape is \(\d+,\), must be"),
    "one value for all": (rearranged(lambda a: a[:1]), "refused", r"change: shape is \(1,\), must be"),
    "another shape": (rearranged(lambda a: a[None]), "refused", r"change: shape is \(1, \d+\)"),
    "another dtype": (rearranged(lambda a: a.astype(np.float64)), "refused", "change: dtype is float64"),
    "no arrays": (changed(arrays={}), "refused", "array is missing"),
    "an array too many": (
        lambda r: dataclasses.replace(r, arrays=r.arrays | {"image": np.zeros(3)}),
        "refused",
        "image: array not expected",
    ),
    "more patients": (
        lambda r: dataclasses.replace(r, patients=400, cases=400),
        "refused",
        "patients is 400, must be 4",
    ),
    "fewer patients": (changed(patients=3), "refused", "patients is 3, must be 4"),
    "no patients": (changed(patients=0), "refused", "patients is 0, must be 4"),
    "more cases": (changed(cases=5), "refused", "cases is 5, must be 4"),
    "no step": (changed(steps=0), "refused", "steps is 0"),
    "another round": (changed(round=7), "refused", "round is '7', ordered was '0'"),
    "another arm": (changed(arm="mean"), "refused", "arm is 'mean', ordered was 'full'"),
    "another site's name": (changed(site="Alma"), "refused", "site is 'Alma', ordered was 'Berg'"),
    "another package": (changed(package="9"), "refused", "package is '9'"),
    "another model": (changed(manifest_digest="0" * 64), "refused", "manifest_digest is"),
    "another encoding": (changed(encoding="fp32"), "refused", "encoding is 'fp32', ordered was 'fp16'"),
    "a measure not agreed": (
        changed(metrics={"worst": 1.0}),
        "refused",
        "metric 'worst' is not in the contract",
    ),
    "a measure that is NaN": (changed(metrics={"loss": float("nan")}), "refused", "metrics.loss is nan"),
    "a huge change": (times(1e6), "refused", "its change is .* times as long as"),
    "silence": (lambda r: NoReply("missing", "no reply within 9 s"), "missing", "no reply within 9 s"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_site_that_lies_is_refused_with_its_reason_and_the_others_mean_is_used(
    lie: str, tmp_path: Path, hospitals: Hospitals
) -> None:
    act, status, reason = LIES[lie]
    result = run(tmp_path, ONE_ROUND, TamperedSites(hospitals, {"Berg": act}))
    (record,) = result.rounds
    assert record.status is RoundStatus.PARTIAL
    berg = record.sites["Berg"]
    assert berg.status == status
    assert berg.reason is not None
    assert re.search(reason, berg.reason)
    assert (berg.weight, berg.delta_norm) == (None, None)
    assert [record.sites[site].status for site in ("Alma", "Cork")] == ["accepted"] * 2
    flat = Manifest.of(result.weights).pack(result.weights)[keys.FLOAT]
    np.testing.assert_allclose(flat, expected_mean(ONE_ROUND, hospitals, ["Alma", "Cork"]), rtol=0, atol=1e-6)


def test_without_a_lie_the_mean_is_weighted_by_all_patients(tmp_path: Path, hospitals: Hospitals) -> None:
    result = run(tmp_path, ONE_ROUND, MemorySites(hospitals))
    flat = Manifest.of(result.weights).pack(result.weights)[keys.FLOAT]
    np.testing.assert_allclose(flat, expected_mean(ONE_ROUND, hospitals, SITES), rtol=0, atol=1e-6)
    others = expected_mean(ONE_ROUND, hospitals, ["Alma", "Cork"])
    assert np.abs(flat - others).max() > 1e-4  # so that the test above can tell them apart


# ---- The quorum


def test_below_the_quorum_the_round_fails_by_name_and_what_was_finished_is_kept(
    tmp_path: Path, hospitals: Hospitals, undisturbed: ArmResult
) -> None:
    study = tiny_study(federation={"minimum_sites": 3})
    berg = FailingSession(hospitals["Berg"].folder, "Berg")
    berg.fails = (keys.FINETUNE, 1)
    with pytest.raises(RoundError) as caught:
        run(tmp_path, study, MemorySites({**hospitals, "Berg": berg}))
    assert str(caught.value).startswith(
        "arm full: round 2 of finetune has too few usable replies (Berg failed: an unexpected error at this site"
    )
    before = records(tmp_path)
    assert [(r.stage, r.round, r.status.value) for r in before] == [
        ("pretrain", 0, "COMPLETE"),
        ("pretrain", 1, "COMPLETE"),
        ("finetune", 0, "COMPLETE"),
        ("finetune", 1, "FAILED"),
    ]
    failed = before[-1]
    assert failed.digest_after == failed.digest_before == before[-2].digest_after
    assert failed.validation is None
    assert [site.status for site in failed.sites.values()] == ["accepted", "failed", "accepted"]
    latest = RunStore(tmp_path / "checkpoints", study.digest).latest("full")
    assert latest is not None
    assert state_digest(latest.arrays) == failed.digest_before
    # Once the hospital is back, the same command goes on; nothing that was finished is trained again.
    sites = TamperedSites(hospitals)
    result = run(tmp_path, study, sites)
    assert {call[1:3] for call in sites.asked} == {(keys.FINETUNE, 1)}
    assert result.digest == undisturbed.digest
    assert [r.status for r in result.rounds] == [RoundStatus.COMPLETE] * 4
    assert [r.status for r in records(tmp_path)][3:] == [RoundStatus.FAILED, RoundStatus.COMPLETE]


@pytest.mark.parametrize(
    ("federation", "words"),
    [
        ({"minimum_sites": 3}, r"2 of 3 sites can take part \(Berg: there is no such site\)"),
        ({"required_sites": ["Berg"]}, r"2 of 3 sites can take part \(Berg: there is no such site\)"),
    ],
)
def test_an_arm_for_which_too_few_sites_are_there_does_not_begin(
    federation: dict[str, Any], words: str, tmp_path: Path, hospitals: Hospitals
) -> None:
    there = {site: session for site, session in hospitals.items() if site != "Berg"}
    with pytest.raises(RoundError, match=words):
        run(tmp_path, tiny_study(federation=federation), MemorySites(there))
    assert records(tmp_path) == ()


def test_a_site_that_is_not_there_leaves_every_round_partial(tmp_path: Path, hospitals: Hospitals) -> None:
    there = {site: session for site, session in hospitals.items() if site != "Berg"}
    result = run(tmp_path, STUDY, MemorySites(there))
    for record in result.rounds:
        assert record.status is RoundStatus.PARTIAL
        assert (record.sites["Berg"].status, record.sites["Berg"].reason) == (
            "missing",
            "there is no such site",
        )


def test_a_site_that_nobody_expects_takes_no_part(tmp_path: Path, hospitals: Hospitals) -> None:
    class Crowded(MemorySites):
        def cards(self, order: Any, expected: Sequence[str], patience_s: float | None = None) -> Any:
            return super().cards(order, SITES)

    result = run(tmp_path, ONE_ROUND, Crowded(hospitals), ["Alma", "Cork"])
    assert [sorted(r.sites) for r in result.rounds] == [["Alma", "Cork"]]
    assert result.rounds[0].status is RoundStatus.COMPLETE


def test_a_site_whose_card_makes_no_sense_takes_no_part(tmp_path: Path, hospitals: Hospitals) -> None:
    class Boastful(MemorySites):
        def cards(self, order: Any, expected: Sequence[str], patience_s: float | None = None) -> Any:
            cards = super().cards(order, expected)
            card = cards["Berg"]
            assert isinstance(card, SiteCard)
            boasted = dataclasses.replace(card, positives={"train": 400})
            return {**cards, "Berg": boasted}

    (record,) = run(tmp_path, ONE_ROUND, Boastful(hospitals)).rounds
    assert record.status is RoundStatus.PARTIAL
    assert record.sites["Berg"].reason == "positives.train is 400, must be 0 to 4"


# ---- Poor sites


def run_of(folder: Path, centres: Mapping[str, Centre], study: StudyConfig = STUDY) -> ArmResult:
    return run(folder / "run", study, MemorySites(open_sessions(folder, study, centres)), tuple(centres))


def test_a_site_with_one_class_takes_part(tmp_path: Path) -> None:
    result = run_of(tmp_path, {"Alma": Centre((1, 0, 1, 0), (1, 0)), "Berg": Centre((1, 1, 1), (1,))})
    assert {r.status for r in result.rounds} == {RoundStatus.COMPLETE}
    finetuned = [r for r in result.rounds if r.stage == keys.FINETUNE]
    assert [r.sites["Berg"].patients for r in finetuned] == [3, 3]
    assert "auc_training" not in finetuned[0].sites["Berg"].metrics
    assert finetuned[0].validation is not None
    assert finetuned[0].validation.cases == 3
    assert finetuned[0].validation.auc is not None  # both classes are there, at the sites together


def test_a_site_without_labels_pre_trains_and_is_named_afterwards(tmp_path: Path) -> None:
    centres = {
        "Alma": Centre((1, 0, 1, 0), (1, 0)),
        "Berg": Centre((0, 1)),
        "Cork": Centre((-1, -1, -1), (-1,)),
    }
    result = run_of(tmp_path, centres)
    for record in result.rounds:
        cork = record.sites["Cork"]
        if record.stage == keys.PRETRAIN:
            assert record.status is RoundStatus.COMPLETE
            assert cork.patients == 3
        else:
            assert record.status is RoundStatus.PARTIAL
            assert (cork.status, cork.reason) == ("missing", "no patient with a label to train on")
    cases = [r.validation.cases for r in result.rounds if r.validation is not None]
    assert cases == [3, 3, 2, 2]  # its unlabelled patient is reconstructed, and not scored


def test_a_centre_with_two_patients_takes_part(tmp_path: Path) -> None:
    result = run_of(tmp_path, {"Alma": Centre((1, 0, 1, 0), (1, 0)), "Berg": Centre((1,), (), (0,))})
    assert {r.status for r in result.rounds} == {RoundStatus.COMPLETE}
    assert all(np.isfinite(array).all() for array in result.weights.values())
    assert [r.sites["Berg"].weight for r in result.rounds] == [1.0] * 4


def test_without_a_validation_patient_the_last_round_is_chosen(tmp_path: Path) -> None:
    result = run_of(tmp_path, {"Alma": Centre((1, 0, 1, 0)), "Berg": Centre((0, 1, 0))})
    assert result.best_round == 1
    assert result.threshold == 0.5
    assert result.digest == result.rounds[-1].digest_after
    for record in result.rounds:
        assert record.validation is not None
        assert (record.validation.loss, record.validation.auc, record.validation.cases) == (None, None, 0)


def test_validation_patients_of_one_class_choose_a_round_but_no_threshold(tmp_path: Path) -> None:
    result = run_of(tmp_path, {"Alma": Centre((1, 0, 1, 0), (1,)), "Berg": Centre((0, 1, 0), (1, 1))})
    chosen = result.rounds[2 + result.best_round].validation
    assert chosen is not None
    assert chosen.loss is not None
    assert (chosen.auc, chosen.threshold, result.threshold) == (None, None, 0.5)


# ---- What a study can choose


@pytest.mark.parametrize(
    ("encoding", "share", "within"), [("fp32", 1.0, 1e-5), ("fp16", 0.5, 1e-3), ("int8", 0.25, 2e-2)]
)
def test_a_change_travels_in_every_encoding(
    encoding: str, share: float, within: float, tmp_path: Path, hospitals: Hospitals
) -> None:
    study = tiny_study(pretrain={"rounds": 0}, finetune={"rounds": 1}, federation={"encoding": encoding})
    exact = tiny_study(pretrain={"rounds": 0}, finetune={"rounds": 1}, federation={"encoding": "fp32"})
    result = run(tmp_path, study, MemorySites(hospitals))
    flat = Manifest.of(result.weights).pack(result.weights)[keys.FLOAT]
    true = expected_mean(exact, hospitals, SITES)
    change = np.linalg.norm(true - weights(exact)[keys.FLOAT])
    assert np.linalg.norm(flat - true) <= within * change
    for site in result.rounds[0].sites.values():
        assert site.bytes_up == pytest.approx(share * 4 * flat.size, rel=0.05)


@pytest.mark.parametrize(
    ("weighting", "weight"),
    [("patients", [5, 4, 3]), ("equal", [1, 1, 1]), ("capped", [4, 4, 3])],
)
def test_sites_count_as_the_study_says(
    weighting: str, weight: list[float], tmp_path: Path, hospitals: Hospitals
) -> None:
    study = tiny_study(
        pretrain={"rounds": 0}, finetune={"rounds": 1}, federation={"weighting": weighting, "cap": 4}
    )
    (record,) = (result := run(tmp_path, study, MemorySites(hospitals))).rounds
    assert [site.weight for site in record.sites.values()] == weight
    manifest = Manifest.of(result.weights)
    replies = [hospitals[site].train(train_order(study, keys.FINETUNE, site)) for site in SITES]
    deltas = [codec.decode_change(r.arrays, r.encoding, manifest).delta.astype(np.float64) for r in replies]
    mean = np.average(deltas, axis=0, weights=weight)
    flat = manifest.pack(result.weights)[keys.FLOAT]
    np.testing.assert_allclose(flat, weights(study)[keys.FLOAT] + mean, rtol=0, atol=1e-6)


def test_fedprox_holds_the_sites_nearer_to_the_global_weights(tmp_path: Path, hospitals: Hospitals) -> None:
    def lengths(algorithm: str) -> list[float]:
        study = tiny_study(
            pretrain={"rounds": 0},
            finetune={"rounds": 1, "local_epochs": 4, "learning_rate": 0.02},
            federation={"algorithm": algorithm, "proximal": 5.0},
        )
        (record,) = run(tmp_path / algorithm, study, MemorySites(hospitals)).rounds
        return [site.delta_norm for site in record.sites.values() if site.delta_norm is not None]

    fedavg, fedprox = lengths("fedavg"), lengths("fedprox")
    assert len(fedprox) == 3
    assert all(held < free for held, free in zip(fedprox, fedavg, strict=True))


def test_patience_stops_an_arm_and_its_best_round_is_the_model(tmp_path: Path, hospitals: Hospitals) -> None:
    study = tiny_study(pretrain={"rounds": 0}, finetune={"rounds": 6, "patience": 2})
    sites = TamperedSites(hospitals, loss={keys.FINETUNE: [0.6, 0.5, 0.7, 0.6, 0.1, 0.1]})
    result = run(tmp_path, study, sites)
    assert [r.round for r in result.rounds] == [0, 1, 2, 3]
    assert [r.best for r in result.rounds] == [True, True, False, False]
    assert result.best_round == 1
    assert result.digest == result.rounds[1].digest_after
    assert result.rounds[1].validation is not None
    assert result.rounds[1].validation.loss == pytest.approx(0.5)


def test_without_patience_every_round_is_run(tmp_path: Path, hospitals: Hospitals) -> None:
    study = tiny_study(pretrain={"rounds": 0}, finetune={"rounds": 4})
    result = run(tmp_path, study, TamperedSites(hospitals, loss={keys.FINETUNE: [0.1, 0.5, 0.7, 0.6]}))
    assert [r.round for r in result.rounds] == [0, 1, 2, 3]
    assert result.digest == result.rounds[0].digest_after


@pytest.mark.parametrize(
    ("losses", "best", "chosen"),
    [
        ([0.6, 0.5, 0.7], [True, True, False], 1),
        ([0.5, 0.5, 0.5], [True, False, False], 0),  # of equals the earlier one
        ([0.5, None, 0.6], [True, False, False], 0),
        ([None, 0.9, None], [True, True, False], 1),  # as long as nothing is known, the latest
        ([None, None, None], [True, True, True], 2),
    ],
)
def test_the_record_says_which_round_was_the_best_so_far_in_either_stage(
    losses: list[float | None], best: list[bool], chosen: int, tmp_path: Path, hospitals: Hospitals
) -> None:
    study = tiny_study(pretrain={"rounds": 3}, finetune={"rounds": 3})
    sites = TamperedSites(hospitals, loss=dict.fromkeys(keys.STAGES, losses))
    result = run(tmp_path, study, sites)
    for stage in keys.STAGES:
        assert [r.best for r in result.rounds if r.stage == stage] == best
    assert result.best_round == chosen
    assert result.digest == result.rounds[3 + chosen].digest_after
    # Whatever its loss, stage 2 starts from the last round of stage 1.
    pretrained, _ = load_checkpoint(tmp_path / "pretrained.safetensors")
    assert state_digest(pretrained) == result.rounds[2].digest_after


def test_a_disk_that_is_full_stops_the_run_and_loses_nothing(
    tmp_path: Path, hospitals: Hospitals, undisturbed: ArmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = RunStore.save_round

    def full(self: RunStore, arm: str, stage: str, round_index: int, *others: Any) -> str:
        if (stage, round_index) == (keys.FINETUNE, 1):
            raise StorageError("no space left on the disk", where="checkpoints")
        return kept(self, arm, stage, round_index, *others)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "save_round", full)
        with pytest.raises(StorageError, match="no space left"):
            run(tmp_path, STUDY, MemorySites(hospitals))
    assert run(tmp_path, STUDY, MemorySites(hospitals)).digest == undisturbed.digest
