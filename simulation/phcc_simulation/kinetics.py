"""Kinetic features made by hand: what a reader measures with two regions of interest, without any network.

Per phase, on the normalised crop: the mean inside the lesion less the median outside it (the liver), the spread
inside, and the means of the lesion's outer shell and of its core, each less the same median. Then the changes
from each phase to the next that follow. A phase that is missing gives no number (NaN).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phcc_model.cases import CaseSet
from phcc_model.errors import DatasetError

SHELL_FROM, CORE_TO = 0.75, 0.55
"""[R] Shares of the way from a lesion's middle to its border: the shell begins, the core ends."""


def kinetic_features(cases: CaseSet) -> NDArray[np.float64]:
    """All features, one row per case; NaN where a phase is missing."""
    curve_npk = np.stack([_curves(cases, i) for i in range(len(cases))])
    change_nqk = np.diff(curve_npk, axis=1)
    return np.concatenate([curve_npk.reshape(len(cases), -1), change_nqk.reshape(len(cases), -1)], axis=1)


def ratio_feature(cases: CaseSet, phases: tuple[str, ...]) -> NDArray[np.float64]:
    """One number per case: the lesion-to-liver contrast of the arterial less that of the portal venous phase.

    On logarithms (``log-ratio``, ``own-liver``) this is the log of a ratio of two ratios.

    Args:
        cases: the cases.
        phases: names of their phases.

    Raises:
        DatasetError: the study lacks one of the two phases.
    """
    if not {"arterial", "portal-venous"} <= set(phases):
        raise DatasetError(
            "the ratio needs the arterial and the portal venous phase",
            where="arm ratio",
            remedy="Leave the arm out",
        )
    curve_npk = np.stack([_curves(cases, i) for i in range(len(cases))])
    early, late = (curve_npk[:, phases.index(p), :1] for p in ("arterial", "portal-venous"))
    return np.asarray(early - late, dtype=np.float64)


def _curves(cases: CaseSet, at: int) -> NDArray[np.float64]:
    """Axes: phase; mean, spread, shell, core."""
    inside = cases.lesion_ndhw[at] > 0
    if not inside.any():
        inside = np.ones_like(inside)
    depth = _depth(inside)
    outside = ~inside if (~inside).any() else inside
    regions = (inside, inside & (depth >= SHELL_FROM), inside & (depth <= CORE_TO))
    curves = np.full((cases.present_np.shape[1], 4), np.nan)
    for phase in np.flatnonzero(cases.present_np[at]):
        volume = cases.volumes_npdhw[at, phase].astype(np.float64)
        liver = np.median(volume[outside])
        mean, shell, core = (volume[r].mean() - liver if r.any() else np.nan for r in regions)
        curves[phase] = mean, volume[inside].std(), shell, core
    return curves


def _depth(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far from the middle of the box around the lesion: 1 on the ellipsoid that fills the box."""
    squares = np.zeros(inside.shape)
    for axis, size in enumerate(inside.shape):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        middle, half = (hit[0] + hit[-1]) / 2, (hit[-1] - hit[0] + 1) / 2
        along = ((np.arange(size) - middle) / half) ** 2
        squares += along.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(np.sqrt(squares), dtype=np.float64)
