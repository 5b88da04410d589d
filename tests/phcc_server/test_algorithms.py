"""Every algorithm over a federation in memory: one digest from every run, killed and restarted or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import CENTRES, TamperedSites, open_sessions, tiny_study

from phcc_client.memory import SiteMemory
from phcc_model.checkpoint import state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import StorageError
from phcc_server.coordinator import Coordinator
from phcc_server.ledger import Ledger
from phcc_server.rules import FIRST, SECOND
from phcc_server.run_folder import RunFolder
from phcc_server.sites import NoReply, Sites
from phcc_server.standing import ArmResult
from phcc_server.store import RunStore
from phcc_server.study_runner import StudyRunner
from phcc_server.verification import faults_of
from phcc_simulation.federation import MemorySites

SITES = tuple(CENTRES)
ALGORITHMS = ("fedadam", "fedyogi", "fedema", "fedbn", "scaffold")
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def study_with(algorithm: str, **sections: Any) -> StudyConfig:
    """Three rounds of either stage: so that what is kept is used, and what came of it is kept and used."""
    sections = {"pretrain": {"rounds": 3}, "finetune": {"rounds": 3}} | sections
    federation = sections.pop("federation", {}) | {"algorithm": algorithm}
    return tiny_study(**sections, federation=federation)


def coordinator(folder: Path, study: StudyConfig, sites: Sites) -> Coordinator:
    store, ledger = RunStore(folder / "checkpoints", study.digest), Ledger(folder / "ledger.jsonl")
    return Coordinator("full", study, sites, store, ledger, folder / "pretrained.safetensors", lambda _: None)


def run(folder: Path, study: StudyConfig, sites: Sites) -> ArmResult:
    return coordinator(folder, study, sites).run(SITES)


def digests(result: ArmResult) -> list[str]:
    return [record.digest_after for record in result.rounds]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ArmResult]:
    """Each algorithm's run in which nothing happens, made once."""
    made: dict[str, ArmResult] = {}

    def of(algorithm: str) -> ArmResult:
        if algorithm not in made:
            folder, study = tmp_path_factory.mktemp(algorithm), study_with(algorithm)
            made[algorithm] = run(folder, study, MemorySites(open_sessions(folder / "hospitals", study)))
        return made[algorithm]

    return of


@each_algorithm
def test_two_runs_have_one_digest_and_the_order_of_the_sites_is_no_matter(
    algorithm: str, whole: Callable[[str], ArmResult], tmp_path: Path
) -> None:
    study = study_with(algorithm)
    fresh = open_sessions(tmp_path / "again", study, dict(reversed(CENTRES.items())))
    again = coordinator(tmp_path / "run", study, MemorySites(fresh)).run(SITES[::-1])
    assert digests(again) == digests(whole(algorithm))
    assert again.digest == whole(algorithm).digest


def test_each_algorithm_gives_a_model_of_its_own(whole: Callable[[str], ArmResult]) -> None:
    results = {algorithm: whole(algorithm) for algorithm in ("fedavg", *ALGORITHMS)}
    assert len({result.digest for result in results.values()}) == len(results)
    assert all(np.isfinite(array).all() for result in results.values() for array in result.weights.values())


KILLS = [
    (what, stage, number)
    for what, number in (("train", 1), ("save_round", 1), ("kept", 0), ("kept", 2))
    for stage in keys.STAGES
]


