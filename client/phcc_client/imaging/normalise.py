"""From scanner units to units that compare across patients and hospitals (METHOD: normalisation [R])."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from phcc_client.imaging.geometry import bounding_box
from phcc_client.imaging.itk import distance_to
from phcc_model.config import DataSettings
from phcc_model.errors import CaseError

Volume = NDArray[np.float32]

_LEAST_SURROUNDINGS = 0.05
"""Share of the crop that must lie outside the lesion to speak for the liver."""


def surroundings(lesion_dhw: NDArray[np.uint8], inside_dhw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels that stand for the liver: in the image, outside the lesion.

    Where the lesion fills the crop (a crop without a box, a very large tumour), the outermost eighth in plane
    on each side stands for it: the public crops carry a margin there.
    """
    around: NDArray[np.bool_] = inside_dhw & (lesion_dhw == 0)
    if around.mean() >= _LEAST_SURROUNDINGS:
        return around
    h, w = lesion_dhw.shape[1:]
    rim_hw = np.ones((h, w), dtype=bool)
    rim_hw[math.ceil(h / 8) : h - math.ceil(h / 8), math.ceil(w / 8) : w - math.ceil(w / 8)] = False
    rim = inside_dhw & rim_hw
    return rim if rim.any() else inside_dhw


def normalise(
    volumes_pdhw: Volume,
    present_p: NDArray[np.bool_],
    inside_pdhw: NDArray[np.bool_],
    lesion_dhw: NDArray[np.uint8],
    settings: DataSettings,
) -> Volume:
    """The phases of one case in the units that `settings.normalisation` names.

    - ``log-ratio``: pre-contrast becomes log(pre / liver's pre-contrast median), every other phase
      log(phase / pre) voxel by voxel, after a light Gaussian in plane; without pre-contrast it falls back to
      ``own-liver``.
    - ``own-liver``: log(phase / liver's median in this phase), the Gaussian as above.
    - ``z-score``: mean 0 and standard deviation 1 over the crop's voxels inside the image.
    - ``signed-distance``, ``none``: as they come (distances were taken before resampling).

    Logarithms are kept within ``±settings.clip``; so are signed distances.

    Args:
        volumes_pdhw: float32, the crops, phases in the study's order.
        present_p: which phases are there; the others stay zero.
        inside_pdhw: False where a crop's voxel is padding.
        lesion_dhw: 1 inside the lesion.
        settings: what the study says.

    Returns:
        float32, the same shape.

    Raises:
        CaseError: a phase has no signal to divide by, or does not vary.
    """
    result = np.zeros_like(volumes_pdhw)
    there = [int(p) for p in np.flatnonzero(present_p)]
    if settings.normalisation in ("log-ratio", "own-liver"):
        logs = {
            p: _log_to_liver(
                volumes_pdhw[p], surroundings(lesion_dhw, inside_pdhw[p]), settings, settings.phases[p]
            )
            for p in there
        }
        pre = settings.phases.index("pre-contrast") if "pre-contrast" in settings.phases else -1
        ratio = settings.normalisation == "log-ratio" and pre in logs
        for p, (log_dhw, log_liver) in logs.items():
            if ratio and p != pre:
                base_dhw, base_liver = logs[pre]
                log_dhw = (log_dhw + log_liver) - (base_dhw + base_liver)
            result[p] = np.clip(log_dhw, -settings.clip, settings.clip)
        return result
    for p in there:
        if settings.normalisation == "z-score":
            result[p] = _z_score(volumes_pdhw[p], inside_pdhw[p], settings.phases[p])
        elif settings.normalisation == "signed-distance":
            result[p] = np.clip(volumes_pdhw[p], -settings.clip, settings.clip)
        else:
            result[p] = volumes_pdhw[p]
    return result


def _log_to_liver(
    volume_dhw: Volume, liver_dhw: NDArray[np.bool_], settings: DataSettings, phase: str
) -> tuple[Volume, float]:
    """log(volume / liver's median), bounded, and log of that median.

    The signal is kept within exp(±clip) of the liver before the logarithm: air and noise near zero would
    otherwise give ratios without meaning, and negative voxels none at all.
    """
    median = float(np.median(volume_dhw[liver_dhw])) if liver_dhw.any() else math.nan
    if not median > 0.0:
        raise CaseError(
            f"phase {phase} has no positive signal around the lesion (median {median:g}) to divide by",
            remedy="Check the box, or choose data.normalisation: z-score",
        )
    smooth = volume_dhw
    if settings.smoothing_voxels:
        sigma = (0.0, settings.smoothing_voxels, settings.smoothing_voxels)
        smooth = gaussian_filter(volume_dhw, sigma, mode="nearest")
    bound = math.exp(settings.clip)
    log_dhw = np.log(np.clip(smooth / np.float32(median), 1 / bound, bound))
    return log_dhw.astype(np.float32), math.log(median)


def _z_score(volume_dhw: Volume, inside_dhw: NDArray[np.bool_], phase: str) -> Volume:
    values = volume_dhw[inside_dhw].astype(np.float64)
    spread = float(values.std())
    if not spread > 1e-6 * max(1.0, float(np.abs(values).max())):
        raise CaseError(f"phase {phase} does not vary within the crop", remedy="Check the image and the box")
    return (volume_dhw - np.float32(values.mean())) / np.float32(spread)


def signed_distance(shape_dhw: NDArray[np.generic], spacing_mm_dhw: tuple[float, float, float]) -> Volume:
    """Distance in mm to the surface of a binary shape, positive inside.

    The exact Euclidean distance between voxel centres on either side, less half a voxel, so that the surface
    lies between them and the map has no step there.

    Args:
        shape_dhw: the voxels above half of the range are the shape; both sides must be there.
        spacing_mm_dhw: of the voxels.
    """
    values = np.asarray(shape_dhw, dtype=np.float32)
    inside_dhw = values > (float(values.min()) + float(values.max())) / 2
    half = min(spacing_mm_dhw) / 2
    signed: Volume = np.float32(half) - distance_to(inside_dhw, spacing_mm_dhw)
    # The voxel outside that is nearest to one inside lies in the bounding box or one voxel beyond it.
    box = bounding_box(inside_dhw)
    assert box is not None
    part = tuple(
        slice(max(low - 1, 0), high + 1) for low, high in zip(box.low_dhw, box.high_dhw, strict=True)
    )
    core_dhw = inside_dhw[part]
    signed[part][core_dhw] = distance_to(~core_dhw, spacing_mm_dhw)[core_dhw] - half
    return signed
