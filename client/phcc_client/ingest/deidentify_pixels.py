"""Whether a name may be drawn into the pixels of an image, as far as its header tells."""

from __future__ import annotations

import re

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.tag import BaseTag

from phcc_client.ingest.audit_values import fold
from phcc_client.ingest.deidentify_profile import read_element, values


def burned_in(dataset: Dataset) -> str | None:
    """Why it is to be feared that a name is drawn into the pixels of an image; None where nothing speaks for it.

    Nothing but a person's eye can tell for certain: a header may say NO and be wrong.
    """
    if _text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "its header says that annotations are burned into the pixels"
    sop, modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality").upper()
    if sop.startswith("1.2.840.10008.5.1.4.1.1.7"):
        return "it is a secondary capture, such as a picture of a screen"
    if modality in ("US", "OT", "SC", "DOC", "KO", "PR", "SR", "XC", "GM", "ES"):
        return f"images of the kind {modality} usually carry text in their pixels"
    kinds = {word for value in _all(dataset, "ImageType") for word in re.findall(r"[A-Z]+", value.upper())}
    if kinds & {"SCREEN", "SAVE", "SCREENSAVE", "SCREENSHOT", "REPORT"}:
        return "its image type says that it is a picture of a screen"
    described = " ".join(_text(dataset, name) for name in ("SeriesDescription", "ProtocolName"))
    if re.search(
        r"screen.?(?:save|shot|cap)|second\w* cap|key ?image|patient protocol|dose report", fold(described)
    ):
        return "its description says that it is a picture of a screen or a report"
    if _text(dataset, "PhotometricInterpretation").upper() in (
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "PALETTE COLOR",
    ):
        return "it is in colour, which a measured MR image is not"
    if any(_overlay_in_pixels(dataset, group) for group in range(0x6000, 0x6020, 2)):
        return "an overlay lies in the unused bits of its pixels"
    if _text(dataset, "ConversionType").upper() in ("SD", "SI", "SYN", "WSD", "DF"):
        return "it was scanned or drawn, not measured"
    return None


def _overlay_in_pixels(dataset: Dataset, group: int) -> bool:
    try:
        position = dataset.get((group, 0x0102))
        return position is not None and int(position.value) != 0 and (group, 0x3000) not in dataset
    except (TypeError, ValueError):
        return True  # an overlay that nobody can place may lie anywhere


def _all(dataset: Dataset, name: str) -> list[str]:
    tag = tag_for_keyword(name)
    element = read_element(dataset, BaseTag(tag)) if tag is not None and tag in dataset else None
    return [] if element is None else values(element)


def _text(dataset: Dataset, name: str) -> str:
    return " ".join(_all(dataset, name)).strip()
