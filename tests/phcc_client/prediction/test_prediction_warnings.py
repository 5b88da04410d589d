"""What is unusual is said, and what is usual is not."""

from __future__ import annotations

from typing import Any

import pytest
from examples import LESION, SETTINGS, phase_notes, prediction, subject
from hypothesis import given
from hypothesis import strategies as st

from phcc_client.prediction.result import Caution, PhaseNote
from phcc_client.prediction.warnings import (
    LEAST_LOOKED,
    cautions_of,
    intervals,
    looked_elsewhere,
    never_taught,
    not_checked,
    outside_training,
)
from phcc_client.prediction.wording import warning_lines
from phcc_model.package_schema import Between, Seen, Span


def codes(**changes: Any) -> set[str]:
    return {caution.code for caution in cautions_of(subject(**changes), SETTINGS)}


def test_an_ordinary_examination_has_no_warning() -> None:
    assert codes() == set()
    assert not_checked(subject(), ranges=True) == ()


@pytest.mark.parametrize(
    ("phase", "change", "code"),
    [
        ("arterial", {"spacing_mm_dhw": (8.0, 1.4, 1.4)}, "spacing-unusual"),
        ("arterial", {"spacing_mm_dhw": (3.0, 4.0, 1.4)}, "spacing-unusual"),
        ("delayed", {"field_strength_t": 0.35}, "field-strength-unusual"),
        ("delayed", {"field_strength_t": 7.0}, "field-strength-unusual"),
        ("arterial", {"enhancement": -0.2}, "enhancement-unusual"),
        ("arterial", {"enhancement": 2.5}, "enhancement-unusual"),
        ("arterial", {"residual_mm": 9.0}, "not-aligned"),
        ("portal_venous", {"seconds": 400.0}, "timing-unusual"),
        ("delayed", {"seconds": 90.0}, "timing-unusual"),
    ],
)
def test_what_is_unusual_of_a_phase_is_said(phase: str, change: dict[str, Any], code: str) -> None:
    found = list(cautions_of(subject(phases=phase_notes(**{phase: change})), SETTINGS))
    assert {c.code for c in found} == {code}
    assert all(c.text and c.remedy for c in found)
    assert phase.replace("_", "-") in found[0].text


@given(st.floats(0.0, 1.0))
def test_a_model_that_looked_elsewhere_says_so(looked: float) -> None:
    found = list(looked_elsewhere(looked))
    assert bool(found) == (looked < LEAST_LOOKED)
    assert all(f"{looked:.0%}" in one.text and one.remedy for one in found)
    assert not list(looked_elsewhere(None))


def test_phases_that_were_never_taught_are_said_together() -> None:
    assert not list(never_taught((), alone=False))
    (found,) = never_taught(("delayed", "hepatobiliary"), alone=False)
    assert (found.code, found.basis) == ("phase-left-out", "model")
    assert found.text.endswith("had delayed, hepatobiliary: left out of the score")
    (found,) = never_taught(("delayed",), alone=True)
    assert (found.code, found.remedy) == ("phase-not-seen", "Do not rely on the score")


def test_a_missing_phase_is_said_once() -> None:
    notes = [PhaseNote(phase=n.phase, used=n.phase == "arterial") for n in phase_notes()]
    found = list(cautions_of(subject(phases=tuple(notes)), SETTINGS))
    assert [c.code for c in found] == ["phase-missing"]
    assert "pre-contrast, portal-venous, delayed" in found[0].text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"extent_mm_dhw": (4.0, 6.0, 7.0)}, "lesion-size-unusual"),
        ({"extent_mm_dhw": (4.0, 6.0, 260.0)}, "lesion-size-unusual"),
        ({"inside_crop": 0.6}, "lesion-cut-off"),
        ({"drawn_on": None}, "no-drawing"),
    ],
)
def test_what_is_unusual_of_the_lesion_is_said(change: dict[str, Any], code: str) -> None:
    assert codes(lesion=LESION.model_copy(update=change)) == {code}


def test_what_was_found_before_comes_first() -> None:
    known = Caution(code="darker-after-contrast", text="darker")
    found = list(cautions_of(subject(cautions=(known,), lesion=LESION.model_copy(
        update={"inside_crop": 0.5})), SETTINGS))  # fmt: skip
    assert [c.code for c in found] == ["darker-after-contrast", "lesion-cut-off"]


