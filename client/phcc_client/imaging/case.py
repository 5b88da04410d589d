"""What a reader hands on: cases as they lie on disk, no voxel read yet, and what was set aside and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import PHASES, Phase
from phcc_model.errors import CaseError, PhccError

GivenSplit = Literal["train", "validation"]
Index = tuple[int, int, int]
Spacing = tuple[float, float, float]


PREPROCESS_VERSION = 2
"""Raised with every change that alters a prepared voxel; old cache entries are then left behind."""


@dataclass(frozen=True)
class Box:
    """A lesion's box in voxels of one image, half open: the voxel ``high`` is the first one outside.

    Attributes:
        low_dhw: first voxel inside, per axis (D, H, W), which is (z, y, x).
        high_dhw: first voxel outside, per axis.

    Raises:
        CaseError: the box holds no voxel, or begins before the image does.
    """

    low_dhw: Index
    high_dhw: Index

    def __post_init__(self) -> None:
        for axis, low, high in zip("zyx", self.low_dhw, self.high_dhw, strict=True):
            if high <= low:
                raise CaseError(
                    f"the lesion's box holds no voxel along {axis} (from {low} to {high}, end not included)",
                    remedy="Correct the box",
                )
            if low < 0:
                raise CaseError(
                    f"the lesion's box begins at {axis} = {low}, outside the volume", remedy="Correct the box"
                )

    def must_lie_in(self, shape_dhw: Index) -> None:
        """Check every axis against its own size (the official crop code takes x's size for y's).

        Raises:
            CaseError: a part of the box lies outside an image of this shape.
        """
        for axis, high, size in zip("zyx", self.high_dhw, shape_dhw, strict=True):
            if high > size:
                raise CaseError(
                    f"the lesion's box reaches {axis} = {high - 1}, outside the volume's {size} voxels there",
                    remedy="Correct the box, or check that it belongs to this image",
                )

    @property
    def centre_dhw(self) -> NDArray[np.float64]:
        """The centre in continuous voxel indices, where an integer is a voxel's centre."""
        return np.add(self.low_dhw, self.high_dhw, dtype=np.float64) / 2 - 0.5

    @property
    def size_dhw(self) -> NDArray[np.float64]:
        """Voxels along each axis."""
        return np.subtract(self.high_dhw, self.low_dhw).astype(np.float64)


@dataclass(frozen=True)
class PhaseImage:
    """One phase of one case.

    Attributes:
        phase: canonical name.
        path: the NIfTI file, or None where the voxels are in memory.
        spacing_mm_dhw: voxel spacing from an annotation, which then replaces the file's whole geometry (axes
            as
            stored); None trusts the file, orientation included.
        box: the lesion in this image's own voxels as stored; None where the case says it otherwise.
        array_dhw: the voxels, for sources that come in memory.
        fitted: the image carries no spacing at all and is stretched over the whole crop.
    """

    phase: Phase
    path: Path | None
    spacing_mm_dhw: Spacing | None = None
    box: Box | None = None
    array_dhw: NDArray[np.generic] | None = field(default=None, compare=False, repr=False)
    fitted: bool = False

    def __post_init__(self) -> None:
        if (self.path is None) == (self.array_dhw is None):
            raise ValueError("a phase has either a path or an array")
        if self.spacing_mm_dhw is not None and not all(
            math.isfinite(s) and s > 0 for s in self.spacing_mm_dhw
        ):
            raise CaseError(
                f"the spacing of phase {self.phase} is {self.spacing_mm_dhw} mm",
                remedy="Correct the annotation",
            )

    @property
    def where(self) -> str:
        """How an error names this image."""
        return str(self.path) if self.path is not None else f"phase {self.phase}"


@dataclass(frozen=True)
class RawCase:
    """One lesion of one patient.

    Attributes:
        case: unique name within the data set.
        patient: two lesions of one patient are two cases, and are never parted by a split.
        centre: the hospital that the data name, if they do.
        scanner: free text, if the data name it.
        images: by phase; a phase that is not here is missing, never invented.
        label: 1 proliferative, 0 not, -1 unknown.
        afp: alpha-fetoprotein in ng/mL, NaN where unknown.
        mask: a file that is not zero inside the lesion, on the voxel grid of the `anchor` phase.
        given_split: the part in which the data set itself puts the case, if it does.
        lesion_phase: the phase that the lesion was drawn on; None leaves it to `anchor_phase`.
    """

    case: str
    patient: str
    images: Mapping[Phase, PhaseImage]
    centre: str | None = None
    scanner: str | None = None
    label: int = UNKNOWN_LABEL
    afp: float = math.nan
    mask: Path | None = None
    given_split: GivenSplit | None = None
    lesion_phase: Phase | None = None

    def __post_init__(self) -> None:
        if self.lesion_phase is not None and self.lesion_phase not in self.images:
            raise CaseError(
                f"its lesion is drawn on phase {self.lesion_phase}, and there is no image of it",
                where=f"case {self.case}",
                remedy="Give the image of that phase, or name the phase that the lesion is drawn on",
            )


@dataclass(frozen=True)
class Rejection:
    """A case that was set aside: counted, shown, and with a way back."""

    case: str
    patient: str
    reason: str
    remedy: str

    @classmethod
    def of(cls, error: PhccError, *, case: str, patient: str) -> Rejection:
        """What an error means for one case."""
        reason = f"{error.where}: {error.what}" if error.where else error.what
        return cls(case, patient, reason, error.remedy or "Correct the case or leave it out")


@dataclass(frozen=True)
class Remark:
    """Something about a case that is used all the same, but that a person should know."""

    case: str
    text: str


@dataclass(frozen=True)
class Reading:
    """All that a reader found.

    Attributes:
        cases: usable so far, in the data set's order; their voxels have not been looked at yet.
        rejections: set aside, with the reason.
        remarks: used, but with something missing or mended.
    """

    cases: tuple[RawCase, ...]
    rejections: tuple[Rejection, ...] = ()
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True)
class PreparedCase:
    """One case as training sees it.

    Attributes:
        volumes_pdhw: float16, phases in the study's order, zeros where one is missing.
        present_p: which phases are there.
        lesion_dhw: uint8, 1 inside the lesion. With boxes: the union of the phases' boxes, centred; with a
            mask:
            the mask; with neither: the whole crop, or the shape itself for signed distances.
        enhancement_p: float32, as `measure.enhancement_of` measures it, NaN where it cannot be; None where an
            earlier version made the crop.
    """

    volumes_pdhw: NDArray[np.float16]
    present_p: NDArray[np.bool_]
    lesion_dhw: NDArray[np.uint8]
    enhancement_p: NDArray[np.float32] | None = None


def anchor_phase(raw: RawCase) -> Phase:
    """The phase on whose grid the mask lies, and where phases without a box of their own find the lesion.

    The phase that the case names as its lesion's. Where it names none, or one without a box while others have
    one: the first, in the order of acquisition, that has a box; where none has, the first of all. It need not
    be a phase of the study: then only its header is read.

    Args:
        raw: a case with at least one image.
    """
    phases: list[Phase] = sorted(raw.images, key=PHASES.index)
    boxed = [p for p in phases if raw.images[p].box is not None]
    named = raw.lesion_phase
    if named is not None and (raw.mask is not None or not boxed or named in boxed):
        return named
    return (boxed or phases)[0]