@each_algorithm
@pytest.mark.parametrize(("what", "stage", "number"), KILLS)
def test_a_run_killed_in_any_round_goes_on_to_the_same_weights(
    algorithm: str,
    what: str,
    stage: str,
    number: int,
    whole: Callable[[str], ArmResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between two sites' replies, before and after a round's checkpoint; the sites restart as well."""
    study = study_with(algorithm)
    crash = (what, stage, number, "Berg") if what == "train" else None
    sites = TamperedSites(open_sessions(tmp_path, study), crash_at=crash)
    save = RunStore.save_round

    def cut(self: RunStore, arm: str, at_stage: str, round_index: int, *others: Any) -> str:
        here = (at_stage, round_index) == (stage, number)
        if here and what == "save_round":
            raise KeyboardInterrupt
        digest = save(self, arm, at_stage, round_index, *others)
        if here and what == "kept":
            raise KeyboardInterrupt
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "save_round", cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, study, sites)
    after = run(tmp_path, study, MemorySites(open_sessions(tmp_path, study)))
    assert digests(after) == digests(whole(algorithm))
    assert after.digest == whole(algorithm).digest == state_digest(after.weights)


# ---- SCAFFOLD


def alone(algorithm: str, folder: Path) -> ArmResult:
    study = study_with(algorithm, federation={"minimum_sites": 1, "weighting": "equal", "encoding": "fp32"})
    sites = MemorySites(open_sessions(folder, study, {"Alma": CENTRES["Alma"]}))
    return coordinator(folder, study, sites).run(["Alma"])


def test_scaffold_with_one_site_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    """There is nothing to correct: the mean control variate is the site's own, after every round."""
    ours, plain = (alone(name, tmp_path / name) for name in ("scaffold", "fedavg"))
    assert digests(ours) == digests(plain)


def test_a_reply_that_was_lost_is_not_in_the_mean_and_the_site_knows(tmp_path: Path) -> None:
    """The coordinator's control variate stays the mean of what the sites go on from, by their patients."""
    study = study_with("scaffold", pretrain={"rounds": 0})
    told: dict[tuple[str, int], int] = {}

    class LosingSites(TamperedSites):
        def train(self, orders: Any, deadline_s: float) -> Any:
            for order, reply in super().train(orders, deadline_s):
                told[order.site, order.round] = int(order.arrays[keys.CONTROL_ROUND][0])
                lost = (order.site, order.round) == ("Berg", 1)
                yield order, NoReply("refused", "lost on its way") if lost else reply

    sessions = open_sessions(tmp_path, study)
    run(tmp_path, study, LosingSites(sessions))
    assert [told[site, number] for site in ("Alma", "Berg") for number in range(3)] == [-1, 0, 1, -1, 0, 0]
    kept = RunStore(tmp_path / "checkpoints", study.digest).rule("full")
    assert kept is not None
    patients = {"Alma": 5, "Berg": 4, "Cork": 3}
    total = np.zeros(kept.arrays[keys.CONTROL].size)
    for site, session in sessions.items():
        memory = SiteMemory(session.folder / "memory", study.digest, "full", "scaffold/finetune")
        total += patients[site] * (memory.of(2) or {})[keys.CONTROL]
    assert np.linalg.norm(total) > 0
    np.testing.assert_allclose(kept.arrays[keys.CONTROL], total / 12, atol=1e-6)


# ---- FedBN


def test_the_global_norms_of_fedbn_are_the_mean_of_the_sites_own(tmp_path: Path) -> None:
    study = study_with("fedbn", pretrain={"rounds": 0}, federation={"encoding": "fp32"})
    sessions = open_sessions(tmp_path, study)
    run(tmp_path, study, MemorySites(sessions))
    latest = RunStore(tmp_path / "checkpoints", study.digest).latest("full")
    assert latest is not None
    assert latest.info.round_index == 2
    patients = {"Alma": 5, "Berg": 4, "Cork": 3}
    own = {
        site: SiteMemory(session.folder / "memory", study.digest, "full", "fedbn/finetune").of(2) or {}
        for site, session in sessions.items()
    }
    assert len(own["Alma"]) > 4
    for name in own["Alma"]:
        mean = sum(patients[site] * own[site][name].astype(float) for site in own) / 12
        np.testing.assert_allclose(latest.arrays[name], mean, atol=1e-6)
    for name in ("encoder.stem_norm.weight", "norm.bias", "norm.mean_tc"):
        assert len({own[site][name].tobytes() for site in own}) == 3


# ---- FedAdam, FedYogi


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi"])
def test_the_moments_are_in_the_checkpoint_and_a_run_does_not_go_on_without_them(
    algorithm: str, tmp_path: Path
) -> None:
    study = study_with(algorithm)
    hospitals = open_sessions(tmp_path, study)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, TamperedSites(hospitals, crash_at=("train", keys.FINETUNE, 2, "Berg")))
    kept = RunStore(tmp_path / "checkpoints", study.digest).rule("full")
    assert kept is not None
    assert (kept.info.stage, kept.info.round_index) == (keys.FINETUNE, 1)
    assert set(kept.arrays) == {FIRST, SECOND}
    assert kept.path.parent == tmp_path / "checkpoints" / "full"
    assert len(list(kept.path.parent.glob("*-rule.safetensors"))) == 1
    kept.path.unlink()
    with pytest.raises(StorageError, match="no such checkpoint"):
        run(tmp_path, study, MemorySites(hospitals))


def test_a_run_whose_index_does_not_name_the_moments_is_not_gone_on_with(tmp_path: Path) -> None:
    study = study_with("fedadam")
    hospitals = open_sessions(tmp_path, study)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, TamperedSites(hospitals, crash_at=("train", keys.FINETUNE, 1, "Berg")))
    index = tmp_path / "checkpoints" / "full" / "arm.json"
    index.write_text(index.read_text(encoding="utf-8").replace('"finetune-0000-rule.safetensors"', "null"))
    with pytest.raises(StorageError, match="what fedadam kept after round 1 is not there"):
        run(tmp_path, study, MemorySites(hospitals))


def test_what_the_rule_keeps_is_proved_whole_with_the_rest_of_a_run(tmp_path: Path) -> None:
    study = study_with("fedadam", pretrain={"rounds": 0}, finetune={"rounds": 1})
    folder = RunFolder.create(tmp_path / "runs", study, SITES)
    StudyRunner(folder, MemorySites(open_sessions(tmp_path, study))).run()
    assert faults_of(folder) == ()
    (rule,) = folder.checkpoints.rglob("*-rule.safetensors")
    content = bytearray(rule.read_bytes())
    content[-1] ^= 1
    rule.write_bytes(bytes(content))
    (fault,) = faults_of(folder)
    assert "finetune-0000-rule.safetensors: this checkpoint cannot be used" in fault
