"""How far a run has come, and how long the rest will take.

The seconds of a round differ by stage, so the mean of each stage is kept apart; a stage that has not been
seen yet is taken to cost what the others cost on average.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Pace:
    """Rounds still to do per stage, and the mean seconds that a round of it took.

    Attributes:
        planned: rounds of each stage in the whole run, over all arms.
    """

    planned: dict[str, int]
    _done: dict[str, int] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def round_done(self, stage: str, seconds: float) -> None:
        """Count one finished round."""
        self._done[stage] = self._done.get(stage, 0) + 1
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def skip(self, stage: str, rounds: int) -> None:
        """Rounds that will not be run after all (early stopping, or an arm found finished)."""
        self.planned[stage] = max(self._done.get(stage, 0), self.planned.get(stage, 0) - rounds)

    @property
    def done(self) -> int:
        """Rounds finished."""
        return sum(self._done.values())

    @property
    def total(self) -> int:
        """Rounds planned."""
        return max(sum(self.planned.values()), self.done)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None before the first round has been timed."""
        if not self.done:
            return None
        overall = sum(self._seconds.values()) / self.done
        left = 0.0
        for stage, rounds in self.planned.items():
            done = self._done.get(stage, 0)
            mean = self._seconds[stage] / done if done else overall
            left += max(0, rounds - done) * mean
        return left


def in_words(seconds: float | None) -> str:
    """Seconds as a person would say them: ``40 s``, ``3 min``, ``1 h 20 min``."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
