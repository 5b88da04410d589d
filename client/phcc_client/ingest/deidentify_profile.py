"""DICOM's basic profile of de-identification (PS3.15, annex E, table E.1-1), at every depth of sequences.

The table is dicom-anonymizer's, in the newest edition that it has. Its actions are applied to one element
at a time here, because the library looks at the outermost level only.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache

import dicomanonymizer.dicom_anonymization_databases as editions
from dicomanonymizer.simpledicomanonymizer import initialize_actions
from pydicom import Dataset
from pydicom.config import IGNORE, disable_value_validation
from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from phcc_client.ingest.audit_values import day_of
from phcc_client.ingest.pseudonyms import SiteKey

METHOD = "PS3.15 E basic profile, keyed pseudonyms, technical part"

_VOXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009, 0x7FE00001, 0x7FE00002, 0xFFFCFFFC})
_ALWAYS_GONE = frozenset(
    {
        "IconImageSequence", "OriginalAttributesSequence", "DigitalSignaturesSequence", "MACParametersSequence",
        "EncryptedAttributesSequence", "ModifiedAttributesSequence", "ReferencedImageSequence",
        "SourceImageSequence",
    }
)  # fmt: skip
_DEEPEST = 32
"""Sequences within sequences beyond this are no header that a scanner wrote; they go."""
_Action = Callable[[Dataset, tuple[int, int]], None]


def basic_profile(dataset: Dataset, key: SiteKey, patient: str) -> Dataset:
    """A header as the basic profile wants it, with the option to retain longitudinal information (E.3.6).

    Patient and study get keyed pseudonyms, UIDs keyed UIDs (equal ones stay equal), dates are moved by a
    number of whole days that is the patient's own, times of day stay. Private attributes, overlays, curves,
    icons, signatures and voxels are gone, as are sequences that the table names.

    Args:
        dataset: as read; it is not changed.
        key: the site's.
        patient: as the source names the patient.
    """
    with disable_value_validation():
        kept = _profiled(dataset, key, key.days(patient), _DEEPEST)
    study = str(dataset.get("StudyInstanceUID", "") or "")
    kept.PatientID = kept.PatientName = key.patient(patient)
    kept.StudyID = key.study(study).removeprefix("S-") if study else ""  # SH: 16 characters
    kept.LongitudinalTemporalInformationModified = "MODIFIED"
    return marked(kept)


def identity_of(dataset: Dataset) -> dict[str, frozenset[str]]:
    """Every value of a header, at any depth, that the basic profile would take away, by keyword.

    A private attribute stands under ``PrivateTag(gggg,eeee)``. UIDs that DICOM itself registers are left out.
    """
    found: dict[str, set[str]] = {}
    with disable_value_validation():
        every = list(_elements(dataset))
    for element in every:
        private = element.tag.is_private
        if not private and element.VR != "PN" and _action(element.tag) is None:
            continue
        name = (
            f"PrivateTag({element.tag.group:04x},{element.tag.element:04x})"
            if private
            else keyword_for_tag(element.tag) or f"Tag({element.tag.group:04x},{element.tag.element:04x})"
        )
        for value in values(element):
            if value.strip() and not is_registered(value):
                found.setdefault(name, set()).add(value.strip())
    return {name: frozenset(found[name]) for name in sorted(found)}


def is_registered(uid: str) -> bool:
    """Whether a UID is one that DICOM itself gives out, and so the same everywhere."""
    return uid.startswith("1.2.840.10008.")


@cache
def _actions() -> tuple[Mapping[tuple[int, int], _Action], tuple[tuple[int, int, int, int], ...]]:
    """dicom-anonymizer's table in its newest edition: attributes, and groups that repeat (number and mask)."""
    edition = max(module.name for module in pkgutil.iter_modules(editions.__path__))
    table = initialize_actions(edition)
    return (
        {tag: action for tag, action in table.items() if len(tag) == 2},
        tuple(sorted(tag for tag in table if len(tag) == 4)),
    )


def _action(tag: BaseTag) -> _Action | None:
    """What the table says of an attribute; None for one that it keeps."""
    single, repeating = _actions()
    group, element = tag.group, tag.element
    if any(group & m == g & m and element & n == e & n for g, e, m, n in repeating):
        return single[0x0010, 0x4000]  # as Patient Comments: removed
    return single.get((group, element))


