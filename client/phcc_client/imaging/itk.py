"""SimpleITK, at one place and typed: what its own annotations leave open is closed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

_ITK: Any = SimpleITK
# What ITK has to say of a header's form goes past every log; what matters is checked and said by us.
_ITK.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class NiftiInformation:
    """A NIfTI header as ITK reads it: axes in ITK's order (x, y, z, ...), millimetres, LPS.

    Attributes:
        size: voxels along each axis, four axes included.
        spacing_mm: between voxels.
        origin_mm: of voxel (0, 0, 0).
        direction: (3, 3), one column of cosines per axis.
        datatype: NIfTI's code.
        offset: bytes before the voxels.
        slope: NIfTI's scaling of stored values; 0 means none.
        intercept: added after it.
    """

    size: tuple[int, ...]
    spacing_mm: NDArray[np.float64]
    origin_mm: NDArray[np.float64]
    direction: NDArray[np.float64]
    datatype: int
    offset: int
    slope: float
    intercept: float


def read_information(path: Path) -> NiftiInformation:
    """The header of a NIfTI file.

    Raises:
        ValueError: ITK cannot make sense of it; the message is ITK's, in one line.
    """
    reader = _ITK.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        n = reader.GetDimension()
        return NiftiInformation(
            size=tuple(int(extent) for extent in reader.GetSize()),
            spacing_mm=np.array(reader.GetSpacing()[:3]),
            origin_mm=np.array(reader.GetOrigin()[:3]),
            direction=np.array(reader.GetDirection()).reshape(n, n)[:3, :3],
            datatype=int(reader.GetMetaData("datatype")),
            offset=int(float(reader.GetMetaData("vox_offset"))),
            slope=float(reader.GetMetaData("scl_slope")),
            intercept=float(reader.GetMetaData("scl_inter")),
        )
    except RuntimeError as error:
        # ITK writes where in its sources it failed; the last line, after the object's address, says why.
        why = str(error).strip().splitlines()[-1].rsplit("): ", 1)[-1].strip()
        raise ValueError(why) from error


def distance_to(
    shape_dhw: NDArray[np.bool_], spacing_mm_dhw: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Exact distance in mm from every voxel outside a shape to its nearest voxel (Maurer et al. 2003)."""
    image = _ITK.GetImageFromArray(shape_dhw.astype(np.uint8))
    image.SetSpacing(spacing_mm_dhw[::-1])
    distance = _ITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(_ITK.GetArrayFromImage(distance), dtype=np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """ITK uses one thread per call; its own setting comes back afterwards."""
    before = _ITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    _ITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        _ITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def bias_of(
    image_dhw: NDArray[np.float32],
    body_dhw: NDArray[np.bool_],
    spacing_mm_dhw: tuple[float, float, float],
    shrink_dhw: tuple[int, int, int],
) -> NDArray[np.float32] | None:
    """The bias field of an image, by N4 on a shrunk copy of it.

    Args:
        image_dhw: the image; voxels at or below zero in the body are lifted just above, for the logarithm.
        body_dhw: where there is signal.
        spacing_mm_dhw: of the voxels.
        shrink_dhw: by how much each axis is shrunk for the estimate.

    Returns:
        The field, positive, at full resolution; None where N4 finds none.
    """
    floor = max(float(image_dhw.max()) * 1e-6, float(np.finfo(np.float32).tiny))
    image = _ITK.GetImageFromArray(np.maximum(image_dhw, np.float32(floor)))
    body = _ITK.GetImageFromArray(body_dhw.astype(np.uint8))
    for part in (image, body):
        part.SetSpacing(spacing_mm_dhw[::-1])
    small, small_body = (_ITK.Shrink(part, shrink_dhw[::-1]) for part in (image, body))
    n4 = _ITK.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([30, 30, 20])
    n4.SetConvergenceThreshold(1e-4)
    try:
        with one_thread():
            n4.Execute(small, small_body)
            field = _ITK.Exp(n4.GetLogBiasFieldAsImage(image))
    except RuntimeError:  # no body left after shrinking, or a histogram of one value
        return None
    values = np.asarray(_ITK.GetArrayFromImage(field), dtype=np.float32)
    return values if np.isfinite(values).all() and float(values.min()) > 0 else None
