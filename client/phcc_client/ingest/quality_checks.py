"""What can be wrong with a patient's images, masks and headers although their files can be read.

Each check returns what it found. A finding that stops says which stage is not reached; where the pipeline can
do without the image in question, it leaves the image out and keeps the finding as a remark.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from phcc_client.imaging.geometry import bounding_box
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.check_contrast import check_enhancement, check_order
from phcc_client.ingest.examination import SeriesFacts
from phcc_client.ingest.record import Finding, Stage

__all__ = ["check_body", "check_enhancement", "check_mask", "check_order", "check_volume"]

FEWEST_SLICES = 5
"""Along the axis with the fewest voxels: fewer are a localiser or a fragment."""
LEAST_FIELD_MM = 30.0
"""Along every axis: a smaller image holds no lesion with anything around it."""
LARGEST_SHARE = 0.25
"""Of the image's voxels: a mask of more is an organ, the body or the background."""
FEWEST_VOXELS = 3
"""A mask of fewer is a slip of the hand."""

_SCATTERED = 0.9  # of the mask's voxels, the least share of the largest piece that goes unmentioned

_NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC", "RWV", "PLAN"})
_OTHER_MODALITIES = frozenset(
    {"CT", "US", "PT", "NM", "CR", "DX", "MG", "XA", "RF", "SC", "OT", "ES", "GM", "SM", "ECG", "IVUS"}
)
# English as DICOM spells body parts, and what German, French, Spanish, Italian, Portuguese, Dutch and Polish
# write into descriptions; as whole words, accents as they are.
_LIVER = frozenset({
    "LIVER", "HEPATIC", "HEPAR", "ABDOMEN", "ABDOMINAL", "ABD", "ABDOMENPELVIS", "ABDOPELVIS",
    "CHESTABDPELVIS", "CHESTABDOMEN", "LEBER", "OBERBAUCH", "BAUCH", "FOIE", "HÉPATIQUE", "HEPATIQUE",
    "HIGADO", "HÍGADO", "HEPATICO", "HEPÁTICO", "FEGATO", "FIGADO", "FÍGADO", "ADDOME", "BUIK",
    "WATROBA", "WĄTROBA", "BRZUCH", "WHOLEBODY", "腹", "肝",
})  # fmt: skip
_ELSEWHERE = frozenset({
    "HEAD", "BRAIN", "SKULL", "NECK", "CSPINE", "TSPINE", "LSPINE", "SPINE", "KNEE", "HIP", "SHOULDER",
    "ELBOW", "WRIST", "HAND", "ANKLE", "FOOT", "LEG", "ARM", "THIGH", "CALF", "BREAST", "PROSTATE",
    "HEART", "CARDIAC", "PELVIS", "UTERUS", "RECTUM", "ORBIT", "IAC", "TMJ", "EXTREMITY", "FEMUR",
    "HIPPOCAMPUS", "SCHÄDEL", "KOPF", "GEHIRN", "HIRN", "KNIE", "SCHULTER", "HÜFTE", "WIRBELSÄULE",
    "MAMMA", "HERZ", "TÊTE", "TETE", "CERVEAU", "CRÂNE", "CRANE", "GENOU", "ÉPAULE", "RACHIS", "SEIN",
    "CEREBRO", "CRANEO", "RODILLA", "HOMBRO", "COLUMNA", "TESTA", "ENCEFALO", "CERVELLO", "GINOCCHIO",
    "SPALLA", "CABEÇA", "JOELHO", "OMBRO", "HOOFD", "HERSENEN", "GŁOWA", "MÓZG", "KOLANO", "头", "脳", "膝",
})  # fmt: skip


