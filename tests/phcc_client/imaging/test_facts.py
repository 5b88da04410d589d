"""What images look like, as ranges over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_client.imaging.case import PreparedCase
from phcc_client.imaging.facts import PhaseFacts, ranges_of, values_of
from phcc_client.imaging.measure import enhancement_in, enhancement_of
from phcc_model.config import DataSettings, Phase
from phcc_model.contract.ranges import FEWEST, QUANTITIES, check_ranges


def facts(phase: Phase = "arterial", **changes: Any) -> PhaseFacts:
    plain = {
        "phase": phase,
        "spacing_mm_dhw": (3.0, 1.4, 1.2),
        "field_strength_t": 1.5,
        "seconds": 30.0,
        "enhancement": 0.4,
    }
    return PhaseFacts(**{**plain, **changes})


def test_every_value_has_the_name_of_its_quantity() -> None:
    found = dict(values_of((facts("delayed", seconds=210.0, enhancement=None), facts())))
    assert found == {
        "spacing.d": 3.0,
        "spacing.h": 1.4,
        "spacing.w": 1.2,
        "field": 1.5,
        "enhancement.arterial": 0.4,
        "seconds.arterial.delayed": 180.0,
    }
    assert list(values_of((PhaseFacts(phase="arterial"),))) == []


def test_a_range_needs_enough_patients_not_enough_images() -> None:
    case = (facts(),)
    assert ranges_of({"P1": [case] * 50}, 1) == {}
    few = {f"P{n}": [case] for n in range(FEWEST)}
    assert ranges_of(few, 1)["field.low"] == 1.5
    assert ranges_of(few, FEWEST + 1) == {}


def test_the_ends_are_percentiles_over_patients_rounded_outwards() -> None:
    patients = {f"P{n:03d}": [(facts(enhancement=n / 100),)] for n in range(101)}
    found = ranges_of(patients, 5)
    assert (found["enhancement.arterial.low"], found["enhancement.arterial.high"]) == (0.05, 0.95)
    # One patient far out moves nothing: no end is one patient's value.
    patients["P000"] = [(facts(enhancement=-4.9),)]
    assert ranges_of(patients, 5) == found


def test_a_patient_counts_with_its_smallest_and_its_largest_image() -> None:
    thick = facts(spacing_mm_dhw=(2.0, 1.0, 1.0)), facts("delayed", spacing_mm_dhw=(6.0, 1.0, 1.0))
    found = ranges_of({f"P{n}": [thick] for n in range(9)}, 5)
    assert (found["spacing.d.low"], found["spacing.d.high"]) == (2.0, 6.0)


@given(st.lists(st.floats(-50, 500), min_size=5, max_size=30))
def test_whatever_is_measured_what_is_said_can_be_believed(fields: list[float]) -> None:
    found = ranges_of({f"P{n}": [(facts(field_strength_t=value),)] for n, value in enumerate(fields)}, 5)
    check_ranges(found)
    assert {name.rpartition(".")[0] for name in found} <= set(QUANTITIES)


def test_enhancement_is_of_the_tissue_around_the_lesion() -> None:
    settings = DataSettings(phases=("pre-contrast", "arterial", "delayed"))
    lesion = np.zeros((4, 8, 8), np.uint8)
    lesion[1:3, 2:6, 2:6] = 1
    volumes = np.full((3, 4, 8, 8), 100.0, np.float32)
    volumes[1] = 150.0
    volumes[:, lesion == 1] = 900.0
    inside = np.ones(volumes.shape, bool)
    inside[:, :, 0] = False
    volumes[:, :, 0] = 0.0  # padding is no tissue
    present = np.array([True, True, False])
    found = enhancement_of(volumes, present, inside, lesion, settings)
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == pytest.approx(np.log(1.5), abs=1e-3)
    case = PreparedCase(volumes.astype(np.float16), present, lesion, found)
    assert enhancement_in(case, settings) == {"arterial": pytest.approx(0.405)}
    assert np.isnan(enhancement_of(volumes, ~present, inside, lesion, settings)).all()
