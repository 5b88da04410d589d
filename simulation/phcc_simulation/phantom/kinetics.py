"""How contrast agent moves: arterial input, portal input, extended Tofts tissue, dual-input liver.

Time is in minutes, concentrations in mmol/L (mM), rates per minute, as in the sources. Every curve is sampled
on one uniform time axis; `time_axis` makes it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

HAEMATOCRIT = 0.42
"""Share of red cells in blood; the agent stays in the plasma, so plasma holds 1 / (1 - Hct) of it [F]."""

PARKER_DOSE_MMOL_KG = 0.1
"""Dose behind Parker's population curve [F]."""

# Parker et al., MRM 2006;56:993, table 1 [F]: two Gaussians and an exponential cut on by a sigmoid.
_GAUSSIANS = ((0.809, 0.0563, 0.17046), (0.330, 0.132, 0.365))  # area mM min, width min, centre min
_ALPHA_MM, _BETA_PER_MIN, _S_PER_MIN, _TAU_MIN = 1.050, 0.1685, 38.078, 0.483


def time_axis(seconds: float, step_s: float = 1.0) -> Curve:
    """Uniform times from 0 up to, but not including, ``seconds``; in minutes."""
    return np.arange(0.0, seconds, step_s) / 60.0


def parker_aif(time_min: Curve, arrival_min: float = 0.0) -> Curve:
    """Population arterial input in whole blood (mM) after 0.1 mmol/kg, zero before its arrival.

    Parker et al., MRM 2006;56:993-1000, equation 1 and table 1 [F].
    """
    t = np.asarray(time_min, dtype=np.float64) - arrival_min
    sigmoid = 1.0 / (1.0 + np.exp(-_S_PER_MIN * np.clip(t - _TAU_MIN, -1.0, 10.0)))
    blood = _ALPHA_MM * np.exp(-_BETA_PER_MIN * t) * sigmoid
    for area, width, centre in _GAUSSIANS:
        blood = blood + area / (width * np.sqrt(2 * np.pi)) * np.exp(-((t - centre) ** 2) / (2 * width**2))
    return np.where(t >= 0.0, blood, 0.0)


def arterial_blood(
    time_min: Curve, arrival_s: float, injection_s: float = 0.0, dose_mmol_kg: float = PARKER_DOSE_MMOL_KG
) -> Curve:
    """Arterial whole-blood concentration (mM) for a bolus that is slower than Parker's, and another dose.

    Parker's patients were injected at 3 mL/s; a liver protocol gives the same volume at 1-2 mL/s,
    ``injection_s`` longer. A longer constant injection is the population curve averaged over that time: its
    area, hence the dose, is kept [F, linearity]. ``injection_s`` = 0 gives Parker's curve.
    """
    starts = np.arange(0.0, max(injection_s, 1.0), 1.0)
    curves = [parker_aif(time_min, (arrival_s + start) / 60.0) for start in starts]
    return np.asarray(np.mean(curves, axis=0) * dose_mmol_kg / PARKER_DOSE_MMOL_KG, dtype=np.float64)


def plasma(blood: Curve) -> Curve:
    """Concentration in plasma (mM) of an agent that does not enter red cells: blood / (1 - haematocrit)."""
    return blood / (1.0 - HAEMATOCRIT)


def convolve_exponential(time_min: Curve, rate_per_min: float, curve: Curve) -> Curve:
    """Integral from 0 to t of curve(u) exp(-rate (t - u)) du, exact for a piecewise linear curve.

    The recursion of Flouri et al., MRM 2016;76:998 (appendix) [F], unrolled into one sum. The curve
    counts as zero before the first time.

    Raises:
        ValueError: the time axis is not uniform, or shorter than two samples.
    """
    if len(time_min) < 2 or not np.allclose(
        np.diff(time_min), time_min[1] - time_min[0], rtol=1e-6, atol=1e-9
    ):
        raise ValueError("convolve_exponential needs a uniform time axis of two samples or more")
    step = float(time_min[1] - time_min[0])
    x = rate_per_min * step
    decay = float(np.exp(-x))
    # Weights of the new and the old sample over one step; their series near zero avoids 0/0.
    if x < 1e-4:
        new, old = step * (0.5 - x / 6.0), step * (0.5 - x / 3.0)
    else:
        new, old = step * (x - 1.0 + decay) / x**2, step * (1.0 - decay - x * decay) / x**2
    gained = np.zeros_like(curve, dtype=np.float64)
    gained[1:] = new * curve[1:] + old * curve[:-1]
    return np.convolve(gained, decay ** np.arange(len(curve)))[: len(curve)]


def extended_tofts(time_min: Curve, plasma_mm: Curve, ktrans_per_min: float, ve: float, vp: float) -> Curve:
    """Tissue concentration (mM) = vp cp + Ktrans (cp convolved with exp(-Ktrans t / ve)).

    Tofts, JMRI 1997;7:91 [F]. ``ve`` and ``vp`` are volume fractions of tissue.
    """
    if ve <= 0.0:
        return vp * plasma_mm
    return vp * plasma_mm + ktrans_per_min * convolve_exponential(time_min, ktrans_per_min / ve, plasma_mm)


def portal_blood(
    time_min: Curve, arterial_mm: Curve, delay_s: float = 14.0, dispersion_s: float = 10.0
) -> Curve:
    """Portal venous concentration (mM): arterial blood, later and smeared by its way through the gut [R].

    A delay, then a well-mixed compartment with mean transit time ``dispersion_s``; area is kept.
    """
    late = np.interp(time_min - delay_s / 60.0, time_min, arterial_mm, left=0.0)
    rate = 60.0 / dispersion_s
    return rate * convolve_exponential(time_min, rate, late)


def dual_input(arterial_mm: Curve, portal_mm: Curve, arterial_fraction: float) -> Curve:
    """What flows in (mM) where a tissue is fed by hepatic artery and portal vein together."""
    return arterial_fraction * arterial_mm + (1.0 - arterial_fraction) * portal_mm


def liver_concentration(time_min: Curve, inflow_plasma_mm: Curve, flow_per_min: float, ve: float) -> Curve:
    """Extracellular concentration of liver tissue (mM of tissue): one compartment with dual input.

    Materne et al., MRM 2002;47:135 [F]: sinusoids are open, so flow alone fills plasma and interstitium.
    """
    return flow_per_min * convolve_exponential(time_min, flow_per_min / ve, inflow_plasma_mm)


def hepatocyte_concentration(
    time_min: Curve, extracellular_mm: Curve, ve: float, uptake_per_min: float
) -> Curve:
    """Agent taken up by hepatocytes (mM of tissue), excretion neglected over the first minutes.

    Dual-inlet two-compartment uptake model, Sourbron et al., Radiology 2012;263:874 [F]. Only a
    hepatocyte-specific agent (gadoxetate) has an uptake; it is zero for the extracellular agents of the
    phantom's scanners.
    """
    return uptake_per_min * convolve_exponential(time_min, 0.0, extracellular_mm / ve)
