"""Kinetics against closed forms, which hold anywhere, and OSIPI's reference curves, where these are."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from phcc_simulation.phantom import kinetics as k

TIME = k.time_axis(300.0)
rates = st.floats(0.01, 20.0)
Shared = Callable[[str], Path]


@pytest.mark.parametrize("table", ["ParkerAIF_ref.csv", "ParkerAIF_ref_with_delay.csv"])
def test_parker_curve_agrees_with_osipi(shared_file: Shared, table: str) -> None:
    """OSIPI's own tolerance for this curve: 0.0001 mM absolute and 1 % relative."""
    curves: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with shared_file(f"osipi_dce/test/PopulationAIF_DCE/data/{table}").open() as text:
        for row in csv.DictReader(text):
            curves[row["label"]].append((float(row["time"]), float(row["Cb"]), float(row["delay"])))
    assert len(curves) >= 3
    for label, rows in curves.items():
        time, blood, delay = np.array(rows).T
        ours = k.parker_aif(time, delay[0] / 60.0)
        np.testing.assert_allclose(ours, blood, rtol=0.01, atol=0.0001, err_msg=label)


def test_extended_tofts_recovers_osipis_parameters(shared_file: Shared) -> None:
    """Fitted to OSIPI's reference curves, as OSIPI tests an implementation, within OSIPI's tolerances:
    ve 0.05, vp 0.0025, Ktrans 0.005 per min + 1 %. The curves carry noise, so that is where they can agree.
    """
    path = shared_file("osipi_dce/test/DCEmodels/data/dce_DRO_data_extended_tofts.csv")
    with path.open() as text:
        cases = list(csv.DictReader(text))
    assert len(cases) >= 10
    for case in cases:
        time_s, tissue, artery = (np.array(case[name].split(), dtype=float) for name in ("t", "C", "ca"))

        def model(
            time_s: np.ndarray, ktrans: float, ve: float, vp: float, artery: np.ndarray = artery
        ) -> np.ndarray:
            return k.extended_tofts(time_s / 60.0, artery, ktrans, ve, vp)

        (ktrans, ve, vp), _ = curve_fit(
            model, time_s, tissue, p0=(0.6, 0.2, 0.01), bounds=((0, 0.01, 0), (5, 1, 1))
        )
        want = {name: float(case[name]) for name in ("Ktrans", "ve", "vp")}
        assert abs(ktrans - want["Ktrans"]) <= 0.005 + 0.01 * want["Ktrans"], case["label"]
        assert abs(ve - want["ve"]) <= 0.05, case["label"]
        assert abs(vp - want["vp"]) <= 0.0025, case["label"]


def test_parker_curve_starts_at_its_arrival_and_peaks_after_ten_seconds() -> None:
    curve = k.parker_aif(k.time_axis(120.0, 0.1), arrival_min=0.5)
    assert curve[k.time_axis(120.0, 0.1) < 0.5].max() == 0.0
    assert curve.max() == pytest.approx(6.07, abs=0.02)  # published peak of about 6 mM
    assert k.time_axis(120.0, 0.1)[curve.argmax()] == pytest.approx(0.5 + 0.17, abs=0.01)


@given(st.floats(0.01, 3.0), st.floats(0.05, 0.8), st.floats(0.0, 0.3))
@settings(max_examples=40, deadline=None)
def test_tofts_of_a_constant_input_has_a_closed_form(ktrans: float, ve: float, vp: float) -> None:
    plasma = np.full_like(TIME, 2.0)
    expected = 2.0 * (vp + ve * (1.0 - np.exp(-ktrans / ve * TIME)))
    np.testing.assert_allclose(
        k.extended_tofts(TIME, plasma, ktrans, ve, vp), expected, rtol=1e-9, atol=1e-12
    )


