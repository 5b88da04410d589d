"""From the sites' changes to one new model: streaming, two models of memory whatever the number of sites.

The accumulator is one flat float32 array; a reply's change is a second, and is dropped once folded. Floating
point addition depends on its order in the last bits, so whoever wants one digest from every run folds the
sites in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from phcc_model.config import FederationSettings
from phcc_model.contract.manifest import Array

Float = NDArray[np.float32]

CHUNK = 1 << 17
"""Values folded at a time: the product of weight and change stays in the second-level cache (512 KiB)."""


class Aggregate:
    """The weighted mean of changes, folded in one by one: sum_i w_i d_i / sum_i w_i.

    Args:
        size: length of every change.
    """

    def __init__(self, size: int) -> None:
        self._sum = np.zeros(size, dtype=np.float32)
        self._part = np.empty(min(size, CHUNK), dtype=np.float32)
        self._replaced: dict[str, Array] = {}
        self.weight = 0.0
        self.count = 0

    def fold(self, delta: Float, weight: float, replaced: Mapping[str, Array] | None = None) -> None:
        """Add one site's change.

        Args:
            delta: float32, 1-D, of the aggregate's size; already checked, and not kept.
            weight: positive and finite.
            replaced: the site's flat arrays of other dtypes (counters); of these the largest value of each
                element is kept, which does not depend on the order either.

        Raises:
            ValueError: the shape, dtype or weight is not as above: a caller that has not checked.
        """
        if delta.shape != self._sum.shape or delta.dtype != np.float32:
            raise ValueError(f"cannot fold {delta.dtype} {delta.shape} into float32 {self._sum.shape}")
        if not (weight > 0.0 and np.isfinite(weight)):
            raise ValueError(f"weight must be positive and finite, not {weight}")
        factor = np.float32(weight)
        for start in range(0, delta.size, CHUNK):
            total = self._sum[start : start + CHUNK]
            part = self._part[: total.size]
            np.multiply(delta[start : start + CHUNK], factor, out=part)
            np.add(total, part, out=total)
        for kind, values in (replaced or {}).items():
            held = self._replaced.get(kind)
            self._replaced[kind] = values.copy() if held is None else np.maximum(held, values)
        self.weight += float(factor)
        self.count += 1

    def mean(self) -> Float:
        """The weighted mean; ends the aggregate, whose memory it takes over.

        Raises:
            ValueError: nothing has been folded, or the mean was taken already.
        """
        if self.weight == 0.0:
            raise ValueError("there is nothing to take the mean of")
        mean, self._sum = self._sum, np.empty(0, dtype=np.float32)
        mean /= np.float32(self.weight)
        self.weight = 0.0
        return mean

    @property
    def replaced(self) -> dict[str, Array]:
        """The flat arrays of other dtypes, by dtype."""
        return self._replaced


def site_weight(settings: FederationSettings, patients: int) -> float:
    """What a site's change counts: its patients, one, or its patients up to a cap.

    Args:
        settings: of the study.
        patients: that the site trained on; cases would let one patient with ten lesions count tenfold.

    Raises:
        ValueError: there is no patient.
    """
    if patients < 1:
        raise ValueError(f"a site without patients has no weight ({patients})")
    if settings.weighting == "equal":
        return 1.0
    return float(min(patients, settings.cap) if settings.weighting == "capped" else patients)


def pooled_loss(parts: Iterable[tuple[float, int]]) -> float | None:
    """Mean loss over all cases of all sites.

    Args:
        parts: mean loss and number of cases of each site.

    Returns:
        None where there is no case at all.
    """
    listed = sorted(parts)  # one order, one result
    cases = sum(n for _, n in listed)
    return sum(loss * n for loss, n in listed) / cases if cases else None