def check_body(facts: SeriesFacts) -> tuple[Finding, ...]:
    """Whether a series is MR, and of a part of the body that holds the liver.

    An empty body part is taken, with a remark; a source that has no headers at all gets none. Only words
    known here are repeated: a header may hold anything.

    Args:
        facts: what its header says.
    """
    modality = facts.modality.strip().upper()
    if modality in _NO_IMAGES:
        return (_at_liver("no-image", f"holds no image but {modality}", "Nothing; or export the images"),)
    if modality and modality != "MR":
        named = modality if modality in _OTHER_MODALITIES else "another modality"
        return (_at_liver("wrong-modality", f"is {named}, not MR", "Export the MR examination"),)
    part = _words(facts.body_part)
    told = _words(f"{facts.description} {facts.protocol}")
    liver, elsewhere = sorted((part | told) & _LIVER), sorted((part | told) & _ELSEWHERE)
    if elsewhere and not liver:
        text = f"shows another part of the body ({', '.join(elsewhere).lower()})"
        return (_at_liver("wrong-body-part", text, "Export the examination of the liver"),)
    if elsewhere and liver != ["WHOLEBODY"] and elsewhere != ["PELVIS"]:
        text = f"is said to show {liver[0].lower()} and {elsewhere[0].lower()}"
        return (Finding(code="body-part-contradicts", text=text, remedy="Look whether it shows the liver"),)
    if modality and not part and not liver:
        return (Finding(code="body-part-unknown", text="no body part is named, and it was taken for liver"),)
    return ()


def check_volume(
    array_dhw: NDArray[np.generic], grid: Grid, phase: str = "", *, fitted: bool = False
) -> tuple[Finding, ...]:
    """Whether an image holds what can be trained on: numbers, contrast, enough slices, each of them once.

    Args:
        array_dhw: its voxels.
        grid: where they lie.
        phase: what the findings call it.
        fitted: its spacing is not known, and millimetres mean nothing.
    """
    found: list[tuple[str, str]] = []
    finite = np.isfinite(array_dhw)
    if min(array_dhw.shape) == 0:
        found.append(("volume-empty", "holds no voxel"))
    elif not finite.all():
        bad = int(finite.size - np.count_nonzero(finite))
        found.append(("volume-not-numbers", f"{bad} voxels are not numbers (NaN or infinite)"))
    elif (low := array_dhw.min()) == array_dhw.max():
        found.append(("volume-constant", f"every voxel is {f'{float(low):g}' if low else 'zero'}"))
    else:
        found += _too_small(grid, fitted)
        found += _repeated(array_dhw)
    prefix = f"{phase}: " if phase else ""
    return tuple(
        Finding(code=code, text=prefix + text, remedy="Export the series again", stops=Stage.READABLE)
        for code, text in found
    )


def _too_small(grid: Grid, fitted: bool) -> list[tuple[str, str]]:
    found = []
    fewest = min(grid.shape_dhw)
    if fewest < FEWEST_SLICES:
        found.append(("too-few-slices", f"has {fewest} slices only; {FEWEST_SLICES} are the least"))
    extent = np.array(grid.shape_dhw) * grid.spacing_mm_dhw
    if extent.min() < LEAST_FIELD_MM and not fitted:
        size = " x ".join(f"{edge:.0f}" for edge in extent)
        text = f"covers {size} mm only (depth, height, width); {LEAST_FIELD_MM:.0f} mm are the least"
        found.append(("field-too-small", text))
    return found


def check_mask(mask_dhw: NDArray[np.generic], grid: Grid, image_grid: Grid) -> tuple[Finding, ...]:
    """Whether a lesion's mask can be one: not empty, inside the image, neither a speck nor half the body.

    Args:
        mask_dhw: not zero inside the lesion.
        grid: where its voxels lie.
        image_grid: of the image that it was drawn on; may be another one.
    """
    if not np.isfinite(mask_dhw).all():
        return (_no_lesion("mask-not-numbers", "the mask holds values that are not numbers"),)
    inside = mask_dhw != 0
    count = int(np.count_nonzero(inside))
    if count == 0:
        return (_no_lesion("mask-empty", "the mask is empty: no voxel is marked"),)
    if count < FEWEST_VOXELS:
        return (_no_lesion("mask-tiny", f"the mask marks {count} voxels only"),)
    within = _share_within(inside, grid, image_grid)
    if within < 0.5:
        text = f"{1 - within:.0%} of the mask lies outside the image"
        return (_no_lesion("mask-outside", text, "Check that the mask belongs to this image"),)
    share = (
        count
        * float(np.prod(grid.spacing_mm_dhw))
        / float(np.prod(np.array(image_grid.shape_dhw) * image_grid.spacing_mm_dhw))
    )
    if share > LARGEST_SHARE:
        text = f"the mask marks {share:.0%} of the image"
        return (_no_lesion("mask-too-large", text, "Draw the lesion, not the organ or the background"),)
    return tuple(_mask_remarks(inside, within, grid.same_as(image_grid)))


