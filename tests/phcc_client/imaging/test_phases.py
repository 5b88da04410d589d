from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.imaging.phases import _ALIASES, _OTHER, _key, recognise
from phcc_model.config import PHASES


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("C-pre", "pre-contrast"),
        ("C+A", "arterial"),
        ("C+V", "portal-venous"),
        ("C+Delay", "delayed"),
        ("T2WI", "other"),
        ("DWI", "other"),
        ("In Phase", "other"),
        ("Out Phase", "other"),
        ("HBP", "hepatobiliary"),
        ("Arterial Phase", "arterial"),
        ("portal_venous", "portal-venous"),
        ("C+X", None),
        ("", None),
        ("phase", None),
    ],
)
def test_names_of_lld_mmri_and_of_common_usage(name: str, phase: str | None) -> None:
    assert recognise(name) == phase


@pytest.mark.parametrize("phase", PHASES)
def test_the_study_s_own_names_are_known(phase: str) -> None:
    assert recognise(phase) == phase


def test_no_alias_means_two_things() -> None:
    keys = [(_key(alias), phase) for phase, aliases in _ALIASES.items() for alias in aliases]
    for key, phase in keys:
        assert {other for k, other in keys if k == key} == {phase}
        assert key not in _OTHER


@settings(max_examples=60, deadline=None)
@given(
    alias=st.sampled_from([(a, p) for p, aliases in _ALIASES.items() for a in aliases if a != "C-"]),
    joint=st.sampled_from([" ", "_", "-", ""]),
    upper=st.booleans(),
    ending=st.sampled_from(["", " phase", "_Phase"]),
)
def test_spelling_does_not_matter(alias: tuple[str, str], joint: str, upper: bool, ending: str) -> None:
    text = f"  {alias[0].replace(' ', joint)}{ending} "
    assert recognise(text.upper() if upper else text) == alias[1]
