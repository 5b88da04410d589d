"""Features made by hand: what a reader measures with a few regions of interest, without any network.

Per phase, on the normalised crop: the mean inside the lesion less the median outside it (the liver) and the
spread inside (`KINETIC`); and with them the means of the lesion's rim and core, each less the same median
(`REGIONAL`: a reader who knows where to look). Then the changes from each phase to the next that follows. A
phase that is missing gives no number (NaN).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_model.cases import CaseSet
from phcc_model.errors import DatasetError
from phcc_model.pooling import lesion_zones

KINETIC, REGIONAL = 2, 4
"""How many numbers of each phase count: mean and spread; rim and core as well."""


def kinetic_features(cases: CaseSet, of_phase: int = KINETIC) -> NDArray[np.float64]:
    """All features, one row per case; NaN where a phase is missing.

    Args:
        cases: the cases.
        of_phase: `KINETIC` or `REGIONAL`.
    """
    curve_npk = np.stack([_curves(cases, i)[:, :of_phase] for i in range(len(cases))])
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
    """Axes: phase; mean, spread, rim, core."""
    inside = cases.lesion_ndhw[at] > 0
    if not inside.any():
        inside = np.ones_like(inside)
    outside = ~inside if (~inside).any() else inside
    rim, core = (zone[0].numpy() for zone in lesion_zones(torch.from_numpy(inside[None])))
    curves = np.full((cases.present_np.shape[1], 4), np.nan)
    for phase in np.flatnonzero(cases.present_np[at]):
        volume = cases.volumes_npdhw[at, phase].astype(np.float64)
        liver = np.median(volume[outside])
        means = [volume[zone].mean() - liver if zone.any() else np.nan for zone in (inside, rim, core)]
        curves[phase] = means[0], volume[inside].std(), means[1], means[2]
    return curves
