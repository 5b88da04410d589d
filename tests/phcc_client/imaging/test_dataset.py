from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from phcc_client.imaging import dataset
from phcc_client.imaging.cache import entry_path, load
from phcc_client.imaging.case import Reading
from phcc_client.imaging.dataset import prepare_all, stack
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.imaging.preprocess import prepare
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError, StorageError

STUDY = DataSettings.model_validate({"crop": {"size": (4, 8, 8), "spacing_mm": (3.0, 1.5, 1.5)}})


@pytest.fixture
def reading(tmp_path: Path, write_lld: Any, textured: Any) -> Reading:
    patients = {
        f"p{i}": {p: (textured(seed=10 * i + k), (2, 4, 4), (5, 10, 12)) for k, p in enumerate(STUDY.phases)}
        for i in range(6)
    }
    nan = textured(seed=99).astype(np.float32)
    nan[3, 7, 7] = np.nan
    patients["p3"]["arterial"] = (nan, (2, 4, 4), (5, 10, 12))
    folder = write_lld(tmp_path / "lld", patients)
    truncated = folder / "images" / "p1" / "study" / "s2.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    clinical = "patient,proliferative,centre\n" + "".join(f"p{i},{i % 2},A\n" for i in range(6))
    (folder / "clinical.csv").write_text(clinical)
    return read_lld_raw(folder, STUDY)


def test_bad_cases_are_set_aside_counted_and_never_fatal(reading: Reading, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    preparation = prepare_all(
        reading, STUDY, tmp_path / "cache", jobs=2, progress=lambda done, total: seen.append((done, total))
    )
    assert [e.case for e in preparation.entries] == ["p0", "p2", "p4", "p5"]
    assert [e.label for e in preparation.entries] == [0, 0, 0, 1]
    assert [(r.case, r.patient) for r in preparation.rejections] == [("p1", "p1"), ("p3", "p3")]
    assert "s2.nii.gz: " in preparation.rejections[0].reason
    assert "not numbers" in preparation.rejections[1].reason
    assert all(r.remedy for r in preparation.rejections)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert preparation.reused == 0


def test_the_result_does_not_depend_on_how_many_work_on_it(reading: Reading, tmp_path: Path) -> None:
    one = prepare_all(reading, STUDY, tmp_path / "one", jobs=1)
    four = prepare_all(reading, STUDY, tmp_path / "four", jobs=4)
    assert one == four
    for entry in one.entries:
        a, b = (entry_path(tmp_path / name, entry.key).read_bytes() for name in ("one", "four"))
        assert a == b


def test_a_second_run_finds_everything(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_all(reading, STUDY, tmp_path / "cache")
    sound = Reading(tuple(c for c in reading.cases if c.case not in ("p1", "p3")))

    def never(*_: object) -> NoReturn:
        raise AssertionError("prepared again")

    monkeypatch.setattr(dataset, "prepare", never)
    monkeypatch.setattr("hashlib.file_digest", never)
    second = prepare_all(sound, STUDY, tmp_path / "cache", jobs=2)
    assert second.entries == first.entries
    assert second.reused == 4


def test_a_damaged_entry_is_made_again(reading: Reading, tmp_path: Path) -> None:
    first = prepare_all(reading, STUDY, tmp_path / "cache")
    path = entry_path(tmp_path / "cache", first.entries[2].key)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"\xff")
    second = prepare_all(reading, STUDY, tmp_path / "cache")
    assert second.reused == 3
    assert path.read_bytes() == sound


def test_what_is_cached_is_what_is_prepared(reading: Reading, tmp_path: Path) -> None:
    entry = prepare_all(reading, STUDY, tmp_path / "cache").entries[0]
    cached, fresh = load(tmp_path / "cache", entry.key), prepare(reading.cases[0], STUDY)
    assert cached is not None
    assert np.array_equal(cached.volumes_pdhw, fresh.volumes_pdhw)
    cases = stack(reading.cases[:1], [fresh])
    assert (cases.case, cases.label_n.tolist()) == (("p0",), [0])
    assert np.array_equal(cases.volumes_npdhw[0], fresh.volumes_pdhw)


def test_nothing_prepared_is_an_error(reading: Reading, tmp_path: Path) -> None:
    bad = Reading(tuple(c for c in reading.cases if c.case in ("p1", "p3")))
    with pytest.raises(DatasetError, match="none of its 2 cases can be used; the first, p1, because"):
        prepare_all(bad, STUDY, tmp_path / "cache", jobs=2)


def test_a_full_disk_ends_the_preparation_in_one_line_and_keeps_what_was_written(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    prepare_all(Reading(reading.cases[:1]), STUDY, cache)
    kept = sorted(cache.rglob("*.safetensors"))

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="the disk is full"):
        prepare_all(reading, STUDY, cache, jobs=2)
    assert sorted(cache.rglob("*.safetensors")) == kept
    assert not list(cache.rglob("*.part"))
