"""A patient's phases cut out around the lesion on one grid, and made comparable, for the check's networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

from phcc_model.config import CropSettings, Phase

from .patient import PHANTOM_PHASES, PhantomPatient, PhaseImage

_CLIP = 2.5
_SMOOTHING_VOXELS = 0.6  # in plane, so that the logarithm of noise does not dominate
_FLOOR = 1e-3  # of the brightest voxel


@dataclass(frozen=True)
class PatientCrop:
    """One patient on the crop's grid.

    Attributes:
        images_pdhw: scanner units, in the order of `PHANTOM_PHASES`.
        box_dhw: 1 inside the lesion's box.
    """

    images_pdhw: NDArray[np.float32]
    box_dhw: NDArray[np.float32]


def crop_patient(patient: PhantomPatient, crop: CropSettings) -> PatientCrop:
    """Cut every phase around the centre of its own box, and resample it (linearly) to the crop's grid.

    Raises:
        KeyError: a phase is missing.
    """
    step = np.array(crop.spacing_mm) / patient.profile.spacing_zyx
    images = [_cut(patient.images[phase], step, crop.size) for phase in PHANTOM_PHASES]
    box = patient.images[PHANTOM_PHASES[0]].box
    half = (np.array(box.stop_zyx) - box.start_zyx) / 2 / step
    inside = [np.abs(np.arange(n) - (n - 1) / 2) <= h for n, h in zip(crop.size, half, strict=True)]
    box_dhw = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return PatientCrop(np.stack(images), box_dhw.astype(np.float32))


def _cut(image: PhaseImage, step: NDArray[np.float64], size: tuple[int, int, int]) -> NDArray[np.float32]:
    first = np.array(image.box.centre_zyx) - step * (np.array(size) - 1) / 2
    cut = affine_transform(
        image.volume_zyx, step, offset=first, output_shape=size, output=np.float32, order=1, mode="nearest"
    )
    return np.asarray(cut, dtype=np.float32)


def network_input(crop: PatientCrop, phase: Phase | None) -> NDArray[np.float32]:
    """Log ratios that cancel the scanner's gain; axes channel, d, h, w.

    All phases: log(pre-contrast / its liver), then log(phase / pre-contrast). One phase: log(phase / its own
    liver): nothing of another phase enters. The liver's level is the median outside the box.
    """
    smooth = gaussian_filter(crop.images_pdhw, (0.0, 0.0, _SMOOTHING_VOXELS, _SMOOTHING_VOXELS), truncate=2.0)
    logs = np.log(np.maximum(smooth, _FLOOR * smooth.max(axis=(1, 2, 3), keepdims=True)))
    liver_p = np.log(np.median(crop.images_pdhw[:, crop.box_dhw < 0.5], axis=1))
    if phase is None:
        ratios = np.concatenate([logs[:1] - liver_p[0], logs[1:] - logs[:1]])
    else:
        index = PHANTOM_PHASES.index(phase)
        ratios = logs[index : index + 1] - liver_p[index]
    return np.asarray(np.clip(ratios, -_CLIP, _CLIP), dtype=np.float32)


def arterial_portal_ratio(crop: PatientCrop) -> float:
    """Log of the arterial over the portal venous contrast of lesion to liver: the strongest single number."""
    inside = crop.box_dhw > 0.5
    contrast = [np.log(np.mean(image[inside]) / np.median(image[~inside])) for image in crop.images_pdhw]
    return float(contrast[PHANTOM_PHASES.index("arterial")] - contrast[PHANTOM_PHASES.index("portal-venous")])