def _profiled(dataset: Dataset, key: SiteKey, days: int, depth: int) -> Dataset:
    kept = Dataset()
    for tag in sorted(dataset.keys()):
        element = read_element(dataset, tag)
        if element is None or _is_gone(element):
            continue
        new = _new_element(element, key, days, depth)
        if new is not None:
            kept[new.tag] = new
    return kept


def _is_gone(element: DataElement) -> bool:
    tag = element.tag
    odd = tag.is_private or not dictionary_has_tag(tag)
    repeats = 0x5000 <= tag.group <= 0x50FF or 0x6000 <= tag.group <= 0x60FF
    return (
        odd or repeats or int(tag) in _VOXELS or keyword_for_tag(tag) in _ALWAYS_GONE or tag.group <= 0x0002
    )


def _new_element(element: DataElement, key: SiteKey, days: int, depth: int) -> DataElement | None:
    """An element as the profile wants it; None where it goes."""
    action = _action(element.tag)
    vr = str(element.VR)
    if vr == "SQ":
        if action is not None or depth == 0:
            return None
        items = [_profiled(item, key, days, depth - 1) for item in element.value or ()]
        return DataElement(element.tag, "SQ", items)
    if vr in ("DA", "DT"):
        return changed(element, [_shifted(value, vr, days) for value in values(element)])
    if vr == "TM":
        return changed(element, values(element))
    if vr == "UI":
        uids = [v if is_registered(v) or not v.strip() else key.uid(v) for v in values(element)]
        return changed(element, uids)
    if action is None:
        return None if vr == "PN" else changed(element, element.value)
    return _by_table(element, action)


def _by_table(element: DataElement, action: _Action) -> DataElement | None:
    """What dicom-anonymizer makes of one element, on a copy of its own."""
    alone = Dataset()
    alone[element.tag] = DataElement(element.tag, element.VR, element.value, validation_mode=IGNORE)
    try:
        action(alone, (element.tag.group, element.tag.element))
    except (NotImplementedError, ValueError, TypeError, AttributeError, KeyError):
        return None  # a kind of value that the library has no dummy for: it goes
    return alone.get(element.tag)


def changed(element: DataElement, value: object) -> DataElement | None:
    """An element with another value; None where that is none of its kind."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return DataElement(element.tag, element.VR, value, validation_mode=IGNORE)
    except (ValueError, TypeError, OverflowError):
        return None


def _shifted(value: str, vr: str, days: int) -> str:
    """A date, or date and time, moved by whole days; empty where it names no day."""
    day = day_of(value)
    try:
        moved = None if day is None else day + timedelta(days=days)
    except OverflowError:
        moved = None
    if moved is None:
        return ""
    rest = value.strip()[8:] if vr == "DT" else ""
    return f"{moved:%Y%m%d}{rest if re.fullmatch(r'[0-9.+-]*', rest) else ''}".zfill(8)


def marked(dataset: Dataset) -> Dataset:
    """A header that says that its patient was taken out of it, and how."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    return dataset


def _elements(dataset: Dataset, depth: int = _DEEPEST) -> Iterator[DataElement]:
    for tag in sorted(dataset.keys()):
        if int(tag) in _VOXELS:
            continue
        element = read_element(dataset, tag)
        if element is None:
            continue
        if element.VR == "SQ":
            for item in (element.value or ()) if depth else ():
                yield from _elements(item, depth - 1)
        else:
            yield element


def read_element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """An element; None where its bytes cannot be read as one."""
    try:
        return dataset[tag]
    except Exception:  # noqa: BLE001 - pydicom raises whatever a damaged value makes its converters raise
        return None


def values(element: DataElement) -> list[str]:
    """An element's values as text; nothing for those that are no text."""
    if element.tag.is_private and isinstance(element.value, bytes):
        text = element.value.decode("utf-8", "replace").strip("\0 ")
        return [text] if text.isprintable() and "�" not in text and len(text) <= 1024 else []
    value = element.value
    if value is None or isinstance(value, bytes):
        return []
    many = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(one) for one in many if one is not None]