def _mask_remarks(inside: NDArray[np.bool_], within: float, same_grid: bool) -> list[Finding]:
    found = []
    if within < 1:
        text = f"{1 - within:.1%} of the mask lies outside the image"
        found.append(Finding(code="mask-partly-outside", text=text, remedy="Look at its contact sheet"))
    box = bounding_box(inside)
    if box is None:
        raise ValueError("a mask without a voxel has no remarks")
    cut = tuple(slice(low, high) for low, high in zip(box.low_dhw, box.high_dhw, strict=True))
    pieces, number = label(inside[cut], structure=np.ones((3, 3, 3)))
    if number > 1:
        largest = int(np.bincount(pieces.ravel())[1:].max()) / np.count_nonzero(inside)
        if largest < _SCATTERED:
            text = f"the mask is in {number} pieces; the largest has {largest:.0%} of it"
            remedy = "Where these are several lesions, draw each as a lesion of its own"
            found.append(Finding(code="mask-scattered", text=text, remedy=remedy))
    touches = any(
        low == 0 or high == size
        for low, high, size in zip(box.low_dhw, box.high_dhw, inside.shape, strict=True)
    )
    if same_grid and touches:
        text = "the lesion touches the image's border and may be cut off"
        found.append(Finding(code="lesion-at-border", text=text))
    return found


def _share_within(inside: NDArray[np.bool_], grid: Grid, image_grid: Grid) -> float:
    """The share of a mask's voxels whose centre lies in the image, to half a voxel."""
    at = np.argwhere(inside).T
    if grid.same_as(image_grid):
        return 1.0
    index = np.linalg.solve(
        image_grid.matrix, grid.origin_mm[:, None] + grid.matrix @ at - image_grid.origin_mm[:, None]
    )
    size = np.array(image_grid.shape_dhw)[:, None]
    return float(np.mean(((index >= -0.5) & (index <= size - 0.5)).all(axis=0)))


def _repeated(array_dhw: NDArray[np.generic]) -> list[tuple[str, str]]:
    """Slices that are there twice, along the slowest axis; slices without contrast (padding) may repeat."""
    seen: dict[bytes, int] = {}
    pairs = []
    for d, slice_hw in enumerate(array_dhw):
        if slice_hw.min() == slice_hw.max():
            continue
        content = slice_hw.tobytes()
        if content in seen:
            pairs.append((seen[content] + 1, d + 1))
        seen.setdefault(content, d)
    if not pairs:
        return []
    shown = ", ".join(f"{first} and {second}" for first, second in pairs[:3])
    more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    text = f"holds slices twice (numbers {shown}{more}): nobody knows which distances are true"
    return [("slices-repeated", text)]


def _words(text: str) -> set[str]:
    """Words in capitals; of Chinese and Japanese, which set no blanks, every character too."""
    return {*re.findall(r"[^\W\d_]+", text.upper()), *(letter for letter in text if letter >= "\u3000")}


def _at_liver(code: str, text: str, remedy: str) -> Finding:
    return Finding(code=code, text=text, remedy=remedy, stops=Stage.MR_LIVER)


def _no_lesion(code: str, text: str, remedy: str = "Draw the lesion again") -> Finding:
    return Finding(code=code, text=text, remedy=remedy, stops=Stage.LESION)
