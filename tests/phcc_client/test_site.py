from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phcc_client.imaging.cache import entry_path, store
from phcc_client.imaging.case import PreparedCase, Rejection, Remark
from phcc_client.imaging.dataset import Entry
from phcc_client.site import SITE_FILE, Site, Split, write_site
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError, SplitError, StorageError

STUDY = DataSettings.model_validate({"crop": {"size": (2, 4, 6), "spacing_mm": (3.0, 1.5, 1.5)}})
SIDES: dict[str, Split] = {"a": "train", "a_1": "train", "b": "train", "c": "validation", "d": "test"}


def entry(case: str, label: int, afp: float, number: int) -> Entry:
    return Entry(case, case[0], "North", None, label, afp, None, f"{number:064x}")


ENTRIES = [
    entry("a", 1, 12.5, 1),
    entry("a_1", 0, 12.5, 2),
    entry("b", -1, math.nan, 3),
    entry("c", 0, 3.0, 4),
    entry("d", 1, 900.0, 5),
]


def crop(number: int) -> PreparedCase:
    volumes = np.random.default_rng(number).standard_normal((4, 2, 4, 6)).astype(np.float16)
    return PreparedCase(
        volumes, np.array([True, True, number != 2, True]), np.ones((2, 4, 6), dtype=np.uint8)
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder: a cache with five crops, and one site."""
    out = tmp_path / "run"
    for number, one in enumerate(ENTRIES, start=1):
        store(out / "cache", one.key, crop(number))
    write(out)
    return out


def write(out: Path, **changes: Any) -> Site:
    given: dict[str, Any] = {
        "name": "north",
        "settings": STUDY,
        "entries": ENTRIES,
        "split_of": SIDES,
        "cache": out / "cache",
        "rejections": [Rejection("z", "z", "is broken", "Mend it")],
        "remarks": [Remark("b", "AFP is unknown")],
    }
    return write_site(out / "sites" / "north", **{**given, **changes})


def test_what_was_written_is_loaded(run: Path) -> None:
    site = Site.open(run / "sites" / "north")
    assert site.name == "north"
    assert site.phases == STUDY.phases
    cases = site.load("train")
    assert cases.case == ("a", "a_1", "b")
    assert cases.patient == ("a", "a", "b")
    assert cases.label_n.tolist() == [1, 0, -1]
    assert cases.afp_n.tolist()[:2] == [12.5, 12.5]
    assert math.isnan(cases.afp_n[2])
    assert cases.present_np[1].tolist() == [True, True, False, True]
    for i in range(3):
        assert np.array_equal(cases.volumes_npdhw[i], crop(i + 1).volumes_pdhw)
    assert cases.lesion_ndhw.dtype == np.uint8
    assert len(site.load("validation")) == 1
    assert site.load("test").case == ("d",)


def test_counts_by_split_and_class(run: Path) -> None:
    assert Site.open(run / "sites" / "north").counts() == {
        "train": {"positive": 1, "negative": 1, "unknown": 1},
        "validation": {"positive": 0, "negative": 1, "unknown": 0},
        "test": {"positive": 1, "negative": 0, "unknown": 0},
    }


def test_the_funnel_keeps_what_was_set_aside(run: Path) -> None:
    funnel = Site.open(run / "sites" / "north").record.funnel
    assert (funnel.read, funnel.prepared) == (6, 5)
    assert [(r.case, r.reason, r.remedy) for r in funnel.rejections] == [("z", "is broken", "Mend it")]
    assert [(r.case, r.text) for r in funnel.remarks] == [("b", "AFP is unknown")]


def test_a_split_may_be_empty(run: Path) -> None:
    site = write(run, entries=ENTRIES[:3])
    cases = site.load("test")
    assert len(cases) == 0
    assert cases.volumes_npdhw.shape == (0, 4, 2, 4, 6)


def test_loading_again_in_this_process_costs_nothing(run: Path) -> None:
    first = Site.open(run / "sites" / "north").load("train")
    assert Site.open(run / "sites" / "north").load("train") is first
    swapped = [*ENTRIES[:2], entry("b", -1, math.nan, 4)]
    assert not np.array_equal(write(run, entries=swapped).load("train").volumes_npdhw, first.volumes_npdhw)


def test_a_run_s_folder_can_be_moved_as_a_whole(run: Path, tmp_path: Path) -> None:
    assert Site.open(run / "sites" / "north").record.cache == "../../cache"
    shutil.move(run, tmp_path / "moved")
    assert len(Site.open(tmp_path / "moved" / "sites" / "north").load("train")) == 3


def test_a_cache_far_away_is_named_in_full(run: Path, tmp_path: Path) -> None:
    far = tmp_path / "x" / "y" / "z" / "north"
    site = write_site(far, name="n", settings=STUDY, entries=ENTRIES, split_of=SIDES, cache=run / "cache")
    assert site.record.cache == str((run / "cache").resolve())
    assert len(Site.open(far).load("test")) == 1


def test_a_patient_in_two_splits_is_refused_when_written_and_when_opened(run: Path) -> None:
    with pytest.raises(SplitError, match="patient a stands both in train and in test"):
        write(run, split_of={**SIDES, "a_1": "test"})
    file = run / "sites" / "north" / SITE_FILE
    content = json.loads(file.read_text())
    content["cases"][1]["split"] = "validation"
    file.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="patient a stands both in train and in validation"):
        Site.open(run / "sites" / "north")


def test_every_case_has_a_split_and_a_name_of_its_own(run: Path) -> None:
    with pytest.raises(SplitError, match="case d has no split"):
        write(run, split_of={k: v for k, v in SIDES.items() if k != "d"})
    with pytest.raises(DatasetError, match="case a is named twice"):
        write(run, entries=[ENTRIES[0], ENTRIES[0]])


def test_a_site_is_prepared_for_a_study(run: Path) -> None:
    site = Site.open(run / "sites" / "north")
    site.must_suit(STUDY.model_copy(update={"path": "/elsewhere"}))
    with pytest.raises(DatasetError, match="other phases, crop or normalisation"):
        site.must_suit(STUDY.model_copy(update={"normalisation": "z-score"}))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema_version": 2}, "schema_version: input should be 1"),
        ({"surprise": 1}, "surprise: extra inputs are not permitted"),
        ({"name": ""}, "name: "),
        ({"phases": ["venous"]}, "phases.0: "),
        ({"cases": [{"case": "a"}]}, r"cases.0.patient: field required"),
    ],
)
def test_a_site_s_file_is_validated(run: Path, change: dict[str, Any], what: str) -> None:
    file = run / "sites" / "north" / SITE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError, match=what) as caught:
        Site.open(run / "sites" / "north")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "\xff"])
def test_a_damaged_file_ends_in_one_line(run: Path, content: str) -> None:
    (run / "sites" / "north" / SITE_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match="is no JSON"):
        Site.open(run / "sites" / "north")


def test_a_folder_without_a_site_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no prepared site here"):
        Site.open(tmp_path)


@pytest.mark.parametrize("how", ["missing", "truncated", "another size"])
def test_a_crop_that_is_missing_or_damaged_is_named(run: Path, how: str) -> None:
    path = entry_path(run / "cache", ENTRIES[4].key)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        other = PreparedCase(
            np.zeros((4, 2, 4, 4), np.float16), np.ones(4, bool), np.zeros((2, 4, 4), np.uint8)
        )
        store(run / "cache", ENTRIES[4].key, other)
    with pytest.raises(StorageError, match="crop of case d is missing or damaged"):
        Site.open(run / "sites" / "north").load("test")
