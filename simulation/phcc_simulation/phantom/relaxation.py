"""From concentration to signal: relaxivity and T1 by field strength, and the spoiled gradient echo."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Field = Literal["1.5 T", "3 T"]
Tissue = Literal["liver", "blood", "lesion", "fibrosis", "necrosis", "capsule"]
AgentName = Literal[
    "gadopentetate",
    "gadoterate",
    "gadoteridol",
    "gadobutrol",
    "gadoxetate",
    "gadobenate",
    "gadodiamide",
    "gadoversetamide",
]

RELAXIVITY: dict[AgentName, dict[Field, float]] = {
    "gadopentetate": {"1.5 T": 4.1, "3 T": 3.7},
    "gadoterate": {"1.5 T": 3.6, "3 T": 3.5},
    "gadoteridol": {"1.5 T": 4.1, "3 T": 3.7},
    "gadobutrol": {"1.5 T": 5.2, "3 T": 5.0},
    "gadoxetate": {"1.5 T": 6.9, "3 T": 6.2},
    "gadobenate": {"1.5 T": 6.3, "3 T": 5.5},
    "gadodiamide": {"1.5 T": 4.3, "3 T": 4.0},
    "gadoversetamide": {"1.5 T": 4.7, "3 T": 4.5},
}
"""r1 in L/(mmol s), plasma at 37 C: Rohrer et al., Invest Radiol 2005;40:715 [F]."""

# Seconds at 3 T. Liver: de Bazelaire et al., Radiology 2004;230:652 (809 ms); blood: Lu et al., MRM
# 2004;52:679 (about 1650 ms) [F]. Lesion compartments: longer than liver, chosen for plausible T1-weighted
# contrast [R].
_T1_AT_3T: dict[Tissue, float] = {
    "liver": 0.81,
    "blood": 1.65,
    "lesion": 0.95,
    "fibrosis": 1.00,
    "necrosis": 1.20,
    "capsule": 0.95,
}

# T1 at 1.5 T over T1 at 3 T. Liver 586 / 809 ms (de Bazelaire 2004), taken for the lesion too [R]; blood
# 1441 / 1650 ms (Stanisz et al., MRM 2005;54:507, and Lu 2004) [F].
_TISSUE_RATIO, _BLOOD_RATIO = 0.724, 0.873


def native_t1_s(tissue: Tissue, field: Field) -> float:
    """T1 before contrast, in seconds."""
    if field == "3 T":
        return _T1_AT_3T[tissue]
    return _T1_AT_3T[tissue] * (_BLOOD_RATIO if tissue == "blood" else _TISSUE_RATIO)


def r1_per_s(t1_s: float, relaxivity: float, concentration_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relaxation rate 1/T1 + r1 C (1/s), fast water exchange [F]."""
    return 1.0 / t1_s + relaxivity * concentration_mm


def spgr_signal(r1: NDArray[np.float64], tr_ms: float, flip_deg: float) -> NDArray[np.float64]:
    """Steady state of a spoiled gradient echo, for unit proton density and no T2* decay.

    sin(a) (1 - E) / (1 - cos(a) E), E = exp(-TR R1): Ernst and Anderson 1966; Haase et al. 1986 [F]. TE is
    short (about 1.5 ms), so T2* is left out.
    """
    flip = np.deg2rad(flip_deg)
    decay = np.exp(-tr_ms * 1e-3 * np.asarray(r1, dtype=np.float64))
    return np.asarray(np.sin(flip) * (1.0 - decay) / (1.0 - np.cos(flip) * decay), dtype=np.float64)
