"""Which series is which phase, with the rule that decided, and no guess in silence.

In this order: what the site's phases.yaml says; what a series cannot be (T2, diffusion, in and out of phase,
derived images ...); the words of its description; a time after the injection; the order of acquisition. Words
that contradict the order of acquisition, the clock or the contrast agent are not believed: such a series is
unsure, and what is unsure is not used. Of several series of one phase one is chosen by
`phase_choice.choose_phases`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from phcc_client.ingest.examination import Series
from phcc_client.ingest.phase_choice import choose_phases, doubted
from phcc_client.ingest.phase_evidence import RANKS, Proposal, Reading, Taken, read_study
from phcc_client.ingest.phase_order import unnamed_phases
from phcc_client.ingest.phase_times import LATE_SECONDS, between, injection, phase_at, spoken
from phcc_client.ingest.phase_words import Agent
from phcc_client.ingest.phases_file import PhasesFile
from phcc_client.ingest.record import Certainty

__all__ = ["Taken", "recognise_series"]

_SAY_SO = "say what it is in phases.yaml"


def recognise_series(
    series: Sequence[Series], override: PhasesFile | None = None, *, patient: str = "", study: str = ""
) -> tuple[Taken, ...]:
    """What each series of one patient is.

    Args:
        series: all time points of all series, those with a defect included: they count in the order.
        override: the site's own rules, which win.
        patient: as the source names it, for the rules of one patient.
        study: the StudyInstanceUID to take, where that is known; otherwise the one with the most phases.

    Returns:
        One for each series, in the same order. Phases are never mixed from two studies.
    """
    studies: dict[str, list[tuple[int, Series]]] = {}
    for index, one in sorted(enumerate(series), key=lambda pair: (pair[1].study, _stable(pair[1]))):
        studies.setdefault(one.study, []).append((index, one))
    found = {uid: _recognise_study(members, override, patient) for uid, members in sorted(studies.items())}
    counts = {uid: sum(t.used for t in taken.values()) for uid, taken in found.items()}
    meant = study if study in found else max(counts, key=lambda uid: counts[uid], default="")
    result: dict[int, Taken] = {}
    for uid, taken in found.items():
        for index, one_taken in taken.items():
            if uid != meant and one_taken.used:
                why = "another examination of this patient was chosen" + (
                    "" if study else ": it has more phases"
                )
                one_taken = replace(one_taken, used=False, why_not=why)
            result[index] = one_taken
    return tuple(result[index] for index in range(len(series)))


def _stable(series: Series) -> tuple[object, ...]:
    """An order that does not depend on how the files were found."""
    facts = series.facts
    number = -1 if facts.series_number is None else facts.series_number
    acquired = "" if facts.acquired is None else facts.acquired.isoformat()
    return (
        number,
        series.uid,
        facts.temporal_position or 0,
        facts.trigger_time_ms or 0.0,
        acquired,
        repr(facts),
    )


def _recognise_study(
    members: Sequence[tuple[int, Series]], override: PhasesFile | None, patient: str
) -> dict[int, Taken]:
    readings, agent = read_study(members)
    asides: dict[int, Taken] = {}
    proposals: dict[int, Proposal] = {}
    fixed = set()
    for position, r in enumerate(readings):
        said = None if override is None else override.phase_of(r.series.facts, patient)
        if said is not None and said[0] == "other":
            asides[r.index] = Taken("other", said[1], "sure", why_not="the site says that it is no phase")
        elif said is not None:
            fixed.add(r.index)
            proposals[r.index] = Proposal(said[0], said[1], "sure")  # type: ignore[arg-type]
            readings[position] = replace(r, aside=None)
        elif r.aside is not None:
            aside = r.aside
            asides[r.index] = Taken("other", aside.rule, aside.certainty, why_not=aside.why)
        elif (proposal := _by_words(r, agent)) is not None:
            proposals[r.index] = proposal
    for r in readings:
        # A derived image that no word names must not be counted as a time point.
        if r.worked_out and r.index not in asides | proposals:
            asides[r.index] = Taken("other", "the header's image type", "likely", why_not="a derived image")
    possible = [r for r in readings if r.index not in asides]
    sure, injected = frozenset(fixed), injection(possible)
    # Words that contradict each other must not decide what their neighbours are: they are weighed first.
    proposals = doubted(possible, proposals, sure, agent, injected)
    proposals |= unnamed_phases(possible, proposals, agent)
    proposals = doubted(possible, proposals, sure, agent, injected)
    return asides | _taken(possible, proposals, sure)


def _by_words(r: Reading, agent: Agent) -> Proposal | None:
    """What its own description says; None where it says nothing of a phase."""
    said, facts = r.said, r.series.facts
    phases = [phase for phase, _ in said.phases]
    words = dict(said.phases)
    position = facts.temporal_position or 0
    if len(phases) == facts.time_points > 1 and 1 <= position <= len(phases):
        phase = phases[position - 1]
        if [RANKS[p] for p in phases] == sorted(RANKS[p] for p in phases):
            return Proposal(phase, f"its time points are named in order, this one '{words[phase]}'", "likely")
    if set(phases) == {"delayed", "hepatobiliary"}:
        phases = ["hepatobiliary"]
    if len(phases) > 1:
        named = " and ".join(f"'{word}'" for word in words.values())
        return Proposal(None, f"description says {named}", "unsure", "that is more than one phase")
    if not phases:
        return _by_said_time(r, agent)
    phase, word = phases[0], words[phases[0]]
    rule = f"description says '{word}'"
    if phase == "pre-contrast" and said.after_contrast:
        return Proposal(phase, rule, "unsure", "it also says that contrast agent was given")
    if phase == "delayed" and said.seconds is not None and said.seconds >= LATE_SECONDS[""]:
        rule = f"{rule} and '{said.time_word}'"
        later = phase_at(said.seconds, agent)
        if later is None:
            return Proposal(phase, rule, "unsure", "so late it may be the hepatobiliary phase")
        return Proposal(later, rule, "likely")
    certainty: Certainty = "likely" if said.weak else "sure"
    return Proposal(phase, rule, certainty)


def _by_said_time(r: Reading, agent: Agent) -> Proposal | None:
    """A time after the injection that the description gives ("post Gd 1 min")."""
    said = r.said
    if said.seconds is None or not said.time_sure or said.seconds < 10.0:
        return None
    rule = f"description says '{said.time_word}'"
    phase = phase_at(said.seconds, agent)
    if phase is None:
        return Proposal(None, rule, "unsure", between(said.seconds, agent))
    return Proposal(phase, f"{rule}: {spoken(said.seconds)} after the injection", "likely")


def _taken(
    readings: Sequence[Reading], proposals: dict[int, Proposal], fixed: frozenset[int]
) -> dict[int, Taken]:
    chosen, why_not, only_likely = choose_phases(readings, proposals, fixed)
    result = {}
    for r in readings:
        proposal = proposals[r.index]
        if proposal.certainty == "unsure":
            doubt = proposal.doubt or "nothing more speaks for it"
            rule = f"{proposal.rule}, but {doubt}" if proposal.phase else f"{proposal.rule}: {doubt}"
            result[r.index] = Taken(proposal.phase, rule, "unsure", why_not=f"not sure: {_SAY_SO}")
            continue
        certainty: Certainty = "likely" if r.index in only_likely else proposal.certainty
        used = r.index in chosen.values()
        result[r.index] = Taken(proposal.phase, proposal.rule, certainty, used, why_not.get(r.index, ""))
    return result
