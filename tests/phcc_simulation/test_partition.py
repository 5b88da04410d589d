"""Virtual centres: every patient once, lesions together, and one readable line for what cannot be dealt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.config import CentreSettings
from phcc_model.errors import SplitError
from phcc_simulation.partition import (
    FEWEST_PATIENTS,
    PatientRow,
    apportion,
    assign_centres,
    external_centres,
    patient_labels,
)

quick = settings(deadline=None, max_examples=60)


def cohort(
    n: int, *, prevalence: float = 0.4, centres: tuple[str, ...] = ("A", "B", "C")
) -> list[PatientRow]:
    return [
        PatientRow(
            f"p{i:03d}", centres[i % len(centres)], f"scanner {i % 2}", int(i * prevalence % 1 < prevalence)
        )
        for i in range(n)
    ]


def centre_settings(**keys: Any) -> CentreSettings:
    return CentreSettings.model_validate(keys)


@st.composite
def cohorts(draw: st.DrawFn) -> list[PatientRow]:
    """6 to 60 patients of three centres and two scanners, any labels, up to three lesions each, any order."""
    rows = []
    for i in range(draw(st.integers(6, 60))):
        labels = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=3))
        rows += [PatientRow(f"p{i}", "ABC"[i % 3], "xy"[i // 3 % 2], label) for label in labels]
    return draw(st.permutations(rows))


@quick
@given(
    rows=cohorts(),
    mode=st.sampled_from(["by-centre", "iid", "dirichlet", "quantity", "scanner"]),
    count=st.integers(1, 3),
    alpha=st.sampled_from([0.1, 0.5, 5.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_every_patient_has_one_centre_whatever_the_order(
    rows: list[PatientRow], mode: str, count: int, alpha: float, seed: int
) -> None:
    wanted = centre_settings(mode=mode, count=count, alpha=alpha)
    try:
        assignment = assign_centres(rows, wanted, seed)
    except SplitError:
        if mode == "dirichlet":  # only label skew may find no draw that serves every centre
            return
        raise
    assert list(assignment) == sorted({row.patient for row in rows})
    sizes = Counter(assignment.values())
    assert min(sizes.values()) >= FEWEST_PATIENTS
    expected = {"by-centre": set("ABC"), "scanner": set("xy")}
    assert set(sizes) == expected.get(mode, {f"virtual-{k}" for k in range(1, count + 1)})
    assert assign_centres(rows[::-1], wanted, seed) == assignment


@pytest.mark.parametrize("mode", ["iid", "dirichlet", "quantity"])
def test_another_seed_deals_otherwise(mode: str) -> None:
    rows = cohort(90)
    wanted = centre_settings(mode=mode)
    assert assign_centres(rows, wanted, 0) != assign_centres(rows, wanted, 1)


def test_the_data_decide_by_centre_and_by_scanner() -> None:
    rows = cohort(30)
    assert assign_centres(rows, centre_settings(), 0) == {row.patient: row.centre for row in rows}
    by_scanner = assign_centres(rows, centre_settings(mode="scanner"), 0)
    assert by_scanner == {row.patient: row.scanner for row in rows}


def test_iid_centres_differ_by_one_patient_at_most() -> None:
    sizes = Counter(assign_centres(cohort(50), centre_settings(mode="iid", count=4), 0).values())
    assert sorted(sizes.values()) == [12, 12, 13, 13]


def share_of_positives(assignment: dict[str, str], labels: dict[str, int]) -> list[float]:
    return [
        float(np.mean([labels[p] for p, c in assignment.items() if c == centre]))
        for centre in sorted(set(assignment.values()))
    ]


def test_label_skew_grows_as_alpha_falls() -> None:
    rows = cohort(300)
    labels = patient_labels(rows)

    def spread(alpha: float) -> float:
        wanted = centre_settings(mode="dirichlet", alpha=alpha)
        return float(
            np.mean([np.std(share_of_positives(assign_centres(rows, wanted, s), labels)) for s in range(20)])
        )

    spreads = [spread(alpha) for alpha in (0.3, 3.0, 300.0)]
    assert spreads[0] > 2 * spreads[1] > 4 * spreads[2]


def test_quantity_skew_makes_sizes_differ_and_leaves_labels_alone() -> None:
    rows = cohort(600)
    labels = patient_labels(rows)
    wanted = centre_settings(mode="quantity", alpha=0.5)
    assignments = [assign_centres(rows, wanted, seed) for seed in range(20)]
    sizes = [sorted(Counter(a.values()).values()) for a in assignments]
    assert np.mean([size[-1] / size[0] for size in sizes]) > 3
    large = [
        share
        for a in assignments
        for share, (_, n) in zip(
            share_of_positives(a, labels), sorted(Counter(a.values()).items()), strict=True
        )
        if n >= 100
    ]
    assert abs(np.mean(large) - np.mean(list(labels.values()))) < 0.03


def test_a_skew_beyond_reason_ends_in_one_line() -> None:
    with pytest.raises(
        SplitError, match=r"^data\.centres\.alpha: each of 200 draws left one of 6 centres .*Raise"
    ):
        assign_centres(cohort(12), centre_settings(mode="dirichlet", count=6, alpha=1e-3), 0)


@pytest.mark.parametrize("mode", ["quantity", "dirichlet"])
@pytest.mark.parametrize("alpha", [5e-324, 1e-12, 1e12])
def test_an_extreme_alpha_is_dealt_or_refused(mode: str, alpha: float) -> None:
    try:
        assignment = assign_centres(cohort(20), centre_settings(mode=mode, alpha=alpha), 0)
    except SplitError:
        assert alpha < 1
    else:
        assert min(Counter(assignment.values()).values()) >= FEWEST_PATIENTS


def test_external_centres_keep_their_patients_in_every_mode() -> None:
    rows = cohort(60)
    own = {row.patient for row in rows if row.centre == "C"}
    for mode in ("by-centre", "iid", "dirichlet", "quantity", "scanner"):
        wanted = centre_settings(mode=mode, external=["C"], leave_out=None)
        assignment = assign_centres(rows, wanted, 0)
        assert {patient for patient, centre in assignment.items() if centre == "C"} == own


def test_leave_one_out_makes_any_centre_external() -> None:
    rows = cohort(60)
    assert external_centres(centre_settings(external=["C"], leave_out="B")) == ("C", "B")
    assert external_centres(centre_settings(external=["C"], leave_out="C")) == ("C",)
    assert assign_centres(rows, centre_settings(leave_out="B"), 0) == assign_centres(
        rows, centre_settings(), 0
    )
    assert "virtual-2" in assign_centres(rows, centre_settings(mode="iid", leave_out="virtual-2"), 0).values()


def test_a_patient_is_positive_if_any_lesion_is() -> None:
    rows = [
        PatientRow("a", label=-1),
        PatientRow("a", label=0),
        PatientRow("b", label=1),
        PatientRow("b", label=0),
    ]
    assert patient_labels([*rows, PatientRow("c")]) == {"a": 0, "b": 1, "c": -1}


def test_a_row_without_centre_takes_that_of_the_patients_other_rows() -> None:
    rows = [PatientRow("a"), PatientRow("a", "A"), PatientRow("b", "A"), PatientRow("b")]
    assert assign_centres(rows, centre_settings(), 0) == {"a": "A", "b": "A"}


@pytest.mark.parametrize(
    ("rows", "keys", "line"),
    [
        ([], {}, "there is no patient"),
        (
            cohort(4),
            {"mode": "iid", "count": 3},
            "data.centres.count: 4 patients cannot fill 3 centres with 2 each",
        ),
        (cohort(4), {"mode": "quantity", "count": 9}, "Lower it to 2."),
        (
            cohort(3),
            {"mode": "dirichlet", "external": ["A", "B"]},
            "1 patients cannot fill 3 centres with 2 each",
        ),
        (
            cohort(9),
            {"external": ["Z"]},
            "data.centres.external: there is no centre Z. Choose among A, B, C.",
        ),
        (
            cohort(9),
            {"leave_out": "Z"},
            "data.centres.leave_out: there is no centre Z. Choose among A, B, C.",
        ),
        (cohort(9), {"mode": "iid", "leave_out": "A"}, "Choose among virtual-1, virtual-2, virtual-3."),
        ([PatientRow("a")], {"external": ["Z"]}, "These data name no centre."),
        (cohort(9), {"external": ["A", "B", "C"]}, "every centre is external"),
        (cohort(9), {"external": ["A", "B"], "leave_out": "C"}, "every centre is external"),
        ([*cohort(9), PatientRow("x", "D")], {}, "centre D: has 1 patient, fewer than 2. Name it in"),
        ([*cohort(9), PatientRow("x")], {}, "1 of 10 patients have no centre (the first: x)"),
        ([*cohort(9), PatientRow("x", "A")], {"mode": "scanner"}, "have no scanner (the first: x)"),
        (
            [*cohort(9), PatientRow("p000", "B")],
            {"mode": "iid"},
            "patient p000: stands at two centres, A and B",
        ),
        (
            [*cohort(9), PatientRow("p000", "A", "new")],
            {"mode": "scanner"},
            "stands at two scanners, new and scanner 0",
        ),
        (cohort(9, centres=("../A", "B")), {}, "'../A' cannot be the name of a centre's folder"),
        (cohort(9, centres=("A\n", "B")), {}, r"'A\n' cannot be the name"),
        (cohort(9, centres=("", "B")), {}, "'' cannot be the name"),
        (
            cohort(40, centres=("virtual-1", "B")),
            {"mode": "iid", "external": ["virtual-1"]},
            "virtual-1 would be an external and a training centre",
        ),
    ],
)
def test_what_cannot_be_dealt_is_refused_in_one_line(
    rows: list[PatientRow], keys: dict[str, Any], line: str
) -> None:
    with pytest.raises(SplitError) as caught:
        assign_centres(rows, centre_settings(**keys), 0)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_external_centre_may_be_small() -> None:
    rows = [*cohort(9), PatientRow("x", "D")]
    assert assign_centres(rows, centre_settings(external=["D"]), 0)["x"] == "D"


@quick
@given(
    total=st.integers(0, 500),
    weights=st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda w: sum(w) > 1e-3),
)
def test_apportioned_numbers_add_up_and_stay_within_one_of_their_share(
    total: int, weights: list[float]
) -> None:
    shares = np.array(weights) / sum(weights)
    counts = apportion(total, shares)
    assert counts.sum() == total
    assert np.all(np.abs(counts - total * shares) < 1 + 1e-6)
    assert np.all(counts >= 0)
