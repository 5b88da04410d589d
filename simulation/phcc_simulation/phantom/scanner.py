"""Six training centres and an external one: how each acquires, and what its scanner does to an image.

These are the scanners of the first phantom; those of the second stand in `second`, and `centres` chooses.

A profile is fixed data; what varies from patient to patient of one centre is drawn when a patient is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .fields import Axes, RandomField
from .relaxation import RELAXIVITY, AgentName, Field

Zyx = tuple[float, float, float]

_LIVER_LEVEL = 120.0  # scanner units of native liver at unit gain: the noise then spans a few grey levels
_BIAS_STEP_MM = (30.0, 45.0, 45.0)  # a surface coil's sensitivity varies over centimetres
_INT16_MAX = 32767.0


@dataclass(frozen=True, kw_only=True)
class ScannerProfile:
    """One centre's scanner and protocol.

    Attributes:
        centre: name of the centre.
        scanner: name of the scanner, invented.
        field: strength of the main field.
        agent: extracellular contrast agent, given at ``dose_mmol_kg``.
        tr_ms: repetition time.
        flip_deg: flip angle.
        portal_s: centre of the portal venous acquisition, seconds after the injection began.
        delayed_s: the same of the delayed acquisition.
        shape_zyx: voxels.
        spacing_zyx: voxel size in mm.
        blur_mm: sd of the point spread along z, y, x.
        noise: sd of the complex noise, in units of native liver signal.
        bias: sd of the log of the receive field.
        log_odds_shift: of the prevalence of proliferative lesions.
        share: relative number of patients among the training centres.
        dose_mmol_kg: of the agent.
        injection_s: longer than Parker's bolus at 3 mL/s; 8 s: the same volume at 1 to 1.5 mL/s.
        arterial_lag_s: centre of the arterial acquisition, seconds after the bolus reached the liver.
        arterial_lag_sd_s: of the same, between patients; triggering by the bolus is the more exact, the less.
        portal_sd_s: of the portal venous acquisition's time.
        delayed_sd_s: of the delayed acquisition's time.
        gain_log_sd: of the log of the receive gain, between patients [R].
    """

    centre: str
    scanner: str
    field: Field
    agent: AgentName
    tr_ms: float
    flip_deg: float
    portal_s: float
    delayed_s: float
    shape_zyx: tuple[int, int, int]
    spacing_zyx: Zyx
    blur_mm: Zyx
    noise: float
    bias: float
    log_odds_shift: float
    share: float
    dose_mmol_kg: float = 0.1
    injection_s: float = 8.0
    arterial_lag_s: float = 16.0
    arterial_lag_sd_s: float = 2.0
    portal_sd_s: float = 4.0
    delayed_sd_s: float = 10.0
    gain_log_sd: float = 0.40

    @property
    def relaxivity(self) -> float:
        """r1 of the agent at this field, L/(mmol s)."""
        return RELAXIVITY[self.agent][self.field]

    @property
    def axes(self) -> Axes:
        """Voxel centres in mm along z, y, x, zero in the middle of the volume."""
        z, y, x = (
            np.asarray((np.arange(n) - (n - 1) / 2) * step, dtype=np.float64)
            for n, step in zip(self.shape_zyx, self.spacing_zyx, strict=True)
        )
        return z, y, x

    @property
    def half_extent_mm(self) -> Zyx:
        """From the middle of the volume to its faces along z, y, x."""
        z, y, x = (n * step / 2 for n, step in zip(self.shape_zyx, self.spacing_zyx, strict=True))
        return z, y, x


TRAINING_CENTRES = (
    ScannerProfile(
        centre="C1", scanner="Aster 1.5T", field="1.5 T", agent="gadopentetate", tr_ms=4.0, flip_deg=12,
        portal_s=65, delayed_s=180, shape_zyx=(20, 64, 64), spacing_zyx=(3.0, 1.5, 1.5),
        blur_mm=(0.9, 0.8, 0.8), noise=0.050, bias=0.07, log_odds_shift=0.0, share=4,
    ),
    ScannerProfile(
        centre="C2", scanner="Borea 3T", field="3 T", agent="gadoterate", tr_ms=3.6, flip_deg=10,
        portal_s=70, delayed_s=180, shape_zyx=(24, 72, 72), spacing_zyx=(2.5, 1.3, 1.3),
        blur_mm=(0.9, 0.8, 0.8), noise=0.065, bias=0.14, log_odds_shift=0.15, share=3,
    ),
    ScannerProfile(
        centre="C3", scanner="Cirrus 1.5T", field="1.5 T", agent="gadoteridol", tr_ms=4.4, flip_deg=15,
        portal_s=60, delayed_s=210, shape_zyx=(15, 60, 60), spacing_zyx=(4.0, 1.6, 1.6),
        blur_mm=(1.0, 1.1, 1.1), noise=0.055, bias=0.08, log_odds_shift=-0.20, share=3,
    ),
    ScannerProfile(
        centre="C4", scanner="Borea 3T", field="3 T", agent="gadopentetate", tr_ms=3.4, flip_deg=11,
        portal_s=68, delayed_s=195, shape_zyx=(20, 68, 68), spacing_zyx=(3.0, 1.4, 1.4),
        blur_mm=(0.9, 0.8, 0.8), noise=0.060, bias=0.16, log_odds_shift=0.10, share=3,
    ),
    ScannerProfile(
        centre="C5", scanner="Aster 1.5T", field="1.5 T", agent="gadoterate", tr_ms=4.2, flip_deg=12,
        portal_s=62, delayed_s=170, shape_zyx=(17, 58, 58), spacing_zyx=(3.5, 1.65, 1.65),
        blur_mm=(1.0, 0.9, 0.9), noise=0.060, bias=0.10, log_odds_shift=-0.10, share=2,
    ),
    ScannerProfile(
        centre="C6", scanner="Dione 3T", field="3 T", agent="gadoteridol", tr_ms=3.8, flip_deg=12,
        portal_s=72, delayed_s=200, shape_zyx=(20, 68, 68), spacing_zyx=(3.0, 1.4, 1.4),
        blur_mm=(1.0, 0.9, 0.9), noise=0.055, bias=0.12, log_odds_shift=0.05, share=2,
    ),
)  # fmt: skip
"""The centres a study trains on, in the order in which they are taken."""

EXTERNAL_CENTRE = ScannerProfile(
    centre="X1", scanner="Epona 3T", field="3 T", agent="gadobutrol", tr_ms=3.2, flip_deg=9,
    portal_s=75, delayed_s=190, shape_zyx=(17, 56, 56), spacing_zyx=(3.5, 1.7, 1.7),
    blur_mm=(1.1, 1.0, 1.0), noise=0.070, bias=0.18, log_odds_shift=-0.05, share=1,
)  # fmt: skip
"""A centre that no training centre resembles: another scanner, agent, flip angle, timing, grid and noise."""


@dataclass(frozen=True)
class Receiver:
    """What one examination does to each image of a patient: receive field and gain, alike in all phases."""

    field_zyx: NDArray[np.float32]
    gain: float

    @classmethod
    def draw(cls, profile: ScannerProfile, rng: np.random.Generator) -> Receiver:
        """Draw the receive field on the profile's grid, and the gain."""
        smooth = RandomField.draw(rng, profile.half_extent_mm, _BIAS_STEP_MM).at(profile.axes)
        gain = _LIVER_LEVEL * float(np.exp(rng.normal(0.0, profile.gain_log_sd)))
        return cls(np.exp(profile.bias * smooth, dtype=np.float32), gain)


def acquire(
    signal_zyx: NDArray[np.float32],
    profile: ScannerProfile,
    receiver: Receiver,
    rng: np.random.Generator,
    noise_scale: float = 1.0,
) -> NDArray[np.int16]:
    """One magnitude image in scanner units: point spread, receive field, Rician noise, gain, rounding.

    Args:
        signal_zyx: true signal on the profile's grid, 1 = native liver.
        profile: the scanner.
        receiver: receive field and gain of this examination.
        rng: of the noise.
        noise_scale: multiplies the profile's noise.
    """
    sd = [blur / step for blur, step in zip(profile.blur_mm, profile.spacing_zyx, strict=True)]
    blurred = gaussian_filter(signal_zyx, sd, truncate=3.0) * receiver.field_zyx
    noise = np.float32(profile.noise * noise_scale)
    real, imaginary = noise * rng.standard_normal((2, *profile.shape_zyx), dtype=np.float32)
    magnitude = receiver.gain * np.hypot(blurred + real, imaginary)
    return np.asarray(np.clip(np.rint(magnitude), 0.0, _INT16_MAX), dtype=np.int16)
