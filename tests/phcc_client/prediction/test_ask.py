"""What is typed is understood, or refused with what to type instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_client.imaging.case import Box
from phcc_client.prediction.ask import Ask, box_of, phase_of, registration_of
from phcc_model.errors import ConfigError


def test_a_box_is_read_as_slices_rows_columns() -> None:
    assert box_of("3:9, 10:20,5:6") == Box((3, 10, 5), (9, 20, 6))


@given(st.text(max_size=30))
def test_whatever_else_is_typed_for_a_box_is_refused_in_one_line(text: str) -> None:
    try:
        found = box_of(text)
    except ConfigError:
        return
    assert all(low < high for low, high in zip(found.low_dhw, found.high_dhw, strict=True))


@pytest.mark.parametrize("text", ["", "1:2,3:4", "1:2,3:4,6:5", "1:2,3:4,5:5", "1:2,3:4,5:6,7:8", "a"])
def test_no_box(text: str) -> None:
    with pytest.raises(ConfigError, match="is no box"):
        box_of(text)


def test_phase_and_registration_by_name() -> None:
    assert phase_of("Arterial") == "arterial"
    assert registration_of("off") == "off"
    with pytest.raises(ConfigError, match="is no phase"):
        phase_of("venous-ish")
    with pytest.raises(ConfigError, match="no kind of registration"):
        registration_of("elastic")


def test_two_drawings_or_one_nowhere_are_refused(tmp_path: Path) -> None:
    box = Box((0, 0, 0), (1, 1, 1))
    with pytest.raises(ConfigError, match="no such file"):
        Ask(tmp_path, mask=tmp_path / "none.nii")
    with pytest.raises(ConfigError, match="--drawn-on"):
        Ask(tmp_path, box=box)
    with pytest.raises(ConfigError, match="two drawings"):
        Ask(tmp_path, mask=tmp_path, box=box, drawn_on="arterial")
