"""The slow change of brightness across an image that the receiver coils leave, taken out (N4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.imaging.itk import bias_of

_WORKING_MM = 9.0
"""The field is slow: it is estimated on voxels of about this size."""
_LEAST_VOXELS = 8


def correct_bias(array_dhw: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """An image without its bias field (Tustison et al., "N4ITK: improved N3 bias correction", 2010).

    The field is estimated on a shrunk image and divided out at full resolution; its mean over the body is one,
    so that the signal keeps its level. An image without signal, or too small to tell a field, comes back as it
    is.

    Args:
        array_dhw: the image, finite.
        grid: where its voxels lie.

    Returns:
        float32, the same shape.
    """
    image = array_dhw.astype(np.float32, copy=False)
    low, high = float(image.min()), float(image.max())
    if min(image.shape) < _LEAST_VOXELS or not high > max(low, 0.0):
        return image
    body_dhw = image > body_level(image)
    shrink = [max(1, int(_WORKING_MM / s)) for s in grid.spacing_mm_dhw]
    shrink = [min(k, n // _LEAST_VOXELS) for k, n in zip(shrink, image.shape, strict=True)]
    d, h, w = (float(s) for s in grid.spacing_mm_dhw)
    field = bias_of(image, body_dhw, (d, h, w), (shrink[0], shrink[1], shrink[2]))
    if field is None:
        return image
    field /= np.float32(np.exp(np.log(field[body_dhw]).mean()))
    return image / field


def body_level(image_dhw: NDArray[np.float32]) -> float:
    """Signal above this is body, not air: a tenth of the bright end, which no noise of air reaches."""
    return 0.1 * float(np.percentile(image_dhw, 99))
