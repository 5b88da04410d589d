from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.imaging.case import Box, PhaseImage, RawCase, Rejection
from phcc_model.errors import CaseError

corner = st.tuples(*[st.integers(-3, 12)] * 3)


@settings(max_examples=150, deadline=None)
@given(low=corner, high=corner, shape=st.tuples(*[st.integers(1, 12)] * 3))
def test_a_box_is_valid_exactly_when_it_holds_voxels_of_the_volume(
    low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    valid = all(0 <= a < b <= n for a, b, n in zip(low, high, shape, strict=True))
    if valid:
        box = Box(low, high)
        box.must_lie_in(shape)
        inside = [np.arange(n)[a:b] for a, b, n in zip(low, high, shape, strict=True)]
        assert box.centre_dhw.tolist() == [line.mean() for line in inside]
        assert box.size_dhw.tolist() == [len(line) for line in inside]
    else:
        with pytest.raises(CaseError, match="box"):
            Box(low, high).must_lie_in(shape)


def test_every_axis_is_checked_against_its_own_size() -> None:
    box = Box((0, 0, 10), (1, 5, 30))
    box.must_lie_in((1, 5, 30))
    with pytest.raises(CaseError, match="reaches x = 29, outside the volume's 5 voxels"):
        box.must_lie_in((1, 30, 5))


def test_a_spacing_must_be_positive() -> None:
    with pytest.raises(CaseError, match="spacing of phase arterial"):
        PhaseImage("arterial", Path("a.nii"), spacing_mm_dhw=(1.0, 0.0, 1.0))


def test_a_phase_has_a_path_or_an_array() -> None:
    with pytest.raises(ValueError, match="either"):
        PhaseImage("image", None)


def test_what_is_not_known_stays_unknown() -> None:
    raw = RawCase("c", "p", {})
    assert raw.label == -1
    assert math.isnan(raw.afp)
    assert raw.centre is None


def test_a_rejection_says_where_why_and_what_to_do() -> None:
    error = CaseError("is broken", where="a.nii", remedy="Mend it")
    assert Rejection.of(error, case="c", patient="p") == Rejection("c", "p", "a.nii: is broken", "Mend it")