@given(rates)
@settings(max_examples=40, deadline=None)
def test_convolution_of_a_ramp_has_a_closed_form(rate: float) -> None:
    """A ramp is piecewise linear, so the recursion must be exact whatever the rate."""
    expected = TIME / rate - (1.0 - np.exp(-rate * TIME)) / rate**2
    np.testing.assert_allclose(k.convolve_exponential(TIME, rate, TIME), expected, rtol=1e-7, atol=1e-9)


def test_convolution_at_rate_zero_is_the_integral() -> None:
    np.testing.assert_allclose(
        k.convolve_exponential(TIME, 0.0, np.ones_like(TIME)), TIME, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        k.convolve_exponential(TIME, 1e-9, TIME),
        k.convolve_exponential(TIME, 2e-2, TIME),
        rtol=0.05,
        atol=1e-9,
    )


@given(rates, st.floats(-2.0, 2.0), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_convolution_is_linear_and_causal(rate: float, factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random(len(TIME)), rng.random(len(TIME))
    together = k.convolve_exponential(TIME, rate, a + factor * b)
    apart = k.convolve_exponential(TIME, rate, a) + factor * k.convolve_exponential(TIME, rate, b)
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-9)
    a[150:] = 7.0
    np.testing.assert_array_equal(
        k.convolve_exponential(TIME, rate, a)[:150],
        k.convolve_exponential(TIME, rate, np.where(np.arange(len(a)) < 150, a, 0))[:150],
    )


def test_convolution_refuses_an_uneven_time_axis() -> None:
    with pytest.raises(ValueError, match="uniform"):
        k.convolve_exponential(np.array([0.0, 0.1, 0.3]), 1.0, np.ones(3))


@pytest.mark.parametrize("injection_s", [1.0, 4.0, 8.0, 15.0])
def test_a_slower_injection_keeps_the_dose(injection_s: float) -> None:
    """Smearing must not change the area under the curve, nor move the plateau long after the bolus."""
    time = k.time_axis(200.0)
    fast, slow = (k.arterial_blood(time, 10.0, seconds) for seconds in (0.0, injection_s))
    first_pass = time < 0.95  # before the recirculation's slow tail, whose shift is no loss of dose
    late = time > 2.0
    assert slow[late].mean() == pytest.approx(fast[late].mean(), rel=0.03)
    assert slow.sum() == pytest.approx(fast.sum(), rel=0.03)
    assert slow.max() <= fast.max() * (1 + 1e-12)
    assert slow[first_pass].sum() > 0.8 * fast[first_pass].sum()


def test_plasma_holds_what_red_cells_leave_out() -> None:
    blood = k.arterial_blood(TIME, 10.0)
    np.testing.assert_allclose(k.plasma(blood) * (1.0 - k.HAEMATOCRIT), blood)
    assert k.arterial_blood(TIME, 10.0, dose_mmol_kg=0.05).max() == pytest.approx(blood.max() / 2)


def test_portal_blood_is_later_smoother_and_of_equal_area() -> None:
    time = k.time_axis(200.0, 0.5)
    artery = np.exp(-0.5 * ((time - 0.5) / 0.05) ** 2)
    portal = k.portal_blood(time, artery, delay_s=14.0, dispersion_s=10.0)
    mean_delay = (time * portal).sum() / portal.sum() - (time * artery).sum() / artery.sum()
    assert mean_delay * 60.0 == pytest.approx(24.0, abs=0.3)
    assert portal.sum() == pytest.approx(artery.sum(), rel=0.01)
    assert portal.max() < artery.max()


def test_the_liver_fills_to_its_extracellular_volume() -> None:
    liver = k.liver_concentration(TIME, np.ones_like(TIME), flow_per_min=1.1, ve=0.26)
    assert liver[-1] == pytest.approx(0.26, rel=1e-6)
    taken_up = k.hepatocyte_concentration(TIME, liver, ve=0.26, uptake_per_min=0.1)
    assert np.gradient(taken_up, TIME)[-2] == pytest.approx(0.1, rel=1e-3)
    assert k.dual_input(np.array([1.0]), np.array([0.0]), 0.2) == pytest.approx(0.2)
