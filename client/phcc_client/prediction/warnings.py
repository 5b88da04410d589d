"""Is this an examination as the model knows them: what lies outside what it saw, or outside what is usual.

A model answers whatever it is asked. Two comparisons say when the answer may mean nothing: with the ranges of the
patients that this model was trained on, where its package holds them, and with what liver protocols ask for.

Sources of the latter: OPTN Policies, 9.5 and table 9-9 of the minimum specifications of dynamic MRI of the liver
(1.5 T or stronger, dynamic slices of at most 5 mm, matrix of at least 256 x 128, hence about 3 mm a pixel at a
field of view of 400 mm; late arterial, portal venous at 60 to 80 s and delayed after 2 to 5 min); ACR CT/MRI
LI-RADS v2018, technical recommendations (1.5 T or 3 T; hepatobiliary at about 20 min with gadoxetate, 1 to 3 h
with gadobenate) and its smallest size of LR-5 (10 mm). Times between phases are given some room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from phcc_client.prediction.result import Caution, LesionNote, PhaseNote
from phcc_client.prediction.subject import Subject
from phcc_model.config import CropSettings, DataSettings, Phase
from phcc_model.package_schema import Seen, Span

FIELD_T = (1.4, 3.1)
"""1.5 T and 3 T as headers round them."""
THICKEST_MM, COARSEST_MM = 5.0, 3.2
"""Distance of slices; of pixels within a slice."""
SECONDS_BETWEEN: Mapping[tuple[Phase, Phase], tuple[float, float]] = {
    ("pre-contrast", "arterial"): (10.0, 1800.0),
    ("arterial", "portal-venous"): (15.0, 75.0),
    ("arterial", "delayed"): (75.0, 480.0),
    ("portal-venous", "delayed"): (45.0, 420.0),
    ("arterial", "hepatobiliary"): (540.0, 3 * 3600.0),
}
SMALLEST_MM, LARGEST_MM = 10.0, 200.0
"""Longest side of the lesion's box."""
LEAST_INSIDE = 0.98
"""Of the lesion, what the crop must hold."""
LEAST_LOOKED = 0.5
"""Of the places where a model looked that finds lesions by itself, what must lie in the one that is drawn."""
SPACING_ROOM_MM, FIELD_ROOM_T = 0.05, 0.1
"""By so much headers round what is the same."""
ROOM = 0.25
"""Share of a range by which a value may lie beyond it: ranges hold nine in ten patients of each hospital (5th to
95th percentile), and of a normal distribution 99 % lie within so much more."""
LARGEST_RESIDUAL_MM = 5.0
"""Shift measured after registration; two or three pixels."""
ENHANCEMENT: tuple[float, float] = (0.0, 1.6)
"""Of the tissue around the lesion, ln(phase / before contrast): from nothing to five times."""


def cautions_of(subject: Subject, settings: DataSettings) -> Iterator[Caution]:
    """What speaks against believing the score, whoever the model's patients were.

    Args:
        subject: what is scored.
        settings: phases and crop of the study.
    """
    yield from subject.cautions
    yield from _missing(subject.phases)
    for note in subject.phases:
        yield from _image(note)
    yield from _timing(subject.phases)
    yield from _lesion(subject.lesion, settings.crop)


def looked_elsewhere(looked: float | None) -> Iterator[Caution]:
    """A model that finds lesions by itself has looked at something else than what is drawn.

    Args:
        looked: share of the places where it looked that lies in the lesion; None where that is not asked.
    """
    if looked is not None and looked < LEAST_LOOKED:
        yield Caution(
            code="looked-elsewhere",
            text=f"the model looked elsewhere: {looked:.0%} of where it looked lies in the lesion as it is drawn",
            remedy="Check the drawing, and look at the heat maps: is there another lesion?",
        )


