"""Phases of series that no word names: from the injection, from named neighbours, from their order.

Each way is tried in turn; what none of them settles stays unsure and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from phcc_client.ingest.phase_evidence import RANKS, Proposal, Reading
from phcc_client.ingest.phase_times import ARTERIAL_SECONDS, by_time, injection, spoken
from phcc_client.ingest.phase_words import Agent
from phcc_model.config import Phase

Proposals = Mapping[int, Proposal]
_DYNAMIC: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")
_MOST_TIME_POINTS = 12
_AFTER_ARTERIAL: dict[Phase, tuple[float, float]] = {"portal-venous": (12.0, 110.0), "delayed": (60.0, 500.0)}
_LATEST_START_S = 20 * 60.0
_PORTAL_S = 75.0  # the portal-venous phase begins no later than this after an arterial one
_DYNAMIC_S, _PAUSE_S, _HEPATOBILIARY_S = 500.0, 240.0, 600.0


def unnamed_phases(readings: Sequence[Reading], named: Proposals, agent: Agent) -> dict[int, Proposal]:
    """Proposals for the series that may be a phase and have no name.

    Args:
        readings: of one study.
        named: by index, what words or the site's own rules say; never altered.
        agent: the kind of contrast agent.
    """
    open_ones = [r for r in readings if r.aside is None and r.index not in named]
    if not open_ones:
        return {}
    injected = injection(readings)
    if injected is not None and all(r.clock is not None for r in open_ones):
        return {r.index: by_time(r, injected, agent, "its time is in the header") for r in open_ones}
    slots = _slots([r for r in readings if r.index in named or r.aside is None])
    if not slots:
        return {r.index: _unknown("nothing says in which order the series were acquired") for r in open_ones}
    named = {index: proposal for index, proposal in named.items() if proposal.certainty != "unsure"}
    found = {**_long_after(slots, named, agent), **_before_contrast(slots, named)}
    by_arterial = _from_named(open_ones, readings, {**named, **found}, agent)
    found |= {i: p for i, p in by_arterial.items() if p.phase is not None}
    known = {**named, **{i: p for i, p in found.items() if p.phase is not None}}
    left = [r for r in open_ones if r.index not in known and r.index not in found]
    filled = _filled(slots, known, left)
    first_post = _from_first(left, {**known, **{i: p for i, p in filled.items() if p.phase}}, readings, agent)
    decided: dict[int, Proposal] = {}
    for reading in open_ones:
        ways = (found, filled, first_post, by_arterial)
        proposals = [way[reading.index] for way in ways if reading.index in way]
        told = [p for p in proposals if p.certainty != "unsure"]
        decided[reading.index] = (told or proposals or [_unknown(_SILENT)])[0]
    return decided


_SILENT = "a T1 sequence, and nothing says which phase"


def _unknown(why: str) -> Proposal:
    return Proposal(None, "no word names its phase", "unsure", why)


def _slots(readings: Sequence[Reading]) -> list[list[Reading]]:
    """The series by time of acquisition: images that were made of one acquisition stand together."""
    if any(r.order is None for r in readings):
        return []
    slots: dict[tuple[float, ...], list[Reading]] = {}
    for reading in readings:
        assert reading.order is not None
        slots.setdefault(reading.order, []).append(reading)
    return [slots[order] for order in sorted(slots)]


def _before_contrast(slots: Sequence[Sequence[Reading]], named: Proposals) -> dict[int, Proposal]:
    """Unnamed series of the same sequence that stand before the first one which had contrast agent."""
    first = next((at for at, slot in enumerate(slots) if any(r.contrast is True for r in slot)), None)
    if first is None:
        return {}
    with_agent = {r.family for slot in slots[first:] for r in slot if r.index not in named}
    with_agent |= {r.family for slot in slots[first:] for r in slot if r.index in named}
    return {
        r.index: Proposal("pre-contrast", "acquired before the contrast agent was given", "likely")
        for slot in slots[:first]
        for r in slot
        if r.index not in named and r.contrast is not True and (r.contrast is False or r.family in with_agent)
    }


def _long_after(slots: Sequence[Sequence[Reading]], named: Proposals, agent: Agent) -> dict[int, Proposal]:
    """What follows a dynamic series of three or more after a long pause: hepatobiliary, with such an agent."""
    found: dict[int, Proposal] = {}
    if any(r.clock is None for slot in slots for r in slot):
        return found
    times = [slot[0].clock or 0.0 for slot in slots]
    for at in range(3, len(slots)):
        pause = times[at] - times[at - 1]
        dynamic = times[at - 1] - times[at - 3] <= _DYNAMIC_S and pause >= _PAUSE_S
        if not (dynamic and times[at] - times[at - 3] >= _HEPATOBILIARY_S) and not found:
            continue
        rule = f"{spoken(times[at] - times[at - 1])} after the dynamic series"
        if agent == "hepatobiliary":
            proposal = Proposal("hepatobiliary", f"{rule}, with a hepatobiliary agent", "likely")
        else:
            proposal = Proposal(None, rule, "unsure", "nothing says that a hepatobiliary agent was given")
        found |= {r.index: proposal for r in slots[at] if r.index not in named}
    return found


def _from_named(
    open_ones: Sequence[Reading], readings: Sequence[Reading], known: Proposals, agent: Agent
) -> dict[int, Proposal]:
    """From the time of the named arterial phase, and before it whatever has no contrast agent."""
    arterial = [r for r in readings if r.index in known and known[r.index].phase == "arterial"]
    if not arterial or any(r.clock is None for r in (*arterial, *open_ones)):
        return {}
    injected = max(r.clock or 0.0 for r in arterial) - ARTERIAL_SECONDS
    return {
        r.index: by_time(r, injected, agent, "judged by the arterial phase")
        for r in open_ones
        if r.index not in known
    }


def _filled(
    slots: Sequence[Sequence[Reading]], known: Proposals, left: Sequence[Reading]
) -> dict[int, Proposal]:
    """Between known phases, exactly as many time points as phases are missing there: each is the next one."""
    main = _largest_family(left)
    unnamed = {r.index for r in left}
    found: dict[int, Proposal] = {}
    gap: list[list[Reading]] = []
    low = -1
    for slot in [*slots, []]:
        ranks = {RANKS[p] for r in slot if r.index in known and (p := known[r.index].phase) in RANKS}
        if ranks or not slot:
            high = min(ranks, default=len(_DYNAMIC))
            found |= _fill(gap, [p for p in _DYNAMIC if low < RANKS[p] < high], slots, known)
            gap, low = [], max(ranks, default=low)
        members = [r for r in slot if r.index in unnamed and r.family == main]
        if members and not ranks:
            gap.append(members)
    return found


def _largest_family(left: Sequence[Reading]) -> tuple[object, ...]:
    counts: dict[tuple[object, ...], set[object]] = {}
    for reading in left:
        counts.setdefault(reading.family, set()).add(reading.order)
    return max(counts, key=lambda family: (len(counts[family]), str(family)), default=())


def _fill(
    gap: Sequence[Sequence[Reading]],
    expected: Sequence[Phase],
    slots: Sequence[Sequence[Reading]],
    known: Proposals,
) -> dict[int, Proposal]:
    if not gap:
        return {}
    everyone = [r for slot in gap for r in slot]
    if all(any(r.contrast is True for r in slot) for slot in gap):
        expected = [p for p in expected if p != "pre-contrast"]
    if len(gap) > _MOST_TIME_POINTS:
        why = f"{len(gap)} time points, and no header says when the contrast agent was given"
        return {r.index: _unknown(why) for r in everyone}
    if len(gap) == 1 != len(expected):
        return {r.index: _unknown(_SILENT) for r in everyone}
    if len(gap) != len(expected):
        phases = "one phase" if len(expected) == 1 else f"{len(expected)} phases"
        why = f"{len(gap)} time points for {phases}, and nothing says which is missing or repeated"
        return {r.index: _unknown(why) for r in everyone}
    wrong = _times_wrong(gap, expected, slots, known)
    found = {}
    for number, (slot, phase) in enumerate(zip(gap, expected, strict=True), start=1):
        rule = f"by order of acquisition: time point {number} of {len(gap)}"
        first, here = gap[0][0].clock, slot[0].clock
        if number > 1 and first is not None and here is not None:
            rule += f", {spoken(here - first)} after the first"
        for reading in slot:
            found[reading.index] = Proposal(phase, rule, "unsure" if wrong else "likely", wrong)
    return found


def _times_wrong(
    gap: Sequence[Sequence[Reading]],
    expected: Sequence[Phase],
    slots: Sequence[Sequence[Reading]],
    known: Proposals,
) -> str:
    """What in the clock speaks against the order; empty where nothing does, or there is no clock."""
    at: dict[Phase, float] = {}
    for slot in slots:
        for r in slot:
            phase = known[r.index].phase if r.index in known else None
            if phase is not None and r.clock is not None:
                at[phase] = r.clock
    for slot, phase in zip(gap, expected, strict=True):
        if slot[0].clock is not None:
            at[phase] = slot[0].clock
    for phase, (least, most) in _AFTER_ARTERIAL.items():
        if phase in at and "arterial" in at and not least <= at[phase] - at["arterial"] <= most:
            after = spoken(at[phase] - at["arterial"])
            return f"the {phase} phase would lie {after} after the arterial phase"
    if {"pre-contrast", "arterial"} <= set(at) and at["arterial"] - at["pre-contrast"] > _LATEST_START_S:
        waited = spoken(at["arterial"] - at["pre-contrast"])
        return f"{waited} lie between the pre-contrast and the arterial phase"
    return ""


def _from_first(
    left: Sequence[Reading], known: Proposals, readings: Sequence[Reading], agent: Agent
) -> dict[int, Proposal]:
    """Where the pre-contrast series is known, the first time point after it is taken for the arterial phase."""
    pre = [r for r in readings if r.index in known and known[r.index].phase == "pre-contrast"]
    main = [r for r in left if r.family == _largest_family(left)]
    if not pre or not main or any(r.clock is None for r in (*pre, *main)) or len(main) > _MOST_TIME_POINTS:
        return {}
    after = [r for r in main if (r.clock or 0.0) > max(p.clock or 0.0 for p in pre)]
    if not after:
        return {}
    first = min(r.clock or 0.0 for r in after)
    portal = [r.clock for r in readings if r.index in known and known[r.index].phase == "portal-venous"]
    if any(
        time is None or not _AFTER_ARTERIAL["portal-venous"][0] <= time - first <= _PORTAL_S
        for time in portal
    ):
        return {}
    if first - max(p.clock or 0.0 for p in pre) > _LATEST_START_S:
        return {}
    found = {
        r.index: by_time(
            r, first - ARTERIAL_SECONDS + 5.0, agent, "judged by the first time point after contrast"
        )
        for r in after
    }
    phases = {p.phase for p in found.values()}
    return found if {"arterial", "portal-venous"} <= phases else {}
