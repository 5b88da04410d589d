from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.cache import case_key, clear_up, entry_path, load, preparation_digest, store
from phcc_client.imaging.case import Box, PhaseImage, PreparedCase, RawCase
from phcc_client.imaging.digest_book import DigestBook
from phcc_model.config import DataSettings, Phase


def prepared(seed: int = 0) -> PreparedCase:
    rng = np.random.default_rng(seed)
    return PreparedCase(
        rng.standard_normal((2, 4, 6, 8)).astype(np.float16),
        np.array([True, False]),
        (rng.random((4, 6, 8)) < 0.3).astype(np.uint8),
    )


@pytest.fixture
def raw(tmp_path: Path) -> RawCase:
    images: dict[Phase, PhaseImage] = {}
    phases: tuple[Phase, ...] = ("arterial", "delayed", "hepatobiliary")
    for phase in phases:
        path = tmp_path / f"{phase}.nii"
        path.write_text(phase)
        images[phase] = PhaseImage(phase, path, (3.0, 1.0, 1.0), Box((0, 0, 0), (2, 2, 2)))
    return RawCase("c", "p", images)


def path_of(raw: RawCase, phase: Phase) -> Path:
    path = raw.images[phase].path
    assert path is not None
    return path


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    key = "ab" * 32
    assert load(tmp_path, key) is None
    store(tmp_path, key, prepared())
    found = load(tmp_path, key)
    assert found is not None
    for name in ("volumes_pdhw", "present_p", "lesion_dhw"):
        assert np.array_equal(getattr(found, name), getattr(prepared(), name))
        assert getattr(found, name).dtype == getattr(prepared(), name).dtype
    assert [p for p in tmp_path.rglob("*") if p.suffix == ".part"] == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "replaced"])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, damage: str) -> None:
    key = "ab" * 32
    store(tmp_path, key, prepared())
    path = entry_path(tmp_path, key)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-10]
    elif damage == "flipped":
        content[-500] ^= 1
    elif damage == "emptied":
        content = bytearray()
    else:
        content = bytearray(b"something else")
    path.write_bytes(bytes(content))
    assert load(tmp_path, key) is None


def test_a_key_is_what_the_crop_is_made_from(raw: RawCase, tmp_path: Path) -> None:
    settings = DataSettings(phases=("arterial", "delayed"))
    book = DigestBook(tmp_path / "book.json")
    key = case_key(raw, settings, book)
    assert case_key(replace(raw, case="other", patient="q", label=1, afp=3.0), settings, book) == key
    elsewhere = settings.model_copy(
        update={"path": "/elsewhere", "label": "stage", "required_phases": ("arterial",)}
    )
    assert case_key(raw, elsewhere, book) == key
    for change in (
        {"clip": 2.0},
        {"smoothing_voxels": 0.0},
        {"phases": ("arterial",)},
        {"normalisation": "none"},
    ):
        assert case_key(raw, settings.model_copy(update=change), book) != key
    images = dict(raw.images)
    images["delayed"] = replace(images["delayed"], box=Box((0, 0, 0), (2, 2, 3)))
    assert case_key(replace(raw, images=images), settings, book) != key
    images["delayed"] = replace(raw.images["delayed"], spacing_mm_dhw=(3.0, 1.0, 1.1))
    assert case_key(replace(raw, images=images), settings, book) != key
    # The phase that a lesion was drawn on decides where the crop lies.
    assert case_key(replace(raw, lesion_phase="delayed", mask=path_of(raw, "delayed")), settings, book) != (
        case_key(replace(raw, lesion_phase="arterial", mask=path_of(raw, "delayed")), settings, book)
    )
    # A phase that is not of the study does not matter, unless the lesion's place is known from it.
    without: dict[Phase, PhaseImage] = {p: image for p, image in raw.images.items() if p != "hepatobiliary"}
    assert case_key(replace(raw, images=without), settings, book) == key
    path = raw.images["arterial"].path
    assert path is not None
    path.write_text("changed!")
    assert case_key(raw, settings, DigestBook(tmp_path / "none.json")) != key


def test_a_renamed_file_has_the_same_key(raw: RawCase, tmp_path: Path) -> None:
    settings = DataSettings(phases=("arterial",))
    key = case_key(raw, settings, DigestBook(tmp_path / "a.json"))
    path = raw.images["arterial"].path
    assert path is not None
    moved = path.rename(tmp_path / "moved.nii")
    images = dict(raw.images) | {"arterial": replace(raw.images["arterial"], path=moved)}
    assert case_key(replace(raw, images=images), settings, DigestBook(tmp_path / "b.json")) == key


def test_arrays_in_memory_are_addressed_by_content() -> None:
    settings = DataSettings(phases=("image",))
    book = DigestBook(Path("nowhere"))

    def key(array: Any) -> str:
        return case_key(
            RawCase("c", "p", {"image": PhaseImage("image", None, array_dhw=array)}), settings, book
        )

    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert key(array) == key(array.copy()) == key(np.asfortranarray(array))
    assert len({key(array), key(array.reshape(4, 3, 2)), key(array.astype(np.int8)), key(array + 1)}) == 4


def test_the_settings_digest_follows_what_alters_a_voxel() -> None:
    assert preparation_digest(DataSettings()) == preparation_digest(
        DataSettings(path="/x", source="nifti-csv")
    )
    assert preparation_digest(DataSettings()) != preparation_digest(DataSettings(clip=1.0))


HAMMER = """
import sys
from pathlib import Path
import numpy as np
from phcc_client.imaging.cache import clear_up, load, store
from phcc_client.imaging.case import PreparedCase
cache = Path(sys.argv[1])
for i in range(60):
    for j in range(4):
        key = f"{j:02x}" * 32
        volumes, lesion = np.full((2, 8, 32, 32), j, np.float16), np.ones((8, 32, 32), np.uint8)
        store(cache, key, PreparedCase(volumes, np.ones(2, bool), lesion))
        clear_up(cache)
        found = load(cache, key)
        assert found is not None and float(found.volumes_pdhw.max()) == j, (i, j)
"""


def test_two_processes_write_read_and_clear_up_one_cache_at_a_time(tmp_path: Path) -> None:
    hammers = [subprocess.Popen([sys.executable, "-c", HAMMER, str(tmp_path)]) for _ in range(2)]
    assert [hammer.wait(timeout=60) for hammer in hammers] == [0, 0]
    assert clear_up(tmp_path) == 0
    assert len(list(tmp_path.rglob("*"))) == 8  # four folders, one entry each, nothing else


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from phcc_client.imaging.cache import store
from phcc_client.imaging.case import PreparedCase
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
case = PreparedCase(np.ones((1, 2, 2, 2), np.float16), np.ones(1, bool), np.ones((2, 2, 2), np.uint8))
store(Path(sys.argv[1]), "ab" * 32, case)
"""


def test_what_a_killed_process_left_half_written_is_no_entry_and_is_removed(tmp_path: Path) -> None:
    key = "ab" * 32
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60).returncode == -9
    left = list((tmp_path / "ab").iterdir())
    assert [path.suffix for path in left] == [".part"]
    assert load(tmp_path, key) is None
    kept = tmp_path / "ab" / "not-ours.part"
    kept.write_text("somebody else's")
    assert clear_up(tmp_path) == 1
    assert list((tmp_path / "ab").iterdir()) == [kept]