def never_taught(phases: Sequence[str], *, alone: bool) -> Iterator[Caution]:
    """Phases are there of which the model learnt nothing (`Classifier.counted`).

    Args:
        phases: that are there, but that no patient had whom it was trained on.
        alone: whether there are no others, so that the score rests on them; it leaves them out otherwise.
    """
    if not phases:
        return
    unknown = f"no patient that the model was trained on had {', '.join(phases)}"
    if alone:
        yield _unlike("phase", f"{unknown}, and the score rests on nothing else")
        return
    yield Caution(
        code="phase-left-out",
        text=f"{unknown}: left out of the score",
        remedy="Read it as that of a patient without",
        basis="model",
    )


def not_checked(subject: Subject, *, ranges: bool) -> tuple[str, ...]:
    """What could not be compared, in words.

    Args:
        subject: what is scored.
        ranges: whether the package says what its model saw.
    """
    used = [note for note in subject.phases if note.used]
    lacking = []
    if any(note.spacing_mm_dhw is None for note in used):
        lacking.append("spacing: the images carry none")
    if any(note.field_strength_t is None for note in used):
        lacking.append("field strength: the source does not say")
    if sum(note.seconds is not None for note in used) < 2:
        lacking.append("times of the phases: the source does not say")
    if not any(note.enhancement is not None for note in used):
        lacking.append("enhancement: no image before contrast to compare with")
    if not ranges:
        lacking.append("what the model saw in training: its package does not say")
    return tuple(lacking)


def _missing(notes: Sequence[PhaseNote]) -> Iterator[Caution]:
    missing = [note.phase for note in notes if not note.used]
    if missing:
        yield Caution(
            code="phase-missing",
            text=f"scored without {', '.join(missing)}",
            remedy="Export that series too, if it was acquired",
        )


def _image(note: PhaseNote) -> Iterator[Caution]:
    if note.spacing_mm_dhw is not None:
        d, h, w = note.spacing_mm_dhw
        if d > THICKEST_MM + 0.05 or max(h, w) > COARSEST_MM:
            yield _unusual(
                "spacing-unusual",
                f"{note.phase}: voxels of {d:.1f} x {h:.1f} x {w:.1f} mm, coarser than {THICKEST_MM:g} mm "
                f"slices and {COARSEST_MM:g} mm pixels",
            )
    if note.field_strength_t is not None and not _within(note.field_strength_t, FIELD_T):
        yield _unusual(
            "field-strength-unusual", f"{note.phase}: {note.field_strength_t:g} T, neither 1.5 T nor 3 T"
        )
    if note.residual_mm is not None and note.residual_mm > LARGEST_RESIDUAL_MM:
        yield Caution(
            code="not-aligned",
            text=f"{note.phase} still lies {note.residual_mm:.1f} mm off the lesion's phase",
            remedy="Look at the picture: is the same lesion in every phase?",
        )
    if note.enhancement is not None and not _within(note.enhancement, ENHANCEMENT):
        yield _unusual(
            "enhancement-unusual",
            f"{note.phase}: the tissue around the lesion is {math.exp(note.enhancement):.2f} times as bright as "
            "before contrast",
        )


def _timing(notes: Sequence[PhaseNote]) -> Iterator[Caution]:
    for (earlier, later), seconds in intervals(notes).items():
        usual = SECONDS_BETWEEN.get((earlier, later))
        if usual is not None and not _within(seconds, usual):
            yield _unusual(
                "timing-unusual",
                f"{later} was acquired {seconds:.0f} s after {earlier}; {usual[0]:g} to {usual[1]:g} s are usual",
            )


def intervals(notes: Sequence[PhaseNote]) -> dict[tuple[Phase, Phase], float]:
    """Seconds between every two phases whose times are known, the earlier phase by name first."""
    timed = [(note.phase, note.seconds) for note in notes if note.used and note.seconds is not None]
    return {(a, b): after - before for (a, before), (b, after) in combinations(timed, 2)}


