"""What speaks for a series being a phase, collected before anything is decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phcc_client.ingest.examination import Series
from phcc_client.ingest.phase_aside import Aside, component, may_be_dynamic, set_aside, worked_out
from phcc_client.ingest.phase_words import Agent, Component, Words, agent_named, read_words
from phcc_client.ingest.record import Certainty
from phcc_model.config import Phase

RANKS: dict[Phase, int] = {
    "pre-contrast": 0,
    "arterial": 1,
    "portal-venous": 2,
    "delayed": 3,
    "hepatobiliary": 4,
}
"""The phases in the order in which they are acquired."""

_NO_AGENT = frozenset(
    ("", "no", "none", "nein", "non", "without", "ohne", "n/a", "na", "no contrast", "-", "0")
)


@dataclass(frozen=True)
class Taken:
    """What a series was taken for.

    Attributes:
        taken_for: a phase; ``other`` for what is known and is no phase; None for what was not recognised.
        rule: what decided it, in words, without anything of the description but words of the vocabulary.
        certainty: of that; what is unsure is never used, unless the site's phases.yaml says what it is.
        used: whether it became the patient's image of that phase.
        why_not: empty where it is used.
    """

    taken_for: Phase | Literal["other"] | None
    rule: str
    certainty: Certainty
    used: bool = False
    why_not: str = ""


@dataclass(frozen=True)
class Proposal:
    """A phase for a series: what speaks for it, and how strongly; `doubt` says why it is unsure."""

    phase: Phase | None
    rule: str
    certainty: Certainty
    doubt: str = ""


@dataclass(frozen=True)
class Reading:
    """One series and all that was read of it.

    Attributes:
        index: its place in the examination.
        said: by its description.
        aside: why it is no phase; None where it may be one.
        part: of a Dixon acquisition.
        worked_out: from other images, so that it does not show what was measured.
        contrast: whether contrast agent had been given; None where nothing says.
        clock: seconds since the study's first acquisition; None where there is no clock to trust.
        order: sorts the study's series by time; equal for images of one time. None where it is not known.
        slices: of its image; 0 where there is none.
    """

    index: int
    series: Series
    said: Words
    aside: Aside | None
    part: Component
    worked_out: bool
    contrast: bool | None
    clock: float | None
    order: tuple[float, ...] | None
    slices: int

    @property
    def label(self) -> str:
        """How a person finds it: its series number, and its time point where there are several."""
        facts = self.series.facts
        name = "a series without number" if facts.series_number is None else f"series {facts.series_number}"
        return name if facts.time_points < 2 or facts.temporal_position is None else (
            f"{name}, time point {facts.temporal_position}"
        )  # fmt: skip

    @property
    def family(self) -> tuple[object, ...]:
        """Equal for time points that were measured in the same way."""
        facts = self.series.facts
        numbers = (facts.echo_time_ms, facts.repetition_time_ms, facts.flip_angle_deg)
        rounded = tuple(None if number is None else round(number, 1) for number in numbers)
        return (self.said.family or read_words(facts.protocol).family, self.said.coronal, *rounded)


def read_study(numbered: Sequence[tuple[int, Series]]) -> tuple[list[Reading], Agent]:
    """Everything that was read of one study's series, and the kind of contrast agent that was given."""
    series = [one for _, one in numbered]
    said = [read_words(one.facts.description) for one in series]
    protocols = Counter(one.facts.protocol for one in series)
    # A protocol's name that several series share names the whole examination, not a phase of it.
    said = [
        _with_protocol(words, one) if protocols[one.facts.protocol] == 1 else words
        for words, one in zip(said, series, strict=True)
    ]
    given = [one.facts.contrast_agent.strip().lower() not in _NO_AGENT for one in series]
    tells = any(given) and not all(given)
    asides = [_aside(one, words) for one, words in zip(series, said, strict=True)]
    clocks = _clocks(series)
    by_clock = all(clock is not None for clock, aside in zip(clocks, asides, strict=True) if aside is None)
    stopped = _stopped(series, clocks)
    readings = [
        Reading(
            index,
            one,
            words,
            aside,
            component(one.facts, words),
            worked_out(one.facts, words),
            True if words.after_contrast else agent if tells else None,
            None if one.uid in stopped else clock,
            _order(one, clock if by_clock else None),
            0 if one.image is None else one.image.grid.shape_dhw[0],
        )
        for (index, one), words, aside, agent, clock in zip(
            numbered, said, asides, given, clocks, strict=True
        )
    ]
    return readings, _agent(series, said)


def _aside(series: Series, words: Words) -> Aside | None:
    aside = set_aside(series.facts, words)
    if aside is None and not may_be_dynamic(series.facts, words):
        return Aside("no T1 gradient echo", "the header's scanning sequence", "likely")
    return aside


def _with_protocol(words: Words, series: Series) -> Words:
    if words.phases or words.other:
        return words
    protocol = read_words(series.facts.protocol)
    if not protocol.phases or protocol.other:
        return words
    return Words(**{**vars(words), "phases": protocol.phases, "weak": True})


def _agent(series: Sequence[Series], said: Sequence[Words]) -> Agent:
    """A hepatobiliary agent where any series names one: it is the rarer, and the one that is typed on purpose."""
    named = {agent_named(one.facts.contrast_agent) for one in series} | {words.agent for words in said}
    kinds: tuple[Agent, ...] = ("hepatobiliary", "late hepatobiliary", "extracellular")
    return next((kind for kind in kinds if kind in named), "")


def _clocks(series: Sequence[Series]) -> list[float | None]:
    """Seconds since the first acquisition; None for all where one clock reading stands for different series."""
    times = [None if s.facts.acquired is None else s.facts.acquired.replace(tzinfo=None) for s in series]
    known = [time for time in times if time is not None]
    if not known or (len(set(known)) == 1 and len({s.uid for s in series}) > 1):
        return [None] * len(series)
    first = min(known)
    within: dict[str, set[object]] = {}
    for one, time in zip(series, times, strict=True):
        within.setdefault(one.uid, set()).add(time)
    seconds: list[float | None] = []
    for one, time in zip(series, times, strict=True):
        later = 0.0
        if one.facts.time_points > 1 and len(within[one.uid]) == 1:
            later = (one.facts.trigger_time_ms or 0.0) / 1000.0
        seconds.append(None if time is None else (time - first).total_seconds() + later)
    return seconds


def _stopped(series: Sequence[Series], clocks: Sequence[float | None]) -> set[str]:
    """Series whose time points all have one time: it is that of the series, and orders it, and says no more."""
    points: dict[str, set[int | None]] = {}
    times: dict[str, set[float | None]] = {}
    for one, clock in zip(series, clocks, strict=True):
        points.setdefault(one.uid, set()).add(one.facts.temporal_position)
        times.setdefault(one.uid, set()).add(clock)
    return {uid for uid, positions in points.items() if len(positions) > 1 and len(times[uid]) == 1}


def _order(series: Series, clock: float | None) -> tuple[float, ...] | None:
    facts = series.facts
    point = float(facts.temporal_position or 0)
    if clock is not None:
        return (clock, point if facts.time_points > 1 else 0.0)
    if facts.series_number is None:
        return None
    return (float(facts.series_number), point, facts.trigger_time_ms or 0.0)
