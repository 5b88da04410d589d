from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import save_file

from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, state_digest
from phcc_model.errors import StorageError

INFO = CheckpointInfo(stage="finetune", round_index=3, study_digest="ab" * 32)

array = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.uint8]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
)
states = st.dictionaries(st.text("abc.0_é", min_size=1, max_size=12), array, max_size=5)


def example_state() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {"encoder.weight": rng.normal(size=(8, 4)).astype(np.float32), "step": np.array(7, np.int64)}


@settings(deadline=None, max_examples=40)
@given(state=states)
def test_what_is_saved_is_loaded(state: dict[str, NDArray[Any]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "round.safetensors"
    digest = save_checkpoint(path, state, INFO)
    loaded, info = load_checkpoint(path)
    assert info == INFO
    assert digest == state_digest(state) == state_digest(loaded)
    assert loaded.keys() == state.keys()
    for name, expected in state.items():
        assert loaded[name].dtype == expected.dtype
        np.testing.assert_array_equal(loaded[name], expected)


def test_a_transposed_view_is_stored_as_it_reads(tmp_path: Path) -> None:
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save_checkpoint(tmp_path / "c", {"view": view}, INFO)
    loaded, _ = load_checkpoint(tmp_path / "c")
    np.testing.assert_array_equal(loaded["view"], view)


def test_the_digest_tells_names_shapes_types_and_values_apart() -> None:
    zeros = np.zeros(4, np.float32)
    digests = {
        state_digest(state)
        for state in (
            {"a": zeros},
            {"b": zeros},
            {"a": zeros.reshape(2, 2)},
            {"a": zeros.astype(np.float64)},
            {"a": np.array([0, 0, 0, 1], np.float32)},
            {},
        )
    }
    assert len(digests) == 6
    assert state_digest({"a": zeros, "b": zeros}) == state_digest({"b": zeros, "a": zeros})


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "round.safetensors"
    save_checkpoint(path, example_state(), INFO)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"cannot be used.*earlier round"):
            load_checkpoint(path)


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "round.safetensors"
    save_checkpoint(path, example_state(), INFO)
    content = path.read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StorageError, match="cannot be used"):
            load_checkpoint(path)


def test_a_rewritten_manifest_is_found(tmp_path: Path) -> None:
    path = tmp_path / "round.safetensors"
    save_checkpoint(path, example_state(), INFO)
    content = path.read_bytes()
    assert content.count(b"finetune") == 1
    path.write_bytes(content.replace(b"finetune", b"pretrain"))
    with pytest.raises(StorageError, match="manifest has been changed"):
        load_checkpoint(path)


@pytest.mark.parametrize("manifest", [None, "no json", json.dumps([1]), json.dumps({"seal": "x"})])
def test_a_file_of_another_program_is_refused(tmp_path: Path, manifest: str | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file(example_state(), path, {"phcc-checkpoint": manifest} if manifest else None)
    with pytest.raises(StorageError, match="cannot be used"):
        load_checkpoint(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such checkpoint.*run the stage"):
        load_checkpoint(tmp_path / "nothing")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "round.safetensors"
    old = save_checkpoint(path, example_state(), INFO)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"no space left.*make room"):
        save_checkpoint(path, {"a": np.ones(3)}, replace(INFO, round_index=4))
    state, info = load_checkpoint(path)
    assert (state_digest(state), info.round_index) == (old, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(StorageError, match=r"file/round.*cannot be written"):
        save_checkpoint(occupied / "round", example_state(), INFO)


def test_the_coordinator_stores_and_counts_without_torch() -> None:
    code = "import sys, phcc_model.checkpoint, phcc_model.threshold; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
