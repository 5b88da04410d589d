"""What a model saw in training, put together from what the sites announced of their images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import get_args

from phcc_model.config import Phase
from phcc_model.contract import keys, ranges
from phcc_model.package_schema import Between, Seen, Span
from phcc_server.ledger import CardRecord


def seen_of(cards: Mapping[str, CardRecord]) -> Seen | None:
    """The ranges of all sites together: from the lowest low end to the highest high one.

    Args:
        cards: how the sites announced themselves.

    Returns:
        None where no site said anything of its images.
    """
    told = [card for card in cards.values() if card.seen and card.patients.get(keys.TRAIN, 0)]
    if not told:
        return None

    def span(name: str) -> Span | None:
        known = [card.seen for card in told if f"{name}.low" in card.seen]
        if not known:
            return None
        return Span(
            low=min(seen[f"{name}.low"] for seen in known), high=max(seen[f"{name}.high"] for seen in known)
        )

    d, h, w = (span(name) for name in ranges.SPACING)
    phases: tuple[Phase, ...] = get_args(Phase)
    enhanced = {phase: span(f"{ranges.ENHANCEMENT}{phase}") for phase in phases}
    timed = {(a, b): span(f"{ranges.SECONDS}{a}.{b}") for a, b in combinations(phases, 2)}
    return Seen(
        patients=sum(card.patients[keys.TRAIN] for card in told),
        sites=len(told),
        spacing_mm=(d, h, w) if d and h and w else None,
        field_t=span(ranges.FIELD),
        enhancement={phase: found for phase, found in enhanced.items() if found},
        seconds=tuple(Between(first=a, then=b, seconds=found) for (a, b), found in timed.items() if found),
    )


def in_words(seen: Seen) -> Iterator[str]:
    """Each range in a line, for a model card."""
    if seen.spacing_mm:
        d, h, w = (_told(span) for span in seen.spacing_mm)
        yield f"spacing, mm: slices {d}, rows {h}, columns {w}"
    if seen.field_t:
        yield f"field strength: {_told(seen.field_t)} T"
    for phase, span in seen.enhancement.items():
        yield f"brightness around the lesion, {phase} against before contrast: ln {_told(span)}"
    for gap in seen.seconds:
        yield f"{gap.then} after {gap.first}: {_told(gap.seconds)} s"


def _told(span: Span) -> str:
    return f"{span.low:g}" if span.low == span.high else f"{span.low:g} to {span.high:g}"
