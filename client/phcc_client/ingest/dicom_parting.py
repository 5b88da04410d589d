"""What lies in one series, told apart: different images of one place first, then time points.

A series may hold several stacks: orientations (a localiser), echoes (in and out of phase), magnitude and phase,
b-values, and time points of a dynamic acquisition. Nothing is told apart that need not be: only where a place is
taken by several images is it asked in what they differ.

Which attribute tells time points apart depends on the scanner, for some keep AcquisitionTime constant, others
TriggerTime: it is the first that gives every time point one image at every place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from phcc_client.ingest.dicom_files import Scanned
from phcc_client.ingest.dicom_geometry import Plane, repeated_places
from phcc_client.ingest.dicom_values import Values, as_datetime, as_moment, number, text


@dataclass(frozen=True)
class Frame:
    """One image: a classic file, or one frame of an enhanced one.

    Attributes:
        file: where it stands.
        number: which frame of the file, from zero.
        said: what the header says of it.
        plane: where it lies.
    """

    file: Scanned
    number: int
    said: Values
    plane: Plane


@dataclass(frozen=True)
class Part:
    """Frames that should form one stack.

    Attributes:
        frames: each place once, or `clash` says otherwise.
        stack: which of the series' stacks it is a time point of.
        position: which time point, from one; None where there is one only.
        points: how many time points there are beside it, itself included.
        by: the attribute that told the time points apart.
        clash: some places are taken by several images that nothing tells apart.
        short: places that other time points have and this one lacks.
    """

    frames: tuple[Frame, ...]
    stack: int = 0
    position: int | None = None
    points: int = 1
    by: str = ""
    clash: bool = False
    short: int = 0


_Key = Callable[[Frame], object]


def _said(*names: str) -> _Key:
    return lambda frame: tuple(tuple(frame.said.get(name) or ()) for name in names)


def _kind(frame: Frame) -> object:
    """ImageType without what numbers an image, and what part of a complex image it is."""
    kept = [v.upper() for v in frame.said.get("ImageType") or ()]
    return tuple(kept), text(frame.said, "ComplexImageComponent").upper()


_KINDS: tuple[tuple[str, _Key], ...] = (
    ("ImageType", _kind),
    ("EchoTime", lambda frame: number(frame.said, "EchoTime") or text(frame.said, "EchoTime")),
    ("EchoNumbers", _said("EchoNumbers")),
    ("DiffusionBValue", _said("DiffusionBValue")),
    ("InversionTime", _said("InversionTime")),
    ("DiffusionDirectionality", _said("DiffusionDirectionality")),
    ("StackID", _said("StackID")),
)
"""In what images of one place may differ other than in time."""


def seconds_of(moment: datetime | None) -> float | None:
    """Seconds since a fixed day, on the scanner's own clock: no zone, no summer time."""
    return None if moment is None else (moment - datetime(1970, 1, 1)).total_seconds()


def _moment(name: str) -> Callable[[Values], float | None]:
    def clock(said: Values) -> float | None:
        found = as_moment(text(said, name))
        return seconds_of(found)

    return clock


def _time_of_day(kind: str) -> Callable[[Values], float | None]:
    def clock(said: Values) -> float | None:
        day = text(said, f"{kind}Date") or text(said, "ContentDate") or "20000101"
        found = as_datetime(day, text(said, f"{kind}Time"))
        return seconds_of(found)

    return clock


def _counted(name: str) -> Callable[[Values], float | None]:
    return lambda said: number(said, name)


CLOCKS: tuple[tuple[str, Callable[[Values], float | None]], ...] = (
    ("TemporalPositionIdentifier", _counted("TemporalPositionIdentifier")),
    ("TemporalPositionTimeOffset", _counted("TemporalPositionTimeOffset")),
    ("TriggerTime", _counted("TriggerTime")),
    ("AcquisitionNumber", _counted("AcquisitionNumber")),
    ("AcquisitionDateTime", _moment("AcquisitionDateTime")),
    ("AcquisitionTime", _time_of_day("Acquisition")),
    ("ContentTime", _time_of_day("Content")),
    ("InstanceNumber", _counted("InstanceNumber")),
)
"""What may tell time points apart, in the order in which it is tried."""


