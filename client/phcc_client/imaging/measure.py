"""What is measured of images, for training and prediction alike: spacing and enhancement (see `facts`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import PhaseImage, PreparedCase
from phcc_client.imaging.normalise import surroundings
from phcc_client.imaging.volume import read_header
from phcc_model.config import DataSettings, Phase


def spacing_of(image: PhaseImage) -> tuple[float, float, float] | None:
    """Millimetres between slices, rows and columns; None for an image that has none of its own.

    Raises:
        CaseError: its header cannot be read.
    """
    if image.fitted:
        return None
    if image.path is None:
        return image.spacing_mm_dhw
    d, h, w = (round(float(s), 4) for s in read_header(image.path, image.spacing_mm_dhw).grid.spacing_mm_dhw)
    return d, h, w


def enhancement_of(
    volumes_pdhw: NDArray[np.float32],
    present_p: NDArray[np.bool_],
    inside_pdhw: NDArray[np.bool_],
    lesion_dhw: NDArray[np.uint8],
    settings: DataSettings,
) -> NDArray[np.float32]:
    """Natural logarithm of (median around the lesion / the same before contrast), of every later phase.

    Args:
        volumes_pdhw: the crops as measured, phases in the study's order.
        present_p: which phases are there.
        inside_pdhw: False where a crop's voxel is padding.
        lesion_dhw: 1 inside the lesion.
        settings: the study's phases.

    Returns:
        float32 [P], to three digits; NaN before contrast, and where it cannot be measured.
    """
    found_p = np.full(len(settings.phases), np.nan, dtype=np.float32)
    if "pre-contrast" not in settings.phases or settings.normalisation == "signed-distance":
        return found_p
    base = settings.phases.index("pre-contrast")
    signal_p = np.zeros(len(found_p))
    for p in np.flatnonzero(present_p):
        around = surroundings(lesion_dhw, inside_pdhw[p])
        signal_p[p] = float(np.median(volumes_pdhw[p][around])) if around.any() else 0.0
    for p in np.flatnonzero(signal_p > 0.0):
        if p != base and signal_p[base] > 0.0:
            found_p[p] = round(math.log(signal_p[p] / signal_p[base]), 3)
    return found_p


def enhancement_in(case: PreparedCase, settings: DataSettings) -> dict[Phase, float]:
    """A prepared case's enhancement by phase; phases of which it is not known are left out."""
    if case.enhancement_p is None:
        return {}
    by_phase = zip(settings.phases, case.enhancement_p.tolist(), strict=True)
    return {phase: round(value, 3) for phase, value in by_phase if math.isfinite(value)}
