"""Splits: a partition of the patients, stratified, stable, refused when a patient stands on two sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.splits import (
    SPLITS,
    Place,
    SplitCount,
    Splits,
    read_splits,
    split_patients,
    split_table,
    write_splits,
)
from phcc_model.config import CentreSettings, SplitSettings
from phcc_model.errors import SplitError, StorageError
from phcc_simulation.partition import PatientRow, assign_centres, external_centres, patient_labels

quick = settings(deadline=None, max_examples=60)
DEFAULT = SplitSettings()


def centre(
    n_negative: int, n_positive: int, *, n_unknown: int = 0, name: str = "A"
) -> tuple[dict[str, str], dict[str, int]]:
    labels = [0] * n_negative + [1] * n_positive + [-1] * n_unknown
    patients = {f"{name}{i:03d}": label for i, label in enumerate(labels)}
    return dict.fromkeys(patients, name), patients


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, int]]:
    assignment: dict[str, str] = {}
    labels: dict[str, int] = {}
    for name in draw(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=4, unique=True)):
        here, known = centre(
            *[draw(st.integers(0, 15)) for _ in range(2)], n_unknown=draw(st.integers(0, 3)), name=name
        )
        assignment |= here
        labels |= known
    return assignment, labels


@st.composite
def shares(draw: st.DrawFn) -> SplitSettings:
    test = draw(st.floats(0, 0.99))
    return SplitSettings(test=test, validation=draw(st.floats(0, 0.99 - test)))


@quick
@given(
    cohort=cohorts(), shares=shares(), seed=st.integers(0, 2**32), external=st.sets(st.sampled_from("ABCD"))
)
def test_a_split_is_a_stratified_partition(
    cohort: tuple[dict[str, str], dict[str, int]], shares: SplitSettings, seed: int, external: set[str]
) -> None:
    assignment, labels = cohort
    splits = split_patients(assignment, labels, shares, seed, external=external)
    placed = {place.patient: place for place in splits.places}
    assert len(placed) == len(splits.places)
    assert {patient: place.centre for patient, place in placed.items()} == assignment
    for place in splits.places:
        assert (place.split == "external") == (place.centre in external)
        assert place.split in ("train", "external") or labels[place.patient] != -1
    wanted = {
        "train": 1 - shares.test - shares.validation,
        "validation": shares.validation,
        "test": shares.test,
    }
    for name in set(assignment.values()) - external:
        for label in (0, 1):
            group = [str(placed[p].split) for p in assignment if (assignment[p], labels[p]) == (name, label)]
            for split, share in wanted.items():
                assert abs(group.count(split) - share * len(group)) < 1 + 1e-6
            assert "train" in group or not group


@quick
@given(data=st.data(), cohort=cohorts(), seed=st.integers(0, 2**32))
def test_the_order_of_a_table_does_not_matter(
    data: st.DataObject, cohort: tuple[dict[str, str], dict[str, int]], seed: int
) -> None:
    assignment, labels = cohort
    other = dict(data.draw(st.permutations(list(assignment.items()))))
    a, b = (split_patients(each, labels, DEFAULT, seed) for each in (assignment, other))
    assert a == b
    assert a.digest == b.digest


def test_one_centres_split_does_not_depend_on_another_centre() -> None:
    here, known = centre(20, 10)
    there, others = centre(9, 9, name="B")
    alone = split_patients(here, known, DEFAULT, 3)
    together = split_patients(here | there, known | others, DEFAULT, 3)
    assert alone.site("A") == together.site("A")


def test_another_seed_is_another_split() -> None:
    assignment, labels = centre(20, 10)
    digests = {split_patients(assignment, labels, DEFAULT, seed).digest for seed in range(10)}
    assert len(digests) == 10


@pytest.mark.parametrize("mode", ["by-centre", "iid", "dirichlet", "quantity", "scanner"])
def test_every_mode_of_virtual_centres_can_be_split(mode: str) -> None:
    rows = [PatientRow(f"p{i}", "ABC"[i % 3], "xy"[i % 2], int(i % 5 < 2)) for i in range(90)]
    wanted = CentreSettings.model_validate({"mode": mode, "external": ["C"]})
    assignment = assign_centres(rows, wanted, 0)
    splits = split_patients(assignment, patient_labels(rows), DEFAULT, 0, external=external_centres(wanted))
    assert splits.external == ("C",)
    assert sum(row.positives + row.negatives for row in split_table(splits, patient_labels(rows))) == 90
    assert {p.patient for p in splits.places} == {row.patient for row in rows}


@pytest.mark.parametrize(
    ("negatives", "positives", "expected"),
    [
        (1, 1, {"train": 2}),
        (2, 0, {"train": 1, "test": 1}),
        (1, 0, {"train": 1}),
        (0, 4, {"train": 2, "validation": 1, "test": 1}),
        (12, 8, {"train": 12, "validation": 3, "test": 5}),
    ],
)
def test_a_tiny_or_one_sided_centre_works(negatives: int, positives: int, expected: dict[str, int]) -> None:
    assignment, labels = centre(negatives, positives)
    splits = split_patients(assignment, labels, DEFAULT, 0)
    sizes = {split: len(splits.patients("A", split)) for split in SPLITS}
    assert {split: n for split, n in sizes.items() if n} == expected
    if negatives == 0 or positives == 0 or "test" not in expected:
        assert splits.warnings
    else:
        assert splits.warnings == ()


def test_what_a_centre_lacks_is_told() -> None:
    a, known_a = centre(40, 20)
    b, known_b = centre(0, 2, name="B")
    c, known_c = centre(0, 0, n_unknown=2, name="C")
    x, known_x = centre(3, 0, name="X")
    splits = split_patients(a | b | c | x, known_a | known_b | known_c | known_x, DEFAULT, 0, external=["X"])
    assert splits.warnings == (
        "B: no negative patient in train, it cannot learn to tell the classes apart",
        "B: no labelled patient in validation, the other centres choose the round",
        "B: no negative patient in test, it has no AUC of its own",
        "C: no labelled patient in train, it can only pre-train",
        "C: no labelled patient in validation, the other centres choose the round",
        "C: no labelled patient in test, it is not judged",
        "X: no positive patient in external, it has no AUC of its own",
    )


def test_no_validation_anywhere_is_told() -> None:
    assignment, labels = centre(30, 30)
    splits = split_patients(assignment, labels, SplitSettings(validation=0.0), 0)
    assert "no centre has a validation patient" in splits.warnings[-1]


def test_a_given_split_is_kept_and_only_its_training_patients_validate() -> None:
    assignment, labels = centre(60, 40)
    given_split = {p: "test" if i % 10 == 0 else "train" for i, p in enumerate(assignment)}
    splits = split_patients(
        assignment, labels, SplitSettings(test=0.25, validation=0.2), 0, given=given_split
    )
    assert set(splits.patients("A", "test")) == {p for p, side in given_split.items() if side == "test"}
    assert len(splits.patients("A", "validation")) == pytest.approx(0.2 * 90, abs=1)
    assert len(splits.patients("A", "train")) == pytest.approx(0.8 * 90, abs=1)


def test_a_given_split_with_validation_is_kept_whole() -> None:
    assignment, labels = centre(6, 6)
    given_split = {p: ("train", "validation", "test")[i % 3] for i, p in enumerate(assignment)}
    splits = split_patients(assignment, labels, DEFAULT, 0, given=given_split)
    assert splits.site("A") == given_split


def test_a_given_split_does_not_reach_an_external_centre() -> None:
    here, known = centre(6, 6)
    there, others = centre(2, 2, name="X")
    splits = split_patients(
        here | there, known | others, DEFAULT, 0, external=["X"], given=dict.fromkeys(here, "train")
    )
    assert set(splits.site("X").values()) == {"test"}
    assert splits.patients("X", "external") == tuple(there)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"A000": "tset"}, "patient A000: has the split 'tset'"),
        ({"A000": None}, "patient A000: has no split"),
    ],
)
def test_a_given_split_that_is_incomplete_is_refused(change: dict[str, Any], line: str) -> None:
    assignment, labels = centre(3, 3)
    wrong = {p: side for p, side in (dict.fromkeys(assignment, "train") | change).items() if side}
    with pytest.raises(SplitError, match=line):
        split_patients(assignment, labels, DEFAULT, 0, given=wrong)


@pytest.mark.parametrize(
    "other", [Place("A", "test", "p"), Place("B", "train", "p"), Place("A", "train", "p")]
)
def test_a_patient_on_two_sides_is_refused(other: Place) -> None:
    with pytest.raises(SplitError, match=r"patient p: stands on two sides, A/train and .*Split by patient"):
        Splits((Place("A", "train", "p"), Place("A", "train", "q"), other))


def test_the_picture_counts_by_centre_split_and_label() -> None:
    here, known = centre(8, 4, n_unknown=1)
    there, others = centre(2, 3, n_unknown=1, name="X")
    splits = split_patients(here | there, known | others, DEFAULT, 0, external=["X"])
    assert split_table(splits, known | others) == [
        SplitCount("A", "train", 2, 5, 1),
        SplitCount("A", "validation", 1, 1, 0),
        SplitCount("A", "test", 1, 2, 0),
        SplitCount("X", "external", 3, 2, 1),
    ]


@quick
@given(cohort=cohorts(), seed=st.integers(0, 2**32), external=st.sets(st.sampled_from("ABCD"), max_size=2))
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    cohort: tuple[dict[str, str], dict[str, int]],
    seed: int,
    external: set[str],
) -> None:
    path = tmp_path_factory.getbasetemp() / "run" / "splits.json"
    splits = split_patients(*cohort, DEFAULT, seed, external=external)
    write_splits(splits, path)
    assert read_splits(path) == splits
    assert [file.name for file in path.parent.iterdir()] == ["splits.json"]


def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "splits.json"
    write_splits(split_patients(*centre(8, 8), DEFAULT, 0), path)
    return path, json.loads(path.read_text())


def test_a_file_with_a_patient_on_two_sides_is_refused(tmp_path: Path) -> None:
    path, tree = written(tmp_path)
    tree["centres"]["A"]["test"].append(tree["centres"]["A"]["train"][0])
    path.write_text(json.dumps(tree))
    with pytest.raises(SplitError, match="stands on two sides, A/train and A/test"):
        read_splits(path)


def test_a_file_changed_after_it_was_written_is_refused(tmp_path: Path) -> None:
    path, tree = written(tmp_path)
    tree["centres"]["A"]["test"].append(tree["centres"]["A"]["train"].pop())
    path.write_text(json.dumps(tree))
    with pytest.raises(SplitError, match="was changed after it was written"):
        read_splits(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": "phcc-splits/9"}',
        '{"digest": "", "warnings": [], "centres": {"A": {"tset": []}}}',
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(StorageError, match=r"splits\.json: is not a file of splits") as caught:
        read_splits(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"none\.json: cannot be read"):
        read_splits(tmp_path / "none.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_splits(split_patients(*centre(2, 2), DEFAULT, 0), tmp_path / "file" / "splits.json")
