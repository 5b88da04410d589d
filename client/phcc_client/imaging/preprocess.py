"""From one case's files to the crop that training sees: read the region of interest, resample, normalise.

Every phase is cropped about the lesion's box *in that phase*: breathing moves the liver by centimetres
between phases, and the box, drawn phase by phase, moves with it. The price: a box drawn one voxel larger on
one side shifts that phase's crop by half a voxel. A phase without a box of its own takes the place, in the
patient's millimetres, of the lesion on its anchor phase (`anchor_phase`), and the crop's axes are there those
of the anchor phase: registered phases, whose axes were turned, and phases cut in another plane come to lie
voxel on voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Box, PhaseImage, PreparedCase, RawCase, anchor_phase
from phcc_client.imaging.geometry import (
    Placement,
    TurnedPlacement,
    bounding_box,
    centred_box,
    frame_of,
    lay,
)
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.measure import enhancement_of
from phcc_client.imaging.normalise import normalise, signed_distance
from phcc_client.imaging.quality import check_same_way_up, check_slices_differ, check_voxels
from phcc_client.imaging.volume import Header, read_header, read_voxels
from phcc_model.config import CropSettings, DataSettings, Phase
from phcc_model.errors import CaseError

DISTANCE_UNITS = 8
"""A signed distance of 1 is this fraction (one eighth) of the crop's shortest edge."""

