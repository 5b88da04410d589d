"""What is measured of images, for training and prediction alike: spacing and enhancement (see `facts`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import PhaseImage
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
) -> dict[Phase, float]:
    """Natural logarithm of (median around the lesion / the same before contrast), of every later phase.

    Args:
        volumes_pdhw: the crops as measured, phases in the study's order.
        present_p: which phases are there.
        inside_pdhw: False where a crop's voxel is padding.
        lesion_dhw: 1 inside the lesion.
        settings: the study's phases.
    """
    if "pre-contrast" not in settings.phases or settings.normalisation == "signed-distance":
        return {}
    signal: dict[Phase, float] = {}
    for p, phase in enumerate(settings.phases):
        around = surroundings(lesion_dhw, inside_pdhw[p])
        if present_p[p] and around.any():
            signal[phase] = float(np.median(volumes_pdhw[p][around]))
    before = signal.pop("pre-contrast", 0.0)
    return {
        phase: round(math.log(after / before), 3)
        for phase, after in signal.items()
        if before > 0.0 and after > 0.0
    }