def _lesion(lesion: LesionNote, crop: CropSettings) -> Iterator[Caution]:
    if lesion.drawn_on is None:
        yield Caution(
            code="no-drawing",
            text="no lesion is drawn: the middle of the image was scored, and all of it taken for lesion",
            remedy="Draw the lesion, and give it with --mask or --box",
        )
        return
    longest = max(lesion.extent_mm_dhw)
    if not _within(longest, (SMALLEST_MM, LARGEST_MM)):
        yield _unusual("lesion-size-unusual", f"the lesion measures {longest:.0f} mm along its longest side")
    if lesion.inside_crop < LEAST_INSIDE:
        size = " x ".join(f"{n * s:.0f}" for n, s in zip(crop.size, crop.spacing_mm, strict=True))
        yield Caution(
            code="lesion-cut-off",
            text=f"the model sees {lesion.inside_crop:.0%} of the lesion: its crop is {size} mm",
            remedy="Do not rely on the score of a lesion that is larger than the crop",
        )


def _unusual(code: str, text: str) -> Caution:
    return Caution(code=code, text=text, remedy="Do not rely on the score", basis="plausible")


def _within(value: float, limits: Iterable[float]) -> bool:
    low, high = limits
    return low <= value <= high


def outside_training(subject: Subject, seen: Seen | None) -> Iterator[Caution]:
    """What lies outside the ranges of the patients that this very model was trained on.

    Args:
        subject: what is scored.
        seen: what the package says of them; None where it says nothing.
    """
    if seen is None:
        return
    where = f" at {seen.sites} centres" if seen.sites else ""
    whom = f"in nine of ten of the {seen.patients} patients it was trained on{where}"
    by_text: dict[tuple[str, str], list[str]] = {}
    for note in subject.phases:
        for what, text in _unlike_image(note, seen):
            by_text.setdefault((what, text), []).append(note.phase)
    for (what, text), phases in by_text.items():
        yield _unlike(what, f"{', '.join(phases)}: {text} {whom}")
    gaps = intervals(subject.phases)
    for between in seen.seconds:
        seconds = gaps.get((between.first, between.then))
        if seconds is not None and not _seen_before(seconds, between.seconds):
            yield _unlike(
                "timing",
                f"{between.then} {seconds:.0f} s after {between.first}, {_range(between.seconds, 's')} {whom}",
            )


def _unlike_image(note: PhaseNote, seen: Seen) -> Iterator[tuple[str, str]]:
    """What of one phase's image was not seen in training, and in words what was."""
    axes = zip(("slices", "rows", "columns"), note.spacing_mm_dhw or (), seen.spacing_mm or (), strict=False)
    for axis, spacing, span in axes:
        if not _seen_before(spacing, span, SPACING_ROOM_MM):
            yield "spacing", f"{axis} {spacing:.2f} mm apart, {_range(span, 'mm')}"
    field = note.field_strength_t
    if field is not None and seen.field_t and not _seen_before(field, seen.field_t, FIELD_ROOM_T):
        yield "field-strength", f"{field:g} T, {_range(seen.field_t, 'T')}"
    bright, span_of = note.enhancement, seen.enhancement.get(note.phase)
    if bright is not None and span_of is not None and not _seen_before(bright, span_of):
        said = Span(low=math.exp(span_of.low), high=math.exp(span_of.high))
        yield (
            "enhancement",
            f"{math.exp(bright):.2f} times as bright as before contrast, {_range(said, 'times')}",
        )


def _unlike(what: str, text: str) -> Caution:
    return Caution(code=f"{what}-not-seen", text=text, remedy="Do not rely on the score", basis="model")


def _seen_before(value: float, span: Span, least_room: float = 0.0) -> bool:
    """Whether a value is like those seen. Headers round: 1.494 T and 1.5 T are one field."""
    room = max(least_room, ROOM * (span.high - span.low))
    return span.low - room <= value <= span.high + room


def _range(span: Span, unit: str) -> str:
    return f"{span.low:.3g} {unit}" if span.low == span.high else f"{span.low:.3g} to {span.high:.3g} {unit}"