_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class _Source:
    """One phase opened: its grid is known, its voxels are not read yet."""

    image: PhaseImage
    grid: Grid
    header: Header | None

    @classmethod
    def open(cls, image: PhaseImage, crop: CropSettings) -> _Source:
        if image.path is None:
            assert image.array_dhw is not None
            d, h, w = image.array_dhw.shape
            spacing = image.spacing_mm_dhw or _stretched((d, h, w), crop)
            return cls(image, Grid.plain((d, h, w), spacing), None)
        header = read_header(image.path, image.spacing_mm_dhw)
        if image.fitted:
            return cls(image, Grid.plain(header.stored_shape, _stretched(header.stored_shape, crop)), header)
        return cls(image, header.grid, header)

    @cached_property
    def box(self) -> Box | None:
        """The image's own box, in its turned grid."""
        if self.image.box is None:
            return None
        try:
            return self.grid.turn_box(self.image.box)
        except CaseError as error:
            raise CaseError(error.what, where=self.image.where, remedy=error.remedy) from error

    def voxels(self, part: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        """A region in the units that the file means, checked for what is not a number."""
        if self.header is None:
            assert self.image.array_dhw is not None
            region = self.image.array_dhw[part].astype(np.float32)
        else:
            region = self.header.scaled(read_voxels(self.header, part))
        check_voxels(region, self.image.where)
        return region


def _stretched(shape_dhw: tuple[int, int, int], crop: CropSettings) -> tuple[float, float, float]:
    d, h, w = (n * s / m for n, s, m in zip(crop.size, crop.spacing_mm, shape_dhw, strict=True))
    return d, h, w


def prepare(raw: RawCase, settings: DataSettings) -> PreparedCase:
    """Cut, resample and normalise one case.

    Args:
        raw: where its images are.
        settings: the study's phases, crop and normalisation.

    Returns:
        The crop of every phase on the grid of `settings.crop`, centred on the lesion.

    Raises:
        CaseError: this case cannot be used; names the file, what is wrong and what to do.
    """
    crop = settings.crop
    sources = {p: _Source.open(raw.images[p], crop) for p in settings.phases if p in raw.images}
    if not sources:
        raise CaseError(
            "none of the study's phases is there", where=f"case {raw.case}", remedy="Check the phases' names"
        )
    check_same_way_up([(s.image, s.grid, s.box) for s in sources.values()])
    placements, lesion_dhw = _locate(raw, sources, settings)
    shape = (len(settings.phases), *crop.size)
    volumes_pdhw = np.zeros(shape, dtype=np.float32)
    inside_pdhw = np.zeros(shape, dtype=np.bool_)
    for p, phase in enumerate(settings.phases):
        if phase in sources:
            volumes_pdhw[p] = _crop(sources[phase], placements[phase], settings)
            inside_pdhw[p] = placements[phase].inside_dhw
    present_p = np.array([phase in sources for phase in settings.phases])
    if lesion_dhw is None:
        first = volumes_pdhw[int(np.argmax(present_p))]
        lesion_dhw = (
            (first > 0).astype(np.uint8)
            if settings.normalisation == "signed-distance"
            else np.ones(crop.size, dtype=np.uint8)
        )
    try:
        result = normalise(volumes_pdhw, present_p, inside_pdhw, lesion_dhw, settings)
    except CaseError as error:
        raise CaseError(error.what, where=f"case {raw.case}", remedy=error.remedy) from error
    if float(np.abs(result).max()) > _LARGEST_HALF:
        raise CaseError(
            "its voxels are too large to be kept in 16 bits without normalisation",
            where=f"case {raw.case}",
            remedy="Choose data.normalisation: z-score",
        )
    enhancement_p = enhancement_of(volumes_pdhw, present_p, inside_pdhw, lesion_dhw, settings)
    return PreparedCase(result.astype(np.float16), present_p, lesion_dhw, enhancement_p)


def _crop(
    source: _Source, placement: Placement | TurnedPlacement, settings: DataSettings
) -> NDArray[np.float32]:
    """One phase on the crop's grid; as signed distance, in units of the crop, where the study asks for it."""
    if settings.normalisation == "signed-distance":
        everything = (slice(None), slice(None), slice(None))
        d, h, w = source.grid.spacing_mm_dhw
        edge = min(n * s for n, s in zip(settings.crop.size, settings.crop.spacing_mm, strict=True))
        distance = signed_distance(source.voxels(everything), (float(d), float(h), float(w)))
        return placement.sample(distance[placement.region]) * np.float32(DISTANCE_UNITS / edge)
    region = source.voxels(placement.region)
    if source.header is not None:
        # The slices are stored along the first axis, wherever that stands now.
        check_slices_differ(np.moveaxis(region, source.grid.axes.index(0), 0), source.image.where)
    return placement.sample(region)


def _locate(
    raw: RawCase, sources: dict[Phase, _Source], settings: DataSettings
) -> tuple[dict[Phase, Placement | TurnedPlacement], NDArray[np.uint8] | None]:
    """Where the crop lies in every phase, and the lesion on the crop's grid (None: nothing says)."""
    anchor = _anchor(raw, sources, settings.crop)
    box, mask_dhw = (anchor.box, None) if raw.mask is None else _read_mask(raw, anchor)
    centre_mm = anchor.grid.to_mm(_middle(anchor.grid) if box is None else box.centre_dhw)

    frame = frame_of(anchor.grid)

    def place(source: _Source) -> Placement | TurnedPlacement:
        if source.image.fitted:
            return Placement.fitted(source.grid.shape_dhw, settings.crop)
        own = None if raw.mask is not None else source.box
        centre = source.grid.to_index(centre_mm) if own is None else own.centre_dhw
        if np.any(centre < -0.5) or np.any(centre > np.array(source.grid.shape_dhw) - 0.5):
            raise CaseError(
                "the lesion's place lies outside this phase's volume",
                where=source.image.where,
                remedy="Check that all phases are of one examination",
            )
        if own is None:
            return lay(centre_mm, source.grid, frame, settings.crop)
        return Placement.around(centre, source.grid.shape_dhw, source.grid.spacing_mm_dhw, settings.crop)

    placements = {phase: place(source) for phase, source in sources.items()}
    if mask_dhw is not None:
        at = place(anchor)
        lesion = at.sample(mask_dhw[at.region].astype(np.float32), nearest=True) * at.inside_dhw
        # A lesion smaller than the crop's voxel would vanish: its centre stands for it.
        return placements, np.maximum(lesion > 0, centred_box(np.zeros(3), settings.crop)).astype(np.uint8)
    boxed = [s for s in (anchor, *sources.values()) if s.box is not None]
    if not boxed:
        return placements, None
    sizes = [s.box.size_dhw * s.grid.spacing_mm_dhw for s in boxed if s.box is not None]
    return placements, centred_box(np.max(sizes, axis=0), settings.crop)


def _anchor(raw: RawCase, sources: dict[Phase, _Source], crop: CropSettings) -> _Source:
    first = anchor_phase(raw)
    return sources.get(first) or _Source.open(raw.images[first], crop)


def _middle(grid: Grid) -> NDArray[np.float64]:
    return (np.array(grid.shape_dhw, dtype=np.float64) - 1) / 2


def _read_mask(raw: RawCase, anchor: _Source) -> tuple[Box, NDArray[np.bool_]]:
    assert raw.mask is not None
    header = read_header(raw.mask, anchor.image.spacing_mm_dhw)
    if not header.grid.same_as(anchor.grid):
        raise CaseError(
            f"the mask's grid is not that of phase {anchor.image.phase}",
            where=str(raw.mask),
            remedy=f"Resample the mask onto {anchor.image.where}",
        )
    mask_dhw = np.asarray(read_voxels(header)) != 0
    box = bounding_box(mask_dhw)
    if box is None:
        raise CaseError("the lesion's mask is empty", where=str(raw.mask), remedy="Draw the lesion")
    return box, mask_dhw
