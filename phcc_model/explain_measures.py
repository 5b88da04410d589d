"""Does a heat map lie where it should, and does it say anything of the network at all?

Where: the share of a map that lies within a region, against the share of the volume; and the pointing game
[F: Zhang et al., ECCV 2016], whether its strongest place lies within. What of: the same figures of networks whose
weights were drawn anew from the top down [F: Adebayo et al., NeurIPS 2018]; a map that stays the same shows
the images, not what was learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.stats import bootstrap

from phcc_model.classifier import Classifier

REPLICATES = 2000


@dataclass(frozen=True)
class Place:
    """Where one map lies; shares are None where the map is empty.

    Attributes:
        volume: share of the region in the volume.
        mass: share of the map that lies within the region.
        pointed: whether the map's strongest place, the first of several, lies within.
    """

    volume: float
    mass: float | None
    pointed: bool | None

    @property
    def concentration(self) -> float | None:
        """How many times denser the map is within the region than on the whole; 1 is a flat map."""
        return None if self.mass is None or self.volume == 0 else self.mass / self.volume


def place_of(map_dhw: NDArray[np.float32], region_dhw: NDArray[np.bool_]) -> Place:
    """Hold a map against a region.

    Args:
        map_dhw: at least zero.
        region_dhw: True within.

    Raises:
        ValueError: the shapes differ.
    """
    if map_dhw.shape != region_dhw.shape:
        raise ValueError(f"a map of {map_dhw.shape} and a region of {region_dhw.shape}")
    volume = float(region_dhw.mean())
    total = float(map_dhw.sum(dtype=np.float64))
    if total <= 0:
        return Place(volume, None, None)
    mass = float(map_dhw[region_dhw].sum(dtype=np.float64)) / total
    return Place(volume, mass, bool(region_dhw.flat[int(map_dhw.argmax())]))


def with_rim(
    lesion_dhw: NDArray[np.bool_], spacing_mm: tuple[float, float, float], rim_mm: float
) -> NDArray[np.bool_]:
    """A lesion and all that lies within `rim_mm` of it; an empty one stays empty.

    Args:
        lesion_dhw: True within.
        spacing_mm: along D, H, W.
        rim_mm: at least zero.
    """
    if not lesion_dhw.any():
        return lesion_dhw.copy()
    return np.asarray(distance_transform_edt(~lesion_dhw, sampling=spacing_mm) <= rim_mm)


def redrawn(trained: Classifier, fresh: Classifier, depth: int) -> Classifier:
    """A network trained below and drawn anew from a depth upwards.

    Args:
        trained: stays as it is.
        fresh: of the same study, at its start; its parameters from `depth` upwards are changed for the trained
            ones below it. The statistics of its norm over cases are the start's too.
        depth: as in `Classifier.parameter_depths`: 0 draws everything anew, `encoder.layers` only the head.
    """
    learnt = dict(trained.named_parameters())
    depths = fresh.parameter_depths()
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if depths[name] < depth:
                parameter.copy_(learnt[name])
    return fresh.eval()


@dataclass(frozen=True)
class Interval:
    """A mean, or a ratio of means, over patients with a percentile interval; None where not defined."""

    value: float | None
    low: float | None
    high: float | None
    patients: int


def mean_interval(
    values: NDArray[np.float64], generator: np.random.Generator, confidence: float = 0.95
) -> Interval:
    """Mean over patients, one value of each; NaN where a patient has none."""
    values = values[np.isfinite(values)]

    def mean(sample: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(sample.mean(axis=axis))

    return _bootstrapped((values,), mean, generator, confidence)


def ratio_interval(
    above: NDArray[np.float64],
    below: NDArray[np.float64],
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> Interval:
    """Mean of one over mean of the other, of the same patients; NaN where a patient lacks one."""
    both = np.isfinite(above) & np.isfinite(below)
    above, below = above[both], below[both]

    def ratio(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(a.mean(axis=axis) / np.maximum(b.mean(axis=axis), np.finfo(float).tiny))

    if not len(below) or below.mean() <= 0:
        return Interval(None, None, None, len(below))
    return _bootstrapped((above, below), ratio, generator, confidence)


def _bootstrapped(
    samples: tuple[NDArray[np.float64], ...],
    statistic: Callable[..., NDArray[np.float64]],
    generator: np.random.Generator,
    confidence: float,
) -> Interval:
    """SciPy's percentile bootstrap over patients; without an interval where there is one patient only."""
    count = len(samples[0])
    if count == 0:
        return Interval(None, None, None, 0)
    value = float(statistic(*samples))
    if count == 1:
        return Interval(value, None, None, 1)
    found = bootstrap(
        samples,
        statistic,
        n_resamples=REPLICATES,
        paired=len(samples) > 1,
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        random_state=generator,
    ).confidence_interval
    return Interval(value, float(found.low), float(found.high), count)
