"""A region about the lesion bent onto the reference phase: B-splines and mutual information (SimpleITK)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from phcc_client.imaging.itk import one_thread
from phcc_client.imaging.volume import Grid
from phcc_client.ingest.registration_edges import Array, box_of_voxels, match

_ITK: Any = SimpleITK

REGION_MM = 80.0
"""How much around the lesion is bent and written, on each side."""
_MATCHED_MM = 35.0
"""How much around the lesion is compared: what bends farther away is none of the lesion's business."""
_KNOT_MM = 35.0
_WORKING_MM = 2.5
_LEAST_JACOBIAN = 0.3
"""Tissue that is squeezed to less than this share of its volume is none."""


@dataclass(frozen=True)
class Bent:
    """A bent region.

    Attributes:
        array_dhw: its voxels, on a part of the reference phase's grid; zero where the phase ends.
        grid: that part.
        shift_mm: (z, y, x), from the lesion's centre to where the phase shows it.
    """

    array_dhw: NDArray[np.float32]
    grid: Grid
    shift_mm: Array


def bend(
    fixed: tuple[NDArray[np.float32], Grid],
    moving: tuple[NDArray[np.float32], Grid],
    centre_mm: Array,
    half_mm: Array,
) -> Bent | str:
    """Bend a phase onto the reference phase around the lesion.

    Args:
        fixed: array (D, H, W) and grid of the reference.
        moving: of the phase, rigidly registered.
        centre_mm: of the lesion, (z, y, x).
        half_mm: (3,), from there to the faces of the lesion's box.

    Returns:
        The bent region; or in words why it is not bent.
    """
    centre = [float(v) for v in centre_mm[::-1]]
    region = box_of_voxels(fixed[1], centre_mm, half_mm + REGION_MM)
    grid = part_of(fixed[1], region)
    target = as_itk(np.ascontiguousarray(fixed[0][region]), grid)
    source = as_itk(moving[0], moving[1])
    near = box_of_voxels(fixed[1], centre_mm, half_mm + _MATCHED_MM)
    compared = _coarse(as_itk(np.ascontiguousarray(fixed[0][near]), part_of(fixed[1], near)))
    mesh = [
        max(2, round(n * s / _KNOT_MM))
        for n, s in zip(compared.GetSize(), compared.GetSpacing(), strict=True)
    ]
    spline = _ITK.BSplineTransformInitializer(compared, mesh, 3)
    try:
        with one_thread():
            spline = _fitted(compared, _coarse(source), spline)
            folded = _squeeze(spline, compared)
            bent = _ITK.Resample(source, target, spline, _ITK.sitkLinear, 0.0, _ITK.sitkFloat32)
    except RuntimeError:
        return "the two phases share too little around the lesion"
    if folded < _LEAST_JACOBIAN:
        return f"the deformation would squeeze tissue to {max(folded, 0.0):.0%} of its volume"
    array = np.asarray(_ITK.GetArrayFromImage(bent), dtype=np.float32)
    half = half_mm + _MATCHED_MM / 2
    scores = [
        None if level is None else level.score(np.eye(3), np.zeros(3))
        for level in (
            match(fixed, other, centre_mm, half, scale_mm=2.0, step_mm=2.5, far_mm=0.0)
            for other in (moving, (array, grid))
        )
    ]
    if scores[0] is None or scores[1] is None or scores[1] <= scores[0]:
        return "the edges of the two phases do not meet better than after the rigid motion"
    shift = np.array(spline.TransformPoint(centre))[::-1] - centre_mm
    return Bent(array, grid, shift)


def as_itk(array_dhw: NDArray[np.float32], grid: Grid) -> Any:
    """An image for SimpleITK: axes x, y, z there."""
    image = _ITK.GetImageFromArray(array_dhw.astype(np.float32, copy=False))
    spacing = grid.spacing_mm_dhw
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetOrigin([float(o) for o in grid.origin_mm[::-1]])
    image.SetDirection([float(c) for c in (grid.matrix / spacing)[::-1, ::-1].ravel()])
    return image


def part_of(grid: Grid, region: tuple[slice, slice, slice]) -> Grid:
    """The grid of a part of an image, axes as they are."""
    d, h, w = (s.stop - s.start for s in region)
    start = np.array([s.start for s in region], dtype=np.float64)
    return Grid((d, h, w), grid.matrix, grid.to_mm(start))


def _coarse(image: Any) -> Any:
    """An image on voxels of about the working size, smoothed for it."""
    for axis, spacing in enumerate(image.GetSpacing()):
        sigma = 0.5 * np.sqrt(max(_WORKING_MM**2 - spacing**2, 0.0))
        if sigma > 0.1 and image.GetSize()[axis] >= 4:
            image = _ITK.RecursiveGaussian(
                image, float(sigma), False, _ITK.RecursiveGaussianImageFilter.ZeroOrder, axis
            )
    return _ITK.Shrink(image, [max(1, int(_WORKING_MM / s)) for s in image.GetSpacing()])


def _fitted(fixed: Any, moving: Any, spline: Any) -> Any:
    method = _ITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    # ITK's filter takes gradients over a slice's thickness, too coarse for vessels: the search then goes astray.
    method.SetMetricUseMovingImageGradientFilter(False)
    method.SetMetricUseFixedImageGradientFilter(False)
    method.SetInterpolator(_ITK.sitkLinear)
    method.SetInitialTransform(spline, inPlace=False)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-4, numberOfIterations=30, costFunctionConvergenceFactor=1e8
    )
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([1.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method.Execute(fixed, moving)


def _squeeze(spline: Any, fixed: Any) -> float:
    """The smallest share of its volume that any voxel keeps (the Jacobian's determinant)."""
    field = _ITK.TransformToDisplacementField(
        spline,
        _ITK.sitkVectorFloat64,
        fixed.GetSize(),
        fixed.GetOrigin(),
        fixed.GetSpacing(),
        fixed.GetDirection(),
    )
    return float(_ITK.GetArrayViewFromImage(_ITK.DisplacementFieldJacobianDeterminant(field)).min())
