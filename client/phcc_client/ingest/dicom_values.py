"""Values of a DICOM header as text, whatever state they are in: no value of a header makes reading it fail.

pydicom converts a value when it is asked for, and raises or warns where it is none of its kind (``abc`` for a
number). Here the stored bytes are read: a value that is no number is kept as it stands and is found wanting where
the number is needed, so that one sentence can be said about the series instead of a traceback about the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

Values = Mapping[str, Sequence[str]]
"""DICOM's keyword to the values that stand there, as text."""

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_KNOWN: dict[tuple[str, ...], tuple[str, ...]] = {}
_MOST_KNOWN = 50_000
_LONGEST = 4096  # characters of one value that are kept; no value that decides anything is longer


def texts(dataset: Dataset, tag: BaseTag) -> list[str]:
    """The values of one element as text, without the blanks around them; empty where there are none."""
    element = stored(dataset, tag)
    if element is None:
        return []
    if not isinstance(element, RawDataElement):
        return _converted(element.value)
    vr = element.VR or _vr(tag)
    raw = element.value or b""
    if vr in _BINARY:
        return _numbers(raw, _BINARY[vr], "<" if element.is_little_endian else ">")
    if vr in ("SQ", "OB", "OW", "OF", "OD", "OL"):
        return []
    if element.VR is None and tag.is_private:  # implicit VR: pydicom's dictionary of vendors' tags knows many
        return _read_by_pydicom(dataset, tag, raw)
    if not raw.isascii() or b"\x1b" in raw:
        return _read_by_pydicom(dataset, tag, raw)
    return _parts(raw[:_LONGEST].decode("ascii"))


def stored(dataset: Dataset, tag: BaseTag) -> Any:
    """One element, not converted where that is possible; None where there is none or it cannot be had."""
    try:
        return dataset.get_item(tag)
    except Exception:  # noqa: BLE001 - a large element is read only now, and pydicom raises whatever it meets
        return None


def shared(values: Iterable[str]) -> tuple[str, ...]:
    """The same values as one object, however many headers they stand in: a site has tens of thousands."""
    plain = tuple(values)
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    return _KNOWN.setdefault(plain, plain)


def collect(dataset: Dataset, keywords: Iterable[str]) -> dict[str, Sequence[str]]:
    """Of the outermost level of a data set, the elements that are there and have a value."""
    found: dict[str, Sequence[str]] = {}
    for keyword in keywords:
        values = texts(dataset, _tag(keyword))
        if values:
            found[keyword] = shared(values)
    return found


def sequence(dataset: Dataset, tag: BaseTag) -> list[Dataset]:
    """The items of a sequence; none where there is none or it cannot be read."""
    if tag not in dataset:
        return []
    try:
        with disable_value_validation():
            return list(dataset[tag].value or [])
    except Exception:  # noqa: BLE001 - pydicom raises whatever damaged bytes make its parsers raise
        return []


def text(values: Values, keyword: str) -> str:
    """The first value; empty where there is none."""
    return (values.get(keyword) or ("",))[0]


def number(values: Values, keyword: str) -> float | None:
    """The first value as a finite number; None where it is none."""
    return as_number(text(values, keyword))


def whole(values: Values, keyword: str) -> int | None:
    """The first value as a whole number; None where it is none."""
    found = number(values, keyword)
    return int(found) if found is not None and found == int(found) else None


def numbers(values: Values, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly so many finite numbers; None where there are not."""
    found = [as_number(value) for value in values.get(keyword) or ()]
    if len(found) != count or any(value is None for value in found):
        return None
    return tuple(value for value in found if value is not None)


def as_number(value: str) -> float | None:
    """A finite number; None where the text is none."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def as_datetime(date: str, time: str) -> datetime | None:
    """A date (DA) and a time of day (TM) as one; None where one of them is none."""
    day = date.strip().replace(".", "").replace("-", "")
    clock = time.strip().replace(":", "")
    whole_seconds, _, fraction = clock.partition(".")
    if not (len(day) == 8 and day.isdigit() and whole_seconds.isdigit() and len(whole_seconds) in (2, 4, 6)):
        return None
    try:
        start = datetime.strptime(day, "%Y%m%d")
        hours, minutes, seconds = (int(whole_seconds[i : i + 2] or 0) for i in (0, 2, 4))
        if not (hours < 24 and minutes < 60 and seconds <= 60):
            return None
        part = int((fraction + "000000")[:6]) if fraction.isdigit() else 0
        return start + timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=part)
    except (ValueError, OverflowError):
        return None


def as_moment(value: str) -> datetime | None:
    """A date with time (DT), its zone left away: the scanner's own clock."""
    bare = value.strip()
    for sign in ("+", "-"):
        bare = bare.partition(sign)[0] if len(bare.partition(sign)[0]) >= 8 else bare
    return as_datetime(bare[:8], bare[8:] or "00")


def _tag(keyword: str) -> BaseTag:
    number = tag_for_keyword(keyword)
    if number is None:
        raise KeyError(keyword)
    return Tag(number)


def _vr(tag: BaseTag) -> str:
    try:
        return str(dictionary_VR(tag)).split(" ")[0]
    except KeyError:
        return "UN"


def _numbers(raw: bytes, code: str, order: str) -> list[str]:
    size = struct.calcsize(code)
    count = min(len(raw) // size, 64)
    return [repr(value) for value in struct.unpack(f"{order}{count}{code}", raw[: count * size])]


def _parts(value: str) -> list[str]:
    found = [part.strip(" \0\t\r\n") for part in value.split("\\")]
    return found if any(found) else []


def _converted(value: object) -> list[str]:
    if value is None or isinstance(value, bytes):
        return []
    many = value if isinstance(value, MultiValue | list | tuple) else [value]
    if any(isinstance(one, Dataset) for one in many):
        return []
    return _parts("\\".join(str(one) for one in many)[:_LONGEST])


def _read_by_pydicom(dataset: Dataset, tag: BaseTag, raw: bytes) -> list[str]:
    """Text of another character set than ASCII."""
    try:
        with disable_value_validation():
            return _converted(dataset[tag].value)
    except Exception:  # noqa: BLE001 - as above; what it is called matters less than that it is read
        return _parts(raw[:_LONGEST].decode("latin-1"))


def shown_uid(uid: str) -> str:
    """A UID as it may be quoted: what stands in its place may be anything."""
    return uid[:64] if uid and set(uid) <= set("0123456789.") else "which is none"
