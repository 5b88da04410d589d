"""What is known of a case's images beside their voxels: spacing, field strength, time, enhancement.

Measured alike in training and in prediction (`measure`), so that the one can be held against the other. Here no
image is read: a site's card is made from what was written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict

from phcc_model.config import PHASES, Phase
from phcc_model.contract import ranges


class PhaseFacts(BaseModel):
    """One phase's image; None where the source does not say.

    Attributes:
        spacing_mm_dhw: as measured, (slice, row, column).
        field_strength_t: of the scanner, tesla.
        seconds: after the first image of the examination.
        enhancement: natural logarithm of the ratio of the tissue around the lesion to that before contrast.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    phase: Phase
    spacing_mm_dhw: tuple[float, float, float] | None = None
    field_strength_t: float | None = None
    seconds: float | None = None
    enhancement: float | None = None


Facts = tuple[PhaseFacts, ...]


def values_of(facts: Facts) -> Iterator[tuple[str, float]]:
    """Every measured value under the name of its quantity (see `ranges.QUANTITIES`)."""
    for one in facts:
        yield from zip(ranges.SPACING, one.spacing_mm_dhw or (), strict=False)
        if one.field_strength_t is not None:
            yield ranges.FIELD, one.field_strength_t
        if one.enhancement is not None:
            yield f"{ranges.ENHANCEMENT}{one.phase}", one.enhancement
    timed = [(one.phase, one.seconds) for one in facts if one.seconds is not None]
    known = sorted(timed, key=lambda pair: PHASES.index(pair[0]))
    for (first, before), (then, after) in combinations(known, 2):
        yield f"{ranges.SECONDS}{first}.{then}", after - before


def ranges_of(patients: Mapping[str, Sequence[Facts]], fewest: int) -> dict[str, float]:
    """What patients' images look like: the ends of each quantity's range, where enough patients stand behind it.

    A patient with several images counts once, with its smallest value for the low end and its largest for the
    high one.

    Args:
        patients: of each patient the facts of every lesion.
        fewest: patients behind a range, at least; never fewer than `ranges.FEWEST`.

    Returns:
        Ends by name (`ranges.ENDS`); a range that cannot be believed is left out.
    """
    lows: dict[str, dict[str, float]] = {}
    highs: dict[str, dict[str, float]] = {}
    for patient, cases in patients.items():
        for name, value in (pair for facts in cases for pair in values_of(facts)):
            smallest, largest = lows.setdefault(name, {}), highs.setdefault(name, {})
            smallest[patient] = min(value, smallest.get(patient, value))
            largest[patient] = max(value, largest.get(patient, value))
    ends: dict[str, float] = {}
    for name, quantity in ranges.QUANTITIES.items():
        if len(lows.get(name, ())) < max(fewest, ranges.FEWEST):
            continue
        low = float(np.percentile(list(lows[name].values()), ranges.SHARES[0]))
        high = float(np.percentile(list(highs[name].values()), ranges.SHARES[1]))
        down, up = quantity.rounded(low, max(low, high))
        if quantity.believes(down, up):
            ends |= {f"{name}.low": down, f"{name}.high": up}
    return ends