def parts_of(frames: Sequence[Frame]) -> list[Part]:
    """The stacks of one series, each divided into its time points; the order of `frames` does not matter."""
    by_shape: dict[tuple[object, ...], list[Frame]] = {}
    for frame in frames:
        _join(by_shape, frame)
    stacks = [stack for alike in by_shape.values() for stack in _by_kind(alike, _KINDS)]
    return [replace(part, stack=number) for number, stack in enumerate(stacks) for part in stack]


def _join(groups: dict[tuple[object, ...], list[Frame]], frame: Frame) -> None:
    """Put a frame with those of its matrix, pixels and orientation (to a thousandth, whatever it rounds to)."""
    plane = frame.plane
    for group in groups.values():
        other = group[0].plane
        if (
            (plane.rows, plane.columns) == (other.rows, other.columns)
            and max(abs(a - b) for a, b in zip(plane.pixel_mm, other.pixel_mm, strict=True)) < 1e-3
            and float(abs(plane.axes - other.axes).max()) < 2e-3
        ):
            group.append(frame)
            return
    groups[(len(groups),)] = [frame]


def _by_kind(frames: list[Frame], kinds: Sequence[tuple[str, _Key]]) -> list[list[Part]]:
    """Divide by the kinds of image that meet at one place, then by time: the time points of each stack."""
    places = repeated_places([frame.plane for frame in frames])
    if all(len(place) == 1 for place in places):
        return [[Part(tuple(frames))]]
    for position, (_, key) in enumerate(kinds):
        values = [key(frame) for frame in frames]
        meet = any(len({values[index] for index in place}) > 1 for place in places)
        if not meet:
            continue
        groups: dict[object, list[Frame]] = {}
        for value, frame in zip(values, frames, strict=True):
            groups.setdefault(value, []).append(frame)
        ordered = sorted(groups.items(), key=lambda item: repr(item[0]))
        return [stack for _, group in ordered for stack in _by_kind(group, kinds[position + 1 :])]
    return [_by_time(frames, places)]


def _by_time(frames: list[Frame], places: list[list[int]]) -> list[Part]:
    """Divide by the first clock that gives every time point every place once; or by one that does nearly."""
    count = max(len(place) for place in places)
    nearly: list[Part] | None = None
    for name, clock in CLOCKS:
        times = [clock(frame.said) for frame in frames]
        if any(time is None for time in times):
            continue
        known = [time for time in times if time is not None]
        points = _points(known, places, count)
        if points is None and name != "InstanceNumber":
            points = _by_value(known, places, count)
            if points is not None and nearly is None:
                nearly = _parted(frames, points, name, len(places))
            continue
        if points is not None:
            return _parted(frames, points, name, len(places))
    return nearly if nearly is not None else [Part(tuple(frames), clash=True)]


def _points(times: list[float], places: list[list[int]], count: int) -> list[list[int]] | None:
    """Time points that are complete and follow one another: the k-th at each place, where no two overlap."""
    if any(len(place) != count for place in places):
        return None
    ordered = [sorted(place, key=lambda index: times[index]) for place in places]
    points = [[place[k] for place in ordered] for k in range(count)]
    for before, after in pairwise(points):
        if max(times[index] for index in before) >= min(times[index] for index in after):
            return None
    return points


def _by_value(times: list[float], places: list[list[int]], count: int) -> list[list[int]] | None:
    """Time points that share one value and take no place twice, though some lack places."""
    values = sorted(set(times))
    if not count <= len(values) <= count + 1:
        return None
    at = {index: number for number, place in enumerate(places) for index in place}
    points = [[index for index, time in enumerate(times) if time == value] for value in values]
    unique = all(len({at[index] for index in point}) == len(point) for point in points)
    return points if unique else None


def _parted(frames: list[Frame], points: list[list[int]], by: str, places: int) -> list[Part]:
    parts = [Part(tuple(frames[index] for index in point), short=places - len(point)) for point in points]
    return [
        replace(part, position=position, points=len(parts), by=by)
        for position, part in enumerate(parts, start=1)
    ]
