"""From seconds after the injection to a phase.

The windows are those of liver imaging with a bolus: the late arterial phase 35 s after the injection, the
portal-venous phase at 60-80 s, the delayed (with gadoxetate: transitional) phase at 2-5 minutes, the
hepatobiliary phase of gadoxetate at 20 minutes, seldom before 10, that of gadobenate after 1-2 hours (LI-RADS
v2018, technical recommendations). Between the windows nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence

from phcc_client.ingest.phase_evidence import Proposal, Reading
from phcc_client.ingest.phase_words import Agent
from phcc_model.config import Phase

IDEAL_SECONDS: dict[Phase, float] = {"portal-venous": 70.0, "delayed": 180.0, "hepatobiliary": 1200.0}
ARTERIAL_SECONDS = 30.0  # from the injection to the start of a single arterial acquisition

_WINDOWS: tuple[tuple[Phase, float, float], ...] = (
    ("arterial", 15.0, 45.0),
    ("portal-venous", 50.0, 100.0),
    ("delayed", 120.0, 360.0),
)
_LATE_EXTRACELLULAR_SECONDS = 1200.0
_HEPATOBILIARY_SECONDS: dict[Agent, float] = {"hepatobiliary": 600.0, "late hepatobiliary": 2700.0}
LATE_SECONDS: dict[Agent, float] = {"hepatobiliary": 600.0, "late hepatobiliary": 2700.0, "": 900.0}
"""From here on what is called delayed may be the hepatobiliary phase, by the contrast agent ("": not known)."""
_IMPOSSIBLE: dict[Phase, tuple[float, float]] = {
    "arterial": (-15.0, 120.0),
    "portal-venous": (20.0, 240.0),
    "delayed": (60.0, 3600.0),
    "hepatobiliary": (300.0, 14400.0),
}
"""What a series that is named so cannot be; wide, because the time of the injection is often typed by hand."""


def phase_at(seconds: float, agent: Agent) -> Phase | None:
    """The phase that is acquired so many seconds after the injection; None between the windows."""
    for phase, first, last in _WINDOWS:
        if first <= seconds <= last:
            return phase
    earliest = _HEPATOBILIARY_SECONDS.get(agent)
    if earliest is not None and seconds >= earliest:
        return "hepatobiliary"
    if agent == "extracellular" and _WINDOWS[-1][2] < seconds <= _LATE_EXTRACELLULAR_SECONDS:
        return "delayed"
    return None


def between(seconds: float, agent: Agent) -> str:
    """Why `phase_at` says nothing."""
    if seconds >= _HEPATOBILIARY_SECONDS["hepatobiliary"]:
        if not agent:
            return f"{spoken(seconds)} after the injection, and nothing says that a hepatobiliary agent was given"
        return f"{spoken(seconds)} after the injection is no usual time with this contrast agent"
    return f"{spoken(seconds)} after the injection lies between the usual phases"


def spoken(seconds: float) -> str:
    """A time as one says it."""
    return f"{seconds:.0f} s" if abs(seconds) < 300.0 else f"{seconds / 60.0:.0f} min"


def contradicts(phase: Phase, seconds: float) -> bool:
    """Whether a series cannot be of this phase, so many seconds after the injection."""
    first, last = _IMPOSSIBLE.get(phase, (-float("inf"), float("inf")))
    return not first <= seconds <= last


def injection(readings: Sequence[Reading]) -> float | None:
    """When the contrast agent was given, on the clock of the readings; None where no header says it believably.

    Headers that differ by more than a minute hold the time of something else; so does a time that lies an hour
    before the first, or after the last acquisition.
    """
    acquired = [r.series.facts.acquired for r in readings]
    given = {r.series.facts.contrast_start for r in readings} - {None}
    clocks = [r.clock for r in readings if r.clock is not None and r.aside is None]
    first = min((time.replace(tzinfo=None) for time in acquired if time is not None), default=None)
    if first is None or not clocks:
        return None
    starts = [(time.replace(tzinfo=None) - first).total_seconds() for time in given if time is not None]
    if not starts or max(starts) - min(starts) > 60.0:
        return None
    return min(starts) if min(clocks) - 3600.0 < min(starts) < max(clocks) else None


def by_time(reading: Reading, injected: float, agent: Agent, source: str) -> Proposal:
    """What the time says of one series.

    Args:
        reading: the series, which has a clock.
        injected: when the contrast agent was given, on the same clock.
        agent: its kind.
        source: where `injected` comes from, for the rule.
    """
    seconds = (reading.clock or 0.0) - injected
    if seconds < 0.0:
        return Proposal("pre-contrast", f"acquired before the injection ({source})", "likely")
    phase = phase_at(seconds, agent)
    rule = f"{spoken(seconds)} after the injection ({source})"
    if phase is None:
        return Proposal(None, rule, "unsure", between(seconds, agent))
    return Proposal(phase, rule, "likely")
