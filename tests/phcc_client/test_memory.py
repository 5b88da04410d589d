from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phcc_client.memory import KEPT_ROUNDS, SiteMemory
from phcc_model.errors import StorageError

DIGEST, OTHER = "a" * 64, "b" * 64


def held(value: float) -> dict[str, np.ndarray]:
    return {"features": np.full((2, 3), value), "count": np.array(value)}


def test_a_round_begins_with_what_the_round_before_kept(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full")
    assert memory.before(0) is None
    assert memory.before(1) is None
    memory.keep(0, held(1.5))
    memory.keep(1, held(2.5))
    for round_index, value in ((1, 1.5), (2, 2.5)):
        found = SiteMemory(tmp_path, DIGEST, "full").before(round_index)
        assert found is not None
        assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in held(value).items()}


def test_a_round_done_again_replaces_what_it_kept(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full")
    for value in (1.0, 2.0):
        memory.keep(0, held(value))
    found = memory.before(1)
    assert found is not None
    assert found["count"] == 2.0


def test_old_rounds_are_dropped_and_the_last_ones_stay(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full")
    for round_index in range(10):
        memory.keep(round_index, held(round_index))
    assert len(list(memory.folder.iterdir())) == KEPT_ROUNDS
    # The last round can be ordered again, and the one before it.
    assert [memory.before(r) is None for r in (7, 8, 9, 10)] == [True, False, False, False]


@pytest.mark.parametrize(("digest", "arm"), [(DIGEST, "mean"), (OTHER, "full"), (OTHER, "mean")])
def test_arms_and_studies_are_kept_apart(digest: str, arm: str, tmp_path: Path) -> None:
    SiteMemory(tmp_path, DIGEST, "full").keep(0, held(1))
    assert SiteMemory(tmp_path, digest, arm).before(1) is None


@pytest.mark.parametrize("arm", ["../../etc", "/abs", "local:A/B", ".", "x" * 500, "\x00"])
def test_an_arms_name_never_leads_out_of_the_folder(arm: str, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    SiteMemory(folder, DIGEST, arm).keep(0, held(1))
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.safetensors")] == ["memory"]
    assert [path.parent.parent for path in tmp_path.rglob("*.safetensors")] == [folder]


def test_a_damaged_memory_is_named(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full")
    memory.keep(0, held(1))
    (file,) = memory.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StorageError, match=f"{file.name}: this checkpoint cannot be used"):
        memory.before(1)


def test_a_memory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="taken"):
        SiteMemory(tmp_path / "taken", DIGEST, "full").keep(0, held(1))


def test_after_an_absence_the_last_round_is_found_and_later_ones_never(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full", "own")
    assert memory.last_before(5) is None
    for round_index in (1, 4, 9):
        memory.keep(round_index, held(round_index))
    found = [memory.last_before(r) for r in (1, 2, 4, 5, 9, 10)]
    assert [f and float(f["count"]) for f in found] == [None, 1.0, 1.0, 4.0, 4.0, 9.0]
    memory.keep(4, held(0.5))  # the study went on from an earlier point
    again = memory.last_before(10)
    assert again is not None
    assert again["count"] == 0.5


def test_a_round_that_is_needed_stays_however_old_it_is(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path, DIGEST, "full", "own")
    for round_index in range(10):
        memory.keep(round_index, held(round_index), needed=2)
    assert [memory.of(r) is not None for r in range(10)] == [r in (2, 7, 8, 9) for r in range(10)]


def test_kinds_of_memory_are_kept_apart(tmp_path: Path) -> None:
    SiteMemory(tmp_path, DIGEST, "full").keep(0, held(1))
    assert SiteMemory(tmp_path, DIGEST, "full", "own").last_before(1) is None
