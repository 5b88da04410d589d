"""How far several seeds have come, told from their journals, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from phcc_model.contract import keys
from phcc_server.journal import Event
from phcc_server.pace import in_words

SILENCE_S = 30.0
"""Without a finished stage for so long, a round is told."""

Stage = tuple[str, str]
"""An arm and its stage."""


@dataclass
class _Seed:
    """One seed's rounds: planned by its journal, and still to do."""

    planned: dict[Stage, int] = field(default_factory=dict)
    left: dict[Stage, int] = field(default_factory=dict)
    spent: dict[Stage, float] = field(default_factory=dict)
    ended: bool = False


class SeedsPace:
    """Turns the events of all seeds into lines for people: one for each finished stage of an arm.

    Args:
        seeds: all that are to run.
        at_once: how many run side by side.
        say: takes a line.
        clock: seconds, from any start.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        at_once: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seeds = {seed: _Seed() for seed in seeds}
        self._at_once, self._say, self._clock = at_once, say, clock
        self._began = self._said = clock()
        self._seconds: dict[str, list[float]] = {stage: [] for stage in keys.STAGES}

    def started(self, seed: int) -> None:
        """A seed's process was started."""
        self._tell(seed, "prepares its patients")

    def event(self, seed: int, event: Event) -> None:
        """One event of a seed's journal."""
        fields = event.fields
        if event.kind == "plan":
            one = self._seeds[seed]
            one.planned = {(a["arm"], s): int(a[s]) for a in fields["arms"] for s in keys.STAGES}
            one.left = dict(one.planned)
            names = [a["arm"] for a in fields["arms"]]
            self._tell(seed, f"{len(names)} arm{'' if len(names) == 1 else 's'}: {', '.join(names)}")
        elif event.kind == "round":
            self._round(seed, fields)
        elif event.kind == "note":
            self._tell(seed, str(fields.get("text", "")))

    def ended(self, seed: int, failure: str | None) -> None:
        """A seed's process is gone."""
        one = self._seeds[seed]
        one.ended, one.left = True, {}
        done = sum(other.ended for other in self._seeds.values())
        outcome = "finished" if failure is None else f"FAILED: {failure}"
        self._tell(seed, f"{outcome}; {done} of {len(self._seeds)} seeds ended", with_left=True)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end of all seeds; None before the first round has been timed."""
        timed = [s for seconds in self._seconds.values() for s in seconds]
        if not timed:
            return None
        overall = sum(timed) / len(timed)
        mean = {stage: sum(s) / len(s) if s else overall for stage, s in self._seconds.items()}
        known = [one for one in self._seeds.values() if one.planned]
        usual = sum(_cost(one.planned, mean) for one in known) / max(1, len(known))
        open_ones = [one for one in self._seeds.values() if not one.ended]
        # A seed that has not said what it will run is taken to be like the others.
        left = [_cost(one.left, mean) if one.planned else usual for one in open_ones]
        return max([sum(left) / self._at_once, *left], default=0.0)

    def _round(self, seed: int, fields: dict[str, Any]) -> None:
        one, here = self._seeds[seed], (str(fields["arm"]), str(fields["stage"]))
        seconds, done = float(fields["seconds"]), int(fields["round"]) + 1
        self._seconds.setdefault(here[1], []).append(seconds)
        one.spent[here] = one.spent.get(here, 0.0) + seconds
        for place in one.left:
            # Arms run in the order of the plan: what lies before this round is done, shared or given up.
            if place == here:
                one.left[place] = max(0, one.planned[place] - done)
                break
            one.left[place] = 0
        if (
            one.left.get(here, 0) == 0
            or self._clock() - self._said > SILENCE_S
            or fields["status"] != "COMPLETE"
        ):
            self._tell(seed, _in_words(fields, one.planned.get(here, done), one.spent[here]), with_left=True)

    def _tell(self, seed: int, text: str, *, with_left: bool = False) -> None:
        self._said = self._clock()
        end = ""
        if with_left:
            left = self.seconds_left
            rest = "" if left is None else f", about {in_words(left)} left"
            end = f"  [{in_words(self._said - self._began)} gone{rest}]"
        self._say(f"seed {seed}: {text}{end}")


def _in_words(fields: dict[str, Any], planned: int, seconds: float) -> str:
    numbers = "".join(
        f"  {label} {value:.3f}"
        for key, label in (("validation_loss", "validation"), ("auc", "AUC"))
        if isinstance(value := fields.get(key), float)
    )
    status = "" if fields["status"] == "COMPLETE" else f"  {fields['status']}"
    at = f"{int(fields['round']) + 1}/{planned}"
    return f"{fields['arm']}  {fields['stage']} {at}{numbers}{status}  {in_words(seconds)}"


def _cost(rounds: dict[Stage, int], mean: dict[str, float]) -> float:
    return sum(count * mean.get(stage, 0.0) for (_, stage), count in rounds.items())
