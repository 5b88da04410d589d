"""From the sites' changes to one new model: streaming, two models of memory whatever the number of sites.

The accumulator is one flat float32 array; a reply's change is a second, and is dropped once folded. Floating
point addition depends on its order in the last bits, so whoever wants one digest from every run folds the
sites in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

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


RuleState = Mapping[str, Float]
"""What a rule keeps from round to round, as flat arrays by name (FedOpt's moments, SCAFFOLD's control)."""


class ServerRule(Protocol):
    """How the mean change becomes the next model.

    FedProx changes the site's loss only and is FedAvg here; norms that stay at their site never reach this
    place (the manifest calls them local).
    """

    def start(self, size: int) -> RuleState:
        """The state before the first round of a stage, for a model of this many shared float32 weights."""
        ...

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """The next weights and state; `mean_delta` may be overwritten, `base` is not."""
        ...


class FedAvg:
    """The mean itself: w + mean change, server learning rate 1 [F] (McMahan et al., AISTATS 2017)."""

    def start(self, size: int) -> RuleState:
        """Nothing is kept."""
        del size
        return {}

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """Base plus mean change, in the memory of the latter."""
        np.add(base, mean_delta, out=mean_delta)
        return mean_delta, state


def server_rule(settings: FederationSettings) -> ServerRule:
    """The rule of a study's algorithm."""
    rules: dict[str, ServerRule] = {"fedavg": FedAvg(), "fedprox": FedAvg()}
    return rules[settings.algorithm]


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
