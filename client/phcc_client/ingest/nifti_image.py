"""NIfTI as an image of an examination: read with its checks, and written without anything but geometry."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from phcc_client.imaging.case import Spacing
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.volume import Header, read_header, read_voxels
from phcc_model.errors import CaseError

_NIBABEL: Any = nibabel  # its own annotations leave the image classes open
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_GZIP = 31
"""zlib's window bits for a gzip frame; its header then has no time and no name."""
_FASTEST = 1


@dataclass(frozen=True)
class NiftiImage:
    """A NIfTI file whose voxels are read when asked for.

    Attributes:
        path: the file.
        spacing_mm_dhw: from an annotation; replaces the file's whole geometry. None trusts the file.
    """

    path: Path
    spacing_mm_dhw: Spacing | None = None

    @cached_property
    def header(self) -> Header:
        """What the file says of itself.

        Raises:
            CaseError: it cannot be read.
        """
        return read_header(self.path, self.spacing_mm_dhw)

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return self.header.grid

    @property
    def where(self) -> str:
        """How an error names it."""
        return str(self.path)

    def read(self) -> NDArray[np.float32]:
        """Its voxels on `grid`.

        Raises:
            CaseError: the file is truncated or damaged.
        """
        return self.header.scaled(read_voxels(self.header))


@dataclass(frozen=True)
class ArrayImage:
    """An image that is in memory already."""

    array_dhw: NDArray[np.float32]
    grid: Grid
    where: str

    def read(self) -> NDArray[np.float32]:
        """Its voxels."""
        return self.array_dhw


def nifti_bytes(array_dhw: NDArray[np.generic], grid: Grid) -> bytes:
    """A ``.nii.gz`` file: voxels as they are, the grid as its affine, not one word of text.

    Whole numbers are kept as 16-bit integers, which loses nothing; everything else as float32.

    Args:
        array_dhw: voxels on the grid.
        grid: where they lie; its turned axes become the stored ones.

    Returns:
        The same bytes for the same image, always.
    """
    affine = np.eye(4)
    affine[:3, :3] = _TO_RAS @ grid.matrix[::-1, ::-1]
    affine[:3, 3] = _TO_RAS @ grid.origin_mm[::-1]
    image = _NIBABEL.Nifti1Image(_compact(array_dhw).transpose(2, 1, 0), affine)
    image.set_sform(affine, code=1)
    with warnings.catch_warnings():
        # A sheared stack has no exact quaternion; readers take the sform, which is exact.
        warnings.simplefilter("ignore")
        image.set_qform(affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    packed: bytes = isal_zlib.compress(image.to_bytes(), _FASTEST, wbits=_GZIP)
    return packed


def _compact(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype == np.uint8:
        return array
    whole = array.astype(np.float32, copy=False)
    low, high = float(whole.min()), float(whole.max())
    for kind in (np.int16, np.uint16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            rounded = whole.astype(kind)
            if np.array_equal(rounded, whole):
                return rounded
    return whole


def pixel_digest(array_dhw: NDArray[np.generic], grid: Grid) -> str:
    """SHA-256 of an image's shape, spacing and voxels: equal for equal images, wherever they lie in space.

    Args:
        array_dhw: the voxels.
        grid: its spacing is rounded to a micrometre.
    """
    values = np.ascontiguousarray(array_dhw, dtype=np.float32)
    spacing = np.round(grid.spacing_mm_dhw, 3) + 0.0
    digest = hashlib.sha256(f"{values.shape}{spacing.tolist()}".encode())
    digest.update(values.data)
    return digest.hexdigest()


def must_be_finite(array_dhw: NDArray[np.float32], where: str) -> None:
    """Check that every voxel is a number.

    Raises:
        CaseError: one is NaN or infinite.
    """
    if not np.isfinite(array_dhw.sum(dtype=np.float64)):
        bad = int(np.count_nonzero(~np.isfinite(array_dhw)))
        if bad:
            raise CaseError(
                f"{bad} voxels are not numbers (NaN or infinite)",
                where=where,
                remedy="Export the image again",
            )
