from __future__ import annotations

import json
import resource

import numpy as np
import pytest

from phcc_model.checkpoint import load_checkpoint, state_digest
from phcc_model.errors import StorageError
from phcc_server import store as store_module
from phcc_server.rounds import StudyState
from phcc_server.store import RunStore, write_atomically

STUDY = "a" * 64


def model(value: float) -> dict[str, np.ndarray]:
    return {"w": np.full((4, 5), value, np.float32), "seen": np.array(int(value))}


def keep(store: RunStore, round_index: int, best: int, *, stage: str = "finetune", arm: str = "full") -> None:
    """One round as the coordinator goes through it: trained, kept, evaluated, kept."""
    before = StudyState(stage, round_index, trained=True, best_round=None if round_index == 0 else best)
    store.save_round(arm, stage, round_index, model(round_index), before)
    store.save_state(arm, StudyState(stage, round_index + 1, best_round=best, best_loss=0.5))


def test_latest_and_best_are_kept_and_nothing_else(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    assert store.latest("full") is None
    assert store.best("full") is None
    assert store.state("full") is None
    for round_index, best in enumerate([0, 1, 1, 1, 4, 4]):
        keep(store, round_index, best)
        assert store.latest("full").info.round_index == round_index
        assert store.best("full").info.round_index == best
        np.testing.assert_array_equal(store.best("full").arrays["w"], model(best)["w"])
        names = {path.name for path in (tmp_path / "full").iterdir()}
        assert names == {
            "arm.json",
            f"finetune-{round_index:04d}.safetensors",
            f"finetune-{best:04d}.safetensors",
        }


def test_a_kept_round_is_what_was_given_and_its_digest_is_the_states(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    state = StudyState("pretrain", 3, trained=True, best_round=1, best_loss=0.25)
    digest = store.save_round("full", "pretrain", 3, model(3), state)
    stored = RunStore(tmp_path, STUDY).latest("full")
    assert digest == state_digest(model(3)) == state_digest(stored.arrays)
    assert (stored.info.stage, stored.info.round_index, stored.info.study_digest) == ("pretrain", 3, STUDY)
    assert RunStore(tmp_path, STUDY).state("full") == state
    np.testing.assert_array_equal(load_checkpoint(stored.path)[0]["w"], model(3)["w"])


def test_weights_before_the_first_round_can_be_kept(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    store.save_round("full", "pretrain", -1, model(9), StudyState("pretrain"))
    assert store.latest("full").info.round_index == -1
    assert store.best("full") is None


def test_the_second_stage_starts_without_a_best_and_ends_with_its_own(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    keep(store, 0, 0, stage="pretrain")
    store.save_round("full", "finetune", 0, model(5), StudyState("finetune", 0, trained=True))
    assert store.best("full") is None
    with pytest.raises(StorageError, match="has not finished"):
        store.final("full")
    store.save_state(
        "full", StudyState("finetune", 0, trained=True, best_round=0, best_loss=0.1, finished=True)
    )
    assert store.final("full").info.stage == "finetune"
    np.testing.assert_array_equal(store.final("full").arrays["w"], model(5)["w"])


def test_arms_have_folders_of_their_own_whatever_their_names(tmp_path) -> None:
    store = RunStore(tmp_path / "arms", STUDY)
    arms = ["full", "local:A", "local-A", "local/A", "../../etc", "phase:arterial", "..", "Zürich"]
    for at, arm in enumerate(arms):
        keep(store, at, at, arm=arm)
    assert [store.latest(arm).info.round_index for arm in arms] == list(range(len(arms)))
    assert [path.name for path in tmp_path.iterdir()] == ["arms"]
    assert len(list((tmp_path / "arms").iterdir())) == len(arms)


def test_a_crash_before_the_index_leaves_the_round_before(tmp_path, monkeypatch) -> None:
    store = RunStore(tmp_path, STUDY)
    keep(store, 0, 0)

    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "write_atomically", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save_round(
                "full", "finetune", 1, model(1), StudyState("finetune", 1, trained=True, best_round=0)
            )
    again = RunStore(tmp_path, STUDY)
    assert again.latest("full").info.round_index == 0
    assert again.state("full") == StudyState("finetune", 1, best_round=0, best_loss=0.5)
    keep(again, 1, 0)  # the round is done again, and the file that was left over is gone or replaced
    assert len(list((tmp_path / "full").glob("*.safetensors"))) == 2


def test_a_full_disk_leaves_what_was_there(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    keep(store, 0, 0)
    big = {"w": np.zeros(100_000, np.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageError, match="no space left"):
            store.save_round(
                "full", "finetune", 1, big, StudyState("finetune", 1, trained=True, best_round=0)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.latest("full").info.round_index == 0
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == [
        "arm.json",
        "finetune-0000.safetensors",
    ]


def test_a_damaged_checkpoint_or_index_is_one_line(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    keep(store, 0, 0)
    path = store.latest("full").path
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(StorageError, match="cannot be used"):
        store.latest("full")
    path.unlink()
    with pytest.raises(StorageError, match="no such checkpoint"):
        store.latest("full")
    index = tmp_path / "full" / "arm.json"
    for text in ("", "[]", "{}", '{"arm":"full"}'):
        index.write_text(text)
        with pytest.raises(StorageError, match="cannot be read as the index"):
            store.state("full")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path) -> None:
    store = RunStore(tmp_path, STUDY)
    keep(store, 0, 0)
    index = tmp_path / "full" / "arm.json"
    plain = json.loads(index.read_text())
    index.write_text(json.dumps(plain | {"latest": "../other/finetune-0000.safetensors"}))
    with pytest.raises(StorageError, match="cannot be read as the index"):
        store.latest("full")


def test_another_studys_folder_is_refused(tmp_path) -> None:
    keep(RunStore(tmp_path, STUDY), 0, 0)
    with pytest.raises(StorageError, match="another study"):
        RunStore(tmp_path, "b" * 64).state("full")


def test_an_evaluation_of_nothing_cannot_be_kept(tmp_path) -> None:
    with pytest.raises(StorageError, match="no round has been kept"):
        RunStore(tmp_path, STUDY).save_state("full", StudyState("finetune"))


def test_text_is_replaced_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "folder"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file.json"]
