"""How bright each tissue of one patient is in each phase: physiology, lesion kinetics and their spread [R].

Numbers are chosen for plausible patterns and so that a sign can be seen, but no single phase gives a kinetic
sign away: the lesion's own brightness varies between patients as much as the sign moves it, and only ratios
between phases cancel that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .kinetics import (
    Curve,
    arterial_blood,
    dual_input,
    extended_tofts,
    liver_concentration,
    plasma,
    portal_blood,
    time_axis,
)
from .relaxation import Tissue, native_t1_s, r1_per_s, spgr_signal
from .scanner import ScannerProfile

Compartment = Literal["liver", "vessel", "lesion", "rim", "inner", "fibrosis", "necrosis", "capsule"]
COMPARTMENTS: tuple[Compartment, ...] = get_args(Compartment)

# --- circulation
HEPATIC_DELAY_S = 4.0  # aorta to the liver's arteries
PORTAL_DELAY_S = 14.0  # aorta to the portal vein
_ARRIVAL_S, _ARRIVAL_SD = 17.0, 1.5  # bolus in the liver's arteries
_LAST_S = 300.0  # the curves are followed for five minutes

# --- liver
LIVER_FLOW_PER_MIN, LIVER_VE, LIVER_ARTERIAL_FRACTION = 1.1, 0.26, 0.20
_LIVER_FLOW_LOG_SD = 0.12

# --- lesion: (with wash-out, without); perfusion offsets keep the arterial phase from telling
_VE, _KTRANS, _LOG_PERFUSION = (0.16, 0.29), (0.95, 0.62), (0.115, -0.115)
_VP, _ARTERIAL_FRACTION = 0.06, 0.95
_VE_LOG_SD, _PERFUSION_LOG_SD = 0.10, 0.40
_TUMOUR_T1_LOG_SD, _T1_LOG_SD = 0.10, 0.04
# The rim is fed first and holds more plasma; the inner part is fed through it. Volume that plasma takes is
# taken from the interstitium, so that after the bolus both are as bright as the lesion without a rim.
_RIM_PLASMA, _INNER_PLASMA, _INNER_DELAY_S = 0.055, -0.03, 5.5

# --- other parts: Ktrans per min, ve, vp (METHOD 6)
_FIBROSIS, _NECROSIS, _CAPSULE = (0.08, 0.40, 0.02), (0.01, 0.10, 0.0), (0.10, 0.45, 0.02)
_CAPSULE_ARTERIAL_FRACTION = 0.8

_T1_OF: dict[Compartment, Tissue] = {
    "liver": "liver",
    "vessel": "blood",
    "lesion": "lesion",
    "rim": "lesion",
    "inner": "lesion",
    "fibrosis": "fibrosis",
    "necrosis": "necrosis",
    "capsule": "capsule",
}


@dataclass(frozen=True)
class Physiology:
    """One patient's circulation, liver and lesion.

    Attributes:
        arrival_s: bolus in the liver's arteries, seconds after the injection began.
        phase_s: centre of the arterial, portal venous and delayed acquisitions.
        liver_flow_per_min: plasma flow per volume of liver.
        ktrans_per_min: of the lesion, before ``perfusion``.
        ve: of the lesion, before ``perfusion``.
        perfusion: multiplies the lesion's flow and volumes together, and so its concentration; kep stays.
        t1_factor: of each compartment's native T1.
    """

    arrival_s: float
    phase_s: tuple[float, float, float]
    liver_flow_per_min: float
    ktrans_per_min: float
    ve: float
    perfusion: float
    t1_factor: dict[Compartment, float]


def draw_physiology(
    profile: ScannerProfile, washout: bool, rng: np.random.Generator, spread: float = 1.0
) -> Physiology:
    """Draw a patient's physiology; ``spread`` 0 gives the mean patient of this centre."""

    def normal(sd: float) -> float:
        return float(rng.normal(0.0, sd)) * spread

    kind = 0 if washout else 1
    arrival = _ARRIVAL_S + normal(_ARRIVAL_SD)
    arterial = arrival + profile.arterial_lag_s + normal(profile.arterial_lag_sd_s)
    portal = profile.portal_s + normal(profile.portal_sd_s)
    delayed = profile.delayed_s + normal(profile.delayed_sd_s)
    tumour_log = normal(_TUMOUR_T1_LOG_SD)
    t1_factor: dict[Compartment, float] = {
        name: float(np.exp(normal(_T1_LOG_SD) + (tumour_log if _T1_OF[name] == "lesion" else 0.0)))
        for name in COMPARTMENTS
    }
    # A rim is perfused otherwise; its tissue, and so its T1, is the tumour's.
    t1_factor["rim"] = t1_factor["inner"] = t1_factor["lesion"]
    return Physiology(
        arrival_s=arrival,
        phase_s=(arterial, portal, delayed),
        liver_flow_per_min=LIVER_FLOW_PER_MIN * float(np.exp(normal(_LIVER_FLOW_LOG_SD))),
        ktrans_per_min=_KTRANS[kind],
        ve=_VE[kind] * float(np.exp(normal(_VE_LOG_SD))),
        perfusion=float(np.exp(_LOG_PERFUSION[kind] + normal(_PERFUSION_LOG_SD))),
        t1_factor=t1_factor,
    )


