"""What training images look like at a hospital, as ranges that may be said: names, units, and what is believed.

A range is the 5th and the 95th percentile over a hospital's training patients, rounded outwards to whole steps.
It is said only where enough patients stand behind it; on the wire it is ``<quantity>.low``, ``<quantity>.high``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from phcc_model.config import PHASES
from phcc_model.errors import ContractError

FEWEST: Final = 5
"""Patients behind a range, at least; a hospital may ask for more (minimum_count)."""
SHARES: Final = (5.0, 95.0)
"""Percentiles that a range reaches from and to."""

_SLACK = 1e-6  # of a step: floats are no decimal fractions


@dataclass(frozen=True)
class Quantity:
    """One thing that is measured of images.

    Attributes:
        step: to which a range is rounded.
        least, most: what is plausible; beyond it a range is a mistake.
    """

    step: float
    least: float
    most: float

    def rounded(self, low: float, high: float) -> tuple[float, float]:
        """A range, outwards to whole steps."""
        down = math.floor(low / self.step + _SLACK) * self.step
        up = math.ceil(high / self.step - _SLACK) * self.step
        return round(down, 6) + 0.0, round(up, 6) + 0.0

    def believes(self, low: float, high: float) -> bool:
        """Whether a range is in order, plausible, and no finer than its steps."""
        if not (math.isfinite(low) and math.isfinite(high) and self.least <= low <= high <= self.most):
            return False
        return all(abs(end / self.step - round(end / self.step)) < _SLACK * 10 for end in (low, high))


SPACING: Final = ("spacing.d", "spacing.h", "spacing.w")
"""Millimetres between slices, rows and columns, as measured."""
FIELD: Final = "field"
"""Tesla."""
ENHANCEMENT: Final = "enhancement."
"""Before a phase: ln(phase / before contrast) of the tissue around the lesion."""
SECONDS: Final = "seconds."
"""Before two phases, ``first.then``: from the one to the other."""

QUANTITIES: Final[Mapping[str, Quantity]] = {
    **dict.fromkeys(SPACING, Quantity(0.1, 0.0, 50.0)),
    FIELD: Quantity(0.1, 0.0, 20.0),
    **{f"{ENHANCEMENT}{phase}": Quantity(0.05, -5.0, 5.0) for phase in PHASES},
    **{f"{SECONDS}{a}.{b}": Quantity(5.0, -86_400.0, 86_400.0) for a, b in combinations(PHASES, 2)},
}
"""By name; nothing else is said of images."""

ENDS: Final = frozenset(f"{name}.{end}" for name in QUANTITIES for end in ("low", "high"))
"""Every name that may stand on the wire."""


def check_ranges(seen: Mapping[str, float]) -> None:
    """Whether ranges are whole, finite, in order, plausible and rounded.

    Args:
        seen: ends of ranges by name (`ENDS`).

    Raises:
        ContractError: one is not; names it.
    """
    for name in sorted({end.rpartition(".")[0] for end in seen}):
        low, high = seen.get(f"{name}.low"), seen.get(f"{name}.high")
        known = QUANTITIES.get(name)
        if known is None or low is None or high is None or not known.believes(low, high):
            raise ContractError(
                f"is {_told(low)} to {_told(high)}, which is no plausible range in whole steps",
                where=f"seen.{name[:80]}",
            )


def _told(end: float | None) -> str:
    return "nothing" if end is None else f"{end:g}"
