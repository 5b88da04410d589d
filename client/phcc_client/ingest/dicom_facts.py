"""What the headers of one time point say that helps to recognise its phase, and which clock can be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from phcc_client.ingest.dicom_header import BURNED_IN
from phcc_client.ingest.dicom_values import Values, as_datetime, as_moment, number, text, whole
from phcc_client.ingest.examination import Series, SeriesFacts

_DERIVED = {
    "DERIVED",
    "MPR",
    "PROJECTION IMAGE",
    "MIP",
    "MINIP",
    "SUBTRACT",
    "SUBTRACTION",
    "SUB",
    "REFORMATTED",
}
"""Values of ImageType that say that an image was worked out from others."""


_Clock = Callable[[Sequence[Values]], datetime | None]


def facts_of(
    said: Values, frames: Sequence[Values], position: int | None = None, points: int = 1, clock: str = ""
) -> SeriesFacts:
    """The facts of one time point.

    Args:
        said: what its files say in common.
        frames: what each of its frames says.
        position: which time point it is, from one.
        points: how many its series has.
        clock: which clock to read; empty: the first that there is.
    """
    first: Values = {**said, **frames[0]}
    acquired, named = clock_of([{**said, **frame} for frame in frames], clock)
    image_type = tuple(first.get("ImageType") or ())
    return SeriesFacts(
        modality=text(first, "Modality"),
        body_part=text(first, "BodyPartExamined"),
        description=text(first, "SeriesDescription"),
        protocol=text(first, "ProtocolName"),
        sequence=text(first, "SequenceName") or text(first, "PulseSequenceName"),
        scanning_sequence=tuple(first.get("ScanningSequence") or ()),
        image_type=(*image_type, *(first.get("ComplexImageComponent") or ())),
        contrast_agent=text(first, "ContrastBolusAgent"),
        contrast_start=_contrast_start(first, acquired),
        echo_time_ms=number(first, "EchoTime"),
        repetition_time_ms=number(first, "RepetitionTime"),
        inversion_time_ms=number(first, "InversionTime"),
        flip_angle_deg=number(first, "FlipAngle"),
        b_value=_b_value(first),
        field_strength_t=_field_strength(first),
        manufacturer=text(first, "Manufacturer"),
        model=text(first, "ManufacturerModelName"),
        series_number=whole(first, "SeriesNumber"),
        temporal_position=position if position is not None else whole(first, "TemporalPositionIdentifier"),
        time_points=points,
        trigger_time_ms=_least(frames, "TriggerTime"),
        acquired=acquired,
        clock=named,
        burned_in=text(first, BURNED_IN),
        derived=bool({value.upper() for value in image_type} & _DERIVED),
    )


def clock_of(frames: Sequence[Values], name: str = "") -> tuple[datetime | None, str]:
    """When one time point was acquired, and the attribute that says so: the earliest of its images counts.

    Args:
        frames: all that is said of each of its frames.
        name: the clock to read; empty: the first that there is.
    """
    for clock, read in _CLOCKS.items():
        if name in ("", clock):
            found = read(frames)
            if found is not None:
                return found, clock
    return None, ""


def moving_clock(points: Sequence[Sequence[Values]]) -> str:
    """The first clock that goes on from each time point to the next; empty where none does.

    Some scanners write one AcquisitionTime for the whole dynamic series and count in TriggerTime, others the
    other way round. A clock that stands still is of no use.

    Args:
        points: all that is said of each frame, time point by time point, in order.
    """
    for name, read in _MOVING.items():
        times = [read(frames) for frames in points]
        known = [time for time in times if time is not None]
        if len(known) == len(times) and all(before < after for before, after in pairwise(known)):
            return name
    return ""


def _moment(frames: Sequence[Values]) -> datetime | None:
    return _earliest(frames, lambda said: as_moment(text(said, "AcquisitionDateTime")))


def _time(kind: str) -> _Clock:
    return lambda frames: _earliest(
        frames, lambda said: as_datetime(_day(said, kind), text(said, f"{kind}Time"))
    )


def _start_and(offset: str, seconds: float) -> _Clock:
    """A time that is counted from the start of the series, in units of so many seconds."""

    def read(frames: Sequence[Values]) -> datetime | None:
        start = next((found for clock in _STILL.values() if (found := clock(frames)) is not None), None)
        after = min((n for frame in frames if (n := number(frame, offset)) is not None), default=None)
        if start is None or after is None:
            return None
        try:
            return start + timedelta(seconds=after * seconds)
        except OverflowError:
            return None

    return read


_STILL: dict[str, _Clock] = {
    "AcquisitionDateTime": _moment,
    "AcquisitionTime": _time("Acquisition"),
    "ContentTime": _time("Content"),
    "SeriesTime": _time("Series"),
}
_COUNTED: dict[str, _Clock] = {
    "TriggerTime": _start_and("TriggerTime", 1e-3),
    "TemporalPositionTimeOffset": _start_and("TemporalPositionTimeOffset", 1.0),
}
_CLOCKS = _STILL | _COUNTED
_MOVING: dict[str, _Clock] = {
    name: _CLOCKS[name]
    for name in (
        "AcquisitionDateTime", "AcquisitionTime", "TriggerTime", "TemporalPositionTimeOffset", "ContentTime",
    )
}  # fmt: skip


def start_of(series: Series) -> tuple[bool, datetime, int, float]:
    """A key that orders series by acquisition, as far as it is known; those without a clock come last."""
    facts = series.facts
    known = facts.acquired
    return (
        known is None,
        known or datetime.max,
        facts.series_number if facts.series_number is not None else 1 << 31,
        facts.trigger_time_ms or 0.0,
    )


def _day(said: Values, kind: str) -> str:
    names = (f"{kind}Date", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")
    return next((day for name in names if (day := text(said, name))), "")


def _earliest(frames: Sequence[Values], clock: Callable[[Values], datetime | None]) -> datetime | None:
    return min((found for frame in frames if (found := clock(frame)) is not None), default=None)


def _least(frames: Sequence[Values], keyword: str) -> float | None:
    return min((found for frame in frames if (found := number(frame, keyword)) is not None), default=None)


def _later(start: datetime, seconds: float) -> datetime:
    try:
        return start + timedelta(seconds=seconds)
    except OverflowError:
        return start


def _contrast_start(said: Values, acquired: datetime | None) -> datetime | None:
    """ContrastBolusStartTime on the day of the acquisition."""
    day = f"{acquired:%Y%m%d}".zfill(8) if acquired else _day(said, "Acquisition")
    return as_datetime(day, text(said, "ContrastBolusStartTime"))


def _b_value(said: Values) -> float | None:
    """In s/mm^2. GE adds 1e9 to some of its private values."""
    found = number(said, "DiffusionBValue")
    return None if found is None else found % 1e9 if found >= 1e9 else found


def _field_strength(said: Values) -> float | None:
    """In tesla; some scanners write gauss."""
    found = number(said, "MagneticFieldStrength")
    return None if found is None or found <= 0 else found / 1e4 if found > 100 else found