def concentrations(
    physiology: Physiology, time_min: Curve, profile: ScannerProfile
) -> dict[Compartment, Curve]:
    """Concentration over time (mM of tissue; of blood in the vessel) in every compartment."""
    injected = profile.injection_s, profile.dose_mmol_kg
    aorta = arterial_blood(time_min, physiology.arrival_s - HEPATIC_DELAY_S, *injected)
    artery = plasma(arterial_blood(time_min, physiology.arrival_s, *injected))
    vein = portal_blood(time_min, aorta, PORTAL_DELAY_S)
    inflow = dual_input(artery, plasma(vein), _ARTERIAL_FRACTION)
    late = dual_input(
        np.interp(time_min - _INNER_DELAY_S / 60.0, time_min, artery), plasma(vein), _ARTERIAL_FRACTION
    )

    def tumour(feed: Curve, moved: float) -> Curve:
        ve = max(physiology.ve - moved, 0.01)
        return physiology.perfusion * extended_tofts(
            time_min, feed, physiology.ktrans_per_min, ve, _VP + moved
        )

    shell = dual_input(artery, plasma(vein), _CAPSULE_ARTERIAL_FRACTION)
    liver_feed = dual_input(artery, plasma(vein), LIVER_ARTERIAL_FRACTION)
    return {
        "liver": liver_concentration(time_min, liver_feed, physiology.liver_flow_per_min, LIVER_VE),
        "vessel": vein,
        "lesion": tumour(inflow, 0.0),
        "rim": tumour(inflow, _RIM_PLASMA),
        "inner": tumour(late, _INNER_PLASMA),
        "fibrosis": physiology.perfusion * extended_tofts(time_min, inflow, *_FIBROSIS),
        "necrosis": extended_tofts(time_min, artery, *_NECROSIS),
        "capsule": extended_tofts(time_min, shell, *_CAPSULE),
    }


def phase_signals(physiology: Physiology, profile: ScannerProfile) -> dict[Compartment, NDArray[np.float64]]:
    """Signal of every compartment in the four phases, in units of average native liver at this field.

    Returns:
        For each compartment four numbers: pre-contrast, arterial, portal venous, delayed.
    """
    time_min = time_axis(_LAST_S)
    unit = spgr_signal(np.array(1.0 / native_t1_s("liver", profile.field)), profile.tr_ms, profile.flip_deg)
    signals: dict[Compartment, NDArray[np.float64]] = {}
    for name, curve in concentrations(physiology, time_min, profile).items():
        sampled = np.concatenate([[0.0], np.interp(np.array(physiology.phase_s) / 60.0, time_min, curve)])
        t1 = native_t1_s(_T1_OF[name], profile.field) * physiology.t1_factor[name]
        signals[name] = (
            spgr_signal(r1_per_s(t1, profile.relaxivity, sampled), profile.tr_ms, profile.flip_deg) / unit
        )
    return signals
