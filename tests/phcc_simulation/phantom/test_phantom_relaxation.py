"""Signal equation against limits and against OSIPI's conversion of signal to concentration."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from phcc_simulation.phantom.relaxation import RELAXIVITY, native_t1_s, r1_per_s, spgr_signal


@given(st.floats(0.2, 50.0), st.floats(2.0, 20.0))
@settings(max_examples=40, deadline=None)
def test_a_right_angle_gives_saturation_recovery(r1: float, tr_ms: float) -> None:
    expected = 1.0 - np.exp(-tr_ms * 1e-3 * r1)
    assert spgr_signal(np.array([r1]), tr_ms, 90.0)[0] == pytest.approx(expected, rel=1e-12)


@given(st.floats(0.5, 20.0), st.floats(0.01, 10.0), st.floats(3.0, 40.0))
@settings(max_examples=40, deadline=None)
def test_signal_rises_with_relaxation_rate(r1: float, more: float, flip: float) -> None:
    low, high = spgr_signal(np.array([r1, r1 + more]), 4.0, flip)
    assert 0.0 < low < high < 1.0


def test_the_ernst_angle_is_the_brightest() -> None:
    tr_ms, r1 = 4.0, np.array([1.2])
    flips = np.linspace(0.5, 60.0, 2000)
    brightest = flips[np.argmax([spgr_signal(r1, tr_ms, float(f))[0] for f in flips])]
    assert brightest == pytest.approx(np.degrees(np.arccos(np.exp(-tr_ms * 1e-3 * 1.2))), abs=0.05)


def test_signal_agrees_with_osipis_concentrations(shared_file: Callable[[str], Path]) -> None:
    """OSIPI gives signals and the concentrations that they mean; its tolerance is 1e-5 + 1e-5 relative.

    Our forward equation is inverted numerically, on every tenth sample of every curve. OSIPI's baseline
    leaves out the first sample.
    """
    with shared_file("osipi_dce/test/SI_to_Conc/data/SI2Conc_data.csv").open(encoding="utf-8-sig") as text:
        cases = list(csv.DictReader(text))
    assert cases
    for case in cases:
        signal, conc = (np.array(case[name].split(), dtype=float) for name in ("s", "conc"))
        flip, tr_ms, t1, r1 = (float(case[name]) for name in ("FA", "TR", "T1base", "r1"))
        tr_ms *= 1e3
        unit = (
            signal[1 : int(case["numbaselinepts"])].mean() / spgr_signal(np.array([1.0 / t1]), tr_ms, flip)[0]
        )
        for s, c in zip(signal[::10], conc[::10], strict=True):
            if not np.isfinite(c):
                continue

            found = brentq(_excess, -1.0 / (t1 * r1), 1e3, args=(t1, r1, tr_ms, flip, s / unit), xtol=1e-9)
            assert found == pytest.approx(c, rel=1e-5, abs=1e-5), case["label"]


def _excess(conc: float, t1: float, r1: float, tr_ms: float, flip: float, wanted: float) -> float:
    return float(spgr_signal(r1_per_s(t1, r1, np.array([conc])), tr_ms, flip)[0]) - wanted


def test_field_strength_lengthens_t1_and_lowers_relaxivity() -> None:
    for tissue in ("liver", "blood", "lesion", "fibrosis", "necrosis", "capsule"):
        assert native_t1_s(tissue, "1.5 T") < native_t1_s(tissue, "3 T")
    assert native_t1_s("liver", "1.5 T") == pytest.approx(0.586, abs=0.002)  # de Bazelaire 2004
    for by_field in RELAXIVITY.values():
        assert by_field["3 T"] < by_field["1.5 T"]
