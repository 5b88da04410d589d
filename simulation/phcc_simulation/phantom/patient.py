"""One synthetic patient: draws everything from named streams, renders every phase on the centre's own grid.

A patient is a function of (settings, centre, number) and of nothing else: not of how many there are, nor of
the order in which they are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from phcc_model.config import PhantomSettings, Phase
from phcc_model.seeds import generator

from .anatomy import Anatomy, Zyx
from .scanner import Receiver, ScannerProfile, acquire
from .signs import PatientSigns, draw_signs
from .tissues import draw_physiology, phase_signals

PHANTOM_PHASES: Final[tuple[Phase, ...]] = ("pre-contrast", "arterial", "portal-venous", "delayed")

_BREATH_SD_MM = (
    0.8,
    1.0,
    0.8,
)  # of the liver's place between breath-holds: head-foot, front-back, left-right
_MISSING_PROBABILITY = (
    0.04  # that one phase is missing; at most one is, so never pre-contrast and arterial both
)


@dataclass(frozen=True)
class Box:
    """A lesion's box in voxels: the first voxel and one past the last, along z, y, x."""

    start_zyx: tuple[int, int, int]
    stop_zyx: tuple[int, int, int]

    @classmethod
    def around(cls, mask_zyx: NDArray[np.bool_]) -> Box:
        """The smallest box that holds the mask.

        Raises:
            ValueError: the mask is empty.
        """
        if not mask_zyx.any():
            raise ValueError("an empty mask has no box")
        bounds = []
        for axis in range(3):
            hits = np.flatnonzero(mask_zyx.any(axis=tuple(a for a in range(3) if a != axis)))
            bounds.append((int(hits[0]), int(hits[-1]) + 1))
        (z0, z1), (y0, y1), (x0, x1) = bounds
        return cls((z0, y0, x0), (z1, y1, x1))

    @property
    def centre_zyx(self) -> Zyx:
        """Centre in voxel coordinates (the centre of voxel 0 is 0)."""
        z, y, x = ((a + b - 1) / 2 for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x


@dataclass(frozen=True)
class PhaseImage:
    """One acquired phase: scanner units, and the lesion's box where this breath-hold left it."""

    volume_zyx: NDArray[np.int16]
    box: Box


@dataclass(frozen=True)
class PhantomPatient:
    """One patient as acquired, with the truth.

    Attributes:
        patient: name, unique in the data set.
        profile: the centre's scanner.
        signs: label and planted signs.
        anatomy: lesion and liver.
        origin_xyz: position of the first voxel in mm, the same for all phases.
        images: the phases that are there.
        labels_zyx: the truth in the pre-contrast position, values as in `anatomy.LABELS`.
    """

    patient: str
    profile: ScannerProfile
    signs: PatientSigns
    anatomy: Anatomy
    origin_xyz: tuple[float, float, float]
    images: dict[Phase, PhaseImage]
    labels_zyx: NDArray[np.uint8]


def patient_name(centre: str, number: int) -> str:
    """Name of a centre's patient; numbers begin at 0."""
    return f"{centre}-{number:04d}"


def patient_signs(settings: PhantomSettings, profile: ScannerProfile, number: int) -> PatientSigns:
    """The signs of one patient, without rendering the images."""
    return draw_signs(settings, _stream(settings, profile, number, "signs"), profile.log_odds_shift)


def present_phases(settings: PhantomSettings, profile: ScannerProfile, number: int) -> tuple[Phase, ...]:
    """The phases that this patient's examination has."""
    rng = _stream(settings, profile, number, "missing")
    if rng.random() >= _MISSING_PROBABILITY:
        return PHANTOM_PHASES
    missing = PHANTOM_PHASES[int(rng.integers(len(PHANTOM_PHASES)))]
    return tuple(phase for phase in PHANTOM_PHASES if phase != missing)


def make_patient(settings: PhantomSettings, profile: ScannerProfile, number: int) -> PhantomPatient:
    """Draw and render one patient.

    Args:
        settings: of the phantom; the seed and the strength of the signs count, the numbers of patients do
        not.
        profile: the centre.
        number: of the patient within the centre, from 0.
    """
    signs = patient_signs(settings, profile, number)
    physiology = draw_physiology(
        profile, bool(signs.washout), _stream(settings, profile, number, "physiology")
    )
    signals = phase_signals(physiology, profile)
    anatomy = Anatomy.draw(signs, profile.half_extent_mm, _stream(settings, profile, number, "anatomy"))
    examination = _stream(settings, profile, number, "examination")
    receiver = Receiver.draw(profile, examination)
    origin = examination.uniform((-130.0, -110.0, -60.0), (-70.0, -40.0, 120.0)).round(2)
    present = present_phases(settings, profile, number)
    images: dict[Phase, PhaseImage] = {}
    reference = anatomy.parts(profile.axes)
    for index, phase in enumerate(PHANTOM_PHASES):
        if phase not in present:
            continue
        rng = _stream(settings, profile, number, phase)
        shift = rng.normal(0.0, _BREATH_SD_MM)
        parts = reference if index == 0 else anatomy.parts(profile.axes, (shift[0], shift[1], shift[2]))
        at_phase = {name: float(values[index]) for name, values in signals.items()}
        true_signal = anatomy.paint(parts, signs, at_phase, enhanced=index > 0)
        volume = acquire(true_signal, profile, receiver, rng, settings.noise_scale)
        images[phase] = PhaseImage(volume, Box.around(parts.lesion > 0.5))
    return PhantomPatient(
        patient=patient_name(profile.centre, number),
        profile=profile,
        signs=signs,
        anatomy=anatomy,
        origin_xyz=(float(origin[0]), float(origin[1]), float(origin[2])),
        images=images,
        labels_zyx=anatomy.label_map(reference, signs),
    )


def _stream(
    settings: PhantomSettings, profile: ScannerProfile, number: int, name: str
) -> np.random.Generator:
    return generator(settings.seed, "phantom", profile.centre, number, name)