def test_what_could_not_be_checked_is_said() -> None:
    blank = {
        "spacing_mm_dhw": None,
        "field_strength_t": None,
        "seconds": None,
        "enhancement": None,
    }
    notes = tuple(note.model_copy(update=blank) for note in phase_notes())
    assert len(not_checked(subject(phases=notes), ranges=False)) == 5


@given(st.lists(st.none() | st.floats(0, 4000), min_size=4, max_size=4))
def test_intervals_are_differences_and_keep_the_phases_order(seconds: list[float | None]) -> None:
    notes = tuple(n.model_copy(update={"seconds": s}) for n, s in zip(phase_notes(), seconds, strict=True))
    known = {n.phase: n.seconds for n in notes if n.seconds is not None}
    found = intervals(notes)
    assert len(found) == len(known) * (len(known) - 1) // 2
    for (a, b), gap in found.items():
        assert SETTINGS.phases.index(a) < SETTINGS.phases.index(b)
        assert gap == known[b] - known[a]


def seen(**changes: Any) -> Seen:
    """Ranges that hold an ordinary examination."""
    plain: dict[str, Any] = {
        "patients": 120,
        "spacing_mm": (Span(low=2, high=4), Span(low=1, high=2), Span(low=1, high=2)),
        "field_t": Span(low=1.5, high=1.5),
        "enhancement": {"arterial": Span(low=0.1, high=0.9)},
        "seconds": (Between(first="arterial", then="delayed", seconds=Span(low=100, high=300)),),
    }
    return Seen(**{**plain, **changes})


def test_what_the_model_saw_is_no_reason_to_warn() -> None:
    assert list(outside_training(subject(), seen())) == []
    assert list(outside_training(subject(), None)) == []
    rounded = phase_notes(arterial={"field_strength_t": 1.494})
    assert list(outside_training(subject(phases=rounded), seen())) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"spacing_mm": (Span(low=4, high=5), Span(low=1, high=2), Span(low=1, high=2))}, "spacing-not-seen"),
        ({"field_t": Span(low=3, high=3)}, "field-strength-not-seen"),
        ({"enhancement": {"arterial": Span(low=0.6, high=0.9)}}, "enhancement-not-seen"),
        (
            {"seconds": (Between(first="arterial", then="delayed", seconds=Span(low=200, high=300)),)},
            "timing-not-seen",
        ),
    ],
)
def test_what_the_model_never_saw_is_said(changes: dict[str, Any], code: str) -> None:
    found = list(outside_training(subject(), seen(**changes)))
    assert {c.code for c in found} == {code}
    assert all(c.basis == "model" and "120 patients" in c.text for c in found)


def test_a_warning_says_what_its_value_and_what_was_seen() -> None:
    far = phase_notes(delayed={"field_strength_t": 7.0})
    (caution,) = outside_training(subject(phases=far), seen(sites=3, field_t=Span(low=1.5, high=3.0)))
    assert caution.text == (
        "delayed: 7 T, 1.5 to 3 T in nine of ten of the 120 patients it was trained on at 3 centres"
    )
    near = phase_notes(delayed={"field_strength_t": 3.0})
    assert list(outside_training(subject(phases=near), seen(field_t=Span(low=1.5, high=3.0)))) == []


@given(st.floats(0.1, 2.0), st.floats(0.1, 2.0))
def test_one_in_ten_who_lie_a_little_beyond_are_not_cried_about(low: float, width: float) -> None:
    ranges = seen(enhancement={"arterial": Span(low=low, high=low + width)})
    for bright, expected in (
        (low + width * 1.2, set()),
        (low - width * 0.2, set()),
        (low + width * 1.3, {"enhancement-not-seen"}),
        (low - width * 0.3, {"enhancement-not-seen"}),
    ):
        notes = phase_notes(arterial={"enhancement": bright})
        assert {c.code for c in outside_training(subject(phases=notes), ranges)} == expected


def test_a_remedy_that_asks_ends_with_its_question_mark() -> None:
    asks = next(looked_elsewhere(0.1))
    line, other = warning_lines(
        prediction(warnings=(asks, Caution(code="c", text="it is odd", remedy="Do.")))
    )
    assert line.endswith("is there another lesion?")
    assert other == "Note: it is odd. Do."
