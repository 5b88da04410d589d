from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from builders import TINY

from phcc_client.imaging import dataset, digest_book
from phcc_client.imaging.cache import entry_path, load
from phcc_client.imaging.case import PreparedCase, RawCase, Reading
from phcc_client.imaging.dataset import prepare_all, stack
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.imaging.preprocess import prepare
from phcc_client.site import write_site
from phcc_model.config import DataSettings, StudyConfig
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

    monkeypatch.setattr(digest_book, "_SETTLED_NS", -1_000_000_000)  # the files are as young as the test
    monkeypatch.setattr(dataset, "prepare", never)
    monkeypatch.setattr("hashlib.file_digest", never)
    second = prepare_all(sound, STUDY, tmp_path / "cache", jobs=2)
    assert second.entries == first.entries
    assert second.reused == 4


def test_a_damaged_entry_is_made_again_and_reported(reading: Reading, tmp_path: Path) -> None:
    first = prepare_all(reading, STUDY, tmp_path / "cache")
    path = entry_path(tmp_path / "cache", first.entries[2].key)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"\xff")
    second = prepare_all(reading, STUDY, tmp_path / "cache")
    assert second.reused == 3
    assert second.damaged == ("p4",)
    assert (first.damaged, prepare_all(reading, STUDY, tmp_path / "cache").damaged) == ((), ())
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
    with pytest.raises(StorageError, match="no space left on the disk"):
        prepare_all(reading, STUDY, cache, jobs=2)
    assert sorted(cache.rglob("*.safetensors")) == kept
    assert not list(cache.rglob("*.part"))


def test_what_nobody_foresaw_in_one_case_does_not_stop_the_rest(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(raw: RawCase, settings: DataSettings) -> PreparedCase:
        if raw.case == "p2":
            raise ZeroDivisionError("division\nby zero")
        return prepare(raw, settings)

    monkeypatch.setattr(dataset, "prepare", fails)
    preparation = prepare_all(reading, STUDY, tmp_path / "cache", jobs=2)
    assert [e.case for e in preparation.entries] == ["p0", "p4", "p5"]
    reason = {r.case: r.reason for r in preparation.rejections}["p2"]
    assert reason == "case p2: failed in a way that nobody foresaw (ZeroDivisionError: division by zero)"


def test_a_source_that_changes_while_it_is_prepared_is_set_aside(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(raw: RawCase, settings: DataSettings) -> PreparedCase:
        prepared = prepare(raw, settings)
        path = raw.images["arterial"].path
        assert path is not None
        if raw.case == "p2":
            path.write_bytes(path.read_bytes() + b"more")
        return prepared

    monkeypatch.setattr(dataset, "prepare", meanwhile)
    preparation = prepare_all(reading, STUDY, tmp_path / "cache")
    assert [e.case for e in preparation.entries] == ["p0", "p4", "p5"]
    assert {r.case: r.reason for r in preparation.rejections}["p2"] == "case p2: changes while it is read"
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3


PREPARES = """
import sys
from pathlib import Path
from phcc_client.imaging.dataset import prepare_all
from phcc_client.imaging.lld_mmri import read_lld_raw
from phcc_client.site import write_site
from phcc_model.config import DataSettings, StudyConfig
study = DataSettings.model_validate({"crop": {"size": (4, 8, 8), "spacing_mm": (3.0, 1.5, 1.5)}})
print("begins", flush=True)
print(prepare_all(read_lld_raw(Path(sys.argv[1]), study), study, Path(sys.argv[2]), jobs=2).reused, flush=True)
"""


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a cache but the book of digests, which only saves time."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in files if not p.name.startswith("digests.json")
    }


def test_killed_at_any_point_and_begun_again_it_ends_as_if_nothing_had_been(
    tmp_path: Path, write_lld: Any, textured: Any
) -> None:
    box = ((2, 4, 4), (5, 10, 12))
    patients = {f"p{i:02}": {"arterial": (textured(seed=i), *box)} for i in range(40)}
    source, cache = write_lld(tmp_path / "lld", patients), tmp_path / "killed"
    command = [sys.executable, "-c", PREPARES, str(source)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, timeout=60, capture_output=True)
    rng = random.Random(0)
    for _ in range(4):
        with subprocess.Popen([*command, str(cache)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.08))
            process.send_signal(signal.SIGKILL)
    subprocess.run([*command, str(cache)], check=True, timeout=60, capture_output=True)
    assert tree(cache) == tree(tmp_path / "whole")
    assert len(tree(cache)) == 40


def test_two_processes_prepare_one_cache_at_once(tmp_path: Path, write_lld: Any, textured: Any) -> None:
    box = ((2, 4, 4), (5, 10, 12))
    patients = {f"p{i:02}": {"arterial": (textured(seed=i), *box)} for i in range(40)}
    command = [sys.executable, "-c", PREPARES, str(write_lld(tmp_path / "lld", patients))]
    both = [subprocess.Popen([*command, str(tmp_path / "cache")], stdout=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    subprocess.run([*command, str(tmp_path / "alone")], check=True, timeout=60, capture_output=True)
    assert tree(tmp_path / "cache") == tree(tmp_path / "alone")
    again = subprocess.run([*command, str(tmp_path / "cache")], check=True, timeout=60, capture_output=True)
    assert again.stdout.split() == [b"begins", b"40"]


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path, write_lld: Any, textured: Any) -> None:
    settings = DataSettings.model_validate(
        {"phases": ("arterial",), "crop": {"size": (8, 64, 64), "spacing_mm": (3.0, 1.5, 1.5)}}
    )
    box = ((2, 4, 4), (5, 10, 12))
    patients = {f"p{i:02}": {"arterial": (textured(seed=i), *box)} for i in range(60)}
    reading = read_lld_raw(write_lld(tmp_path / "lld", patients), settings)
    peaks = []
    for cases, name in ((4, "few"), (60, "many"), (60, "many")):
        tracemalloc.start()
        preparation = prepare_all(Reading(reading.cases[:cases]), settings, tmp_path / name, jobs=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(preparation.entries) == cases
    # Sixty crops are 6 MB; a case's traces (its name, its key) are a few kilobytes.
    assert max(peaks[1:]) - peaks[0] < 1e6, peaks


TRAINS = """
import sys
from pathlib import Path
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import torch
from phcc_client.site import Site
from phcc_model.build import build_classifier
from phcc_model.config import StudyConfig
from phcc_model.training import finetune_round
study = StudyConfig.model_validate_json(sys.stdin.read())
sites = Path(sys.argv[1])
model = build_classifier(study)
for epoch in range(3):
    cases = Site.open(sites).load("train")
    finetune_round(model, cases, study, round_index=epoch % 2, site="north", device=torch.device("cpu"))
    print(*(path for path in opened if path.startswith(sys.argv[2])), sep="\\n")
    print("---")
    opened.clear()
"""


def test_training_reads_the_cache_once_and_never_a_source(reading: Reading, tmp_path: Path) -> None:
    study = StudyConfig.model_validate(TINY)
    cache, folder = tmp_path / "cache", tmp_path / "site"
    preparation = prepare_all(reading, study.data, cache)
    write_site(
        folder,
        name="north",
        settings=study.data,
        entries=preparation.entries,
        split_of={entry.case: "train" for entry in preparation.entries},
        cache=cache,
    )
    shutil.rmtree(tmp_path / "lld")
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, str(folder), str(tmp_path)],
        input=study.model_dump_json(),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second, third, _ = (set(part.split()) for part in done.stdout.split("---"))
    assert str(folder / "site.json") in first
    assert second == third == {str(folder / "site.json")}
