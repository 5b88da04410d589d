"""What speaks against a proposal, and which of several series becomes the phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from phcc_client.ingest.phase_evidence import RANKS, Proposal, Reading
from phcc_client.ingest.phase_times import ARTERIAL_SECONDS, IDEAL_SECONDS, LATE_SECONDS, contradicts, spoken
from phcc_client.ingest.phase_words import Agent
from phcc_model.config import Phase

_WHOLE = 0.9  # of the most slices: less is an acquisition that was broken off


def doubted(
    readings: Sequence[Reading],
    proposals: Mapping[int, Proposal],
    fixed: frozenset[int],
    agent: Agent,
    injected: float | None,
) -> dict[int, Proposal]:
    """The proposals, those that contradict each other, the clock or the contrast agent made unsure.

    Args:
        readings: of one study.
        proposals: by index.
        fixed: indices that the site itself decided; they are never doubted, and others are judged by them.
        agent: the kind of contrast agent.
        injected: when it was given, on the clock of the readings; None where only the arterial phase tells it.
    """
    result = dict(proposals)
    measured = {p.phase for r in readings if not r.worked_out and (p := _believed(result.get(r.index)))}
    for r in readings:
        proposal = _believed(result.get(r.index))
        if proposal is None or r.index in fixed:
            continue
        if proposal.phase == "hepatobiliary" and agent == "extracellular":
            result[r.index] = _unsure(proposal, "the contrast agent is one that has no hepatobiliary phase")
        if r.worked_out and proposal.phase not in measured:
            result[r.index] = _unsure(proposal, "the header calls it derived, and no measured image is there")
    if injected is not None:
        _doubt_times(result, readings, fixed, agent, injected)
    for index, why in _out_of_order(readings, result, fixed).items():
        result[index] = _unsure(result[index], why)
    arterial = [r.clock for r in readings if (p := _believed(result.get(r.index))) and p.phase == "arterial"]
    clocks = [clock for clock in arterial if clock is not None]
    if injected is None and clocks:
        _doubt_times(result, readings, fixed, agent, max(clocks) - ARTERIAL_SECONDS)
    return result


def _doubt_times(
    result: dict[int, Proposal],
    readings: Sequence[Reading],
    fixed: frozenset[int],
    agent: Agent,
    injected: float,
) -> None:
    for r in readings:
        proposal = _believed(result.get(r.index))
        if proposal is None or proposal.phase is None or r.clock is None or r.index in fixed:
            continue
        seconds = r.clock - injected
        if contradicts(proposal.phase, seconds):
            result[r.index] = _unsure(proposal, f"it was acquired {spoken(seconds)} after the injection")
        elif proposal.phase == "delayed" and seconds >= LATE_SECONDS.get(agent, float("inf")):
            why = f"{spoken(seconds)} after the injection it may be the hepatobiliary phase"
            result[r.index] = _unsure(proposal, why)


def _believed(proposal: Proposal | None) -> Proposal | None:
    return None if proposal is None or proposal.certainty == "unsure" else proposal


def _unsure(proposal: Proposal, why: str) -> Proposal:
    return replace(proposal, certainty="unsure", doubt=why)


def _out_of_order(
    readings: Sequence[Reading], proposals: Mapping[int, Proposal], fixed: frozenset[int]
) -> dict[int, str]:
    """Series whose phase cannot be true together with the others', by the order of acquisition.

    The largest set of phases that are in order is believed. A phase that every such set holds is sure of its
    place; one that only some of them hold contradicts another, and which of the two is wrong is not known.
    """
    told = {}
    for r in readings:
        proposal = proposals.get(r.index)
        if (
            proposal is None
            or proposal.phase not in RANKS
            or r.order is None
            or proposal.certainty == "unsure"
        ):
            continue
        told[r.index] = (r.order, RANKS[proposal.phase], r)
    wrong: dict[int, str] = {}
    for i, (order, rank, _) in told.items():
        clash = [o for j, o in told.items() if j in fixed and i not in fixed and _clash((order, rank), o[:2])]
        if clash:
            wrong[i] = _explained(order, clash[0])
    items = {i: item for i, item in told.items() if i not in wrong}
    times: dict[int, list[tuple[float, ...]]] = {}
    for order, rank, _ in items.values():
        times.setdefault(rank, []).append(order)
    sets = [
        s for size in range(len(times) + 1) for s in combinations(sorted(times), size) if _in_order(s, times)
    ]
    largest = [s for s in sets if len(s) == len(sets[-1])]
    for i, (order, rank, _) in items.items():
        essential = all(rank in s for s in largest)
        if i not in fixed and not (
            essential and any(_in_order(s, {**times, rank: [order]}) for s in largest)
        ):
            clash = [o for j, o in items.items() if j != i and _clash((order, rank), o[:2])]
            wrong[i] = _explained(order, clash[0])
    return wrong


_Item = tuple[tuple[float, ...], int, Reading]


def _in_order(ranks: Sequence[int], times: Mapping[int, Sequence[tuple[float, ...]]]) -> bool:
    """Whether one series of each phase can be chosen so that they follow each other."""
    last: tuple[float, ...] = ()
    for rank in ranks:
        later = [time for time in times[rank] if time >= last]
        if not later:
            return False
        last = min(later)
    return True


def _clash(a: tuple[tuple[float, ...], int], b: tuple[tuple[float, ...], int]) -> bool:
    return (a[0] < b[0] and a[1] > b[1]) or (a[0] > b[0] and a[1] < b[1])


def _explained(order: tuple[float, ...], other: _Item) -> str:
    when = "after" if order > other[0] else "before"
    phase = next(phase for phase, number in RANKS.items() if number == other[1])
    return f"it was acquired {when} {other[2].label}, the {phase} phase"


def choose_phases(
    readings: Sequence[Reading], proposals: Mapping[int, Proposal], fixed: frozenset[int]
) -> tuple[dict[Phase, int], dict[int, str], frozenset[int]]:
    """One series for each phase.

    Args:
        readings: of one study.
        proposals: by index.
        fixed: indices that the site itself decided: before all others.

    Returns:
        The chosen index of each phase; why each other candidate was not chosen; the indices that were chosen
        only because they are a repetition, or were not named while others were.
    """
    chosen: dict[Phase, int] = {}
    why_not: dict[int, str] = {}
    only_likely = set()
    for phase in RANKS:
        candidates = [
            r for r in readings
            if (p := proposals.get(r.index)) is not None and p.phase == phase and p.certainty != "unsure"
        ]  # fmt: skip
        for r in candidates:
            if not _usable(r):
                why_not[r.index] = r.series.defect or "it has no image"
        left = [r for r in candidates if _usable(r)]
        if not left:
            continue
        criteria = _criteria(phase, left, readings, proposals, fixed)
        best = max(left, key=lambda r: [value(r) for _, value in criteria])
        chosen[phase] = best.index
        for r in left:
            if r is not best:
                differing = (n for n, (_, value) in enumerate(criteria) if value(r) != value(best))
                decided = next(differing, len(criteria) - 1)
                why_not[r.index] = f"{best.label} was chosen: {criteria[decided][0]}"
                if decided >= len(criteria) - _TIMED:
                    only_likely.add(best.index)
    return chosen, why_not, frozenset(only_likely)


_Criterion = tuple[str, Callable[[Reading], object]]
_TIMED = 2  # of the criteria, the last ones, that choose between equals by their time


def _usable(reading: Reading) -> bool:
    return reading.series.image is not None and not reading.series.defect


def _criteria(
    phase: Phase,
    left: Sequence[Reading],
    readings: Sequence[Reading],
    proposals: Mapping[int, Proposal],
    fixed: frozenset[int],
) -> list[_Criterion]:
    """What makes a series the better one of a phase, what counts most first; all are "the larger the better"."""
    whole = _WHOLE * max(r.slices for r in left)
    moments = {"late": 1, "": 0, "early": -1}
    ideal = IDEAL_SECONDS.get(phase)

    def company(r: Reading) -> int:
        alike = {
            p.phase for o in readings if o.family == r.family and (p := proposals.get(o.index)) is not None
        }
        return len(alike - {phase, None})

    def closeness(r: Reading) -> float:
        said = r.said.seconds
        return 0.0 if ideal is None or said is None else -abs(said - ideal)

    def last(r: Reading) -> object:
        return (r.order or (), r.series.facts.series_number or 0, r.series.uid, repr(r.series.facts))

    return [
        ("the site's phases.yaml says so", lambda r: r.index in fixed),
        ("it was measured, not derived", lambda r: not r.worked_out),
        ("it has all slices", lambda r: r.slices >= whole),
        ("its name says the phase", lambda r: proposals[r.index].certainty == "sure"),
        ("more of the other phases were measured in its way", company),
        ("it is axial", lambda r: not r.said.coronal),
        ("it is the water image", lambda r: r.part == "water"),
        ("it is the late arterial phase", lambda r: moments[r.said.moment] if phase == "arterial" else 0),
        ("its time is nearer to the usual one", closeness),
        ("it is the last repetition", last),
    ]
