"""The best AUC that what was planted allows: in the long run, and of the truth on the patients drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.special import comb, ndtr

from phcc_model.config import PhantomSettings
from phcc_model.statistics import auc

from .signs import SIGNS, sign_log_ratios

_NO_SHIFT = 1e-6  # below it the two distributions of AFP and size are one, in double precision


def best_possible_auc(settings: PhantomSettings) -> dict[str, float]:
    """AUC of the likelihood ratio, by enumeration; keys name what the score may see.

    With k of n signs present and a normal shift d (AFP and size together), positives and negatives have the
    ratio's distribution sum_k P(k) N(L_k +- d^2/2, d^2), hence AUC = sum_ij P1(i) P0(j) Phi((L_i - L_j + d^2)
    / (sqrt(2) d)); ties count a half where d = 0.
    """
    afp, size = settings.afp_effect, settings.size_effect
    both = float(np.hypot(afp, size))
    return {
        "one sign": _auc(settings, 1, 0.0),
        "three signs": _auc(settings, len(SIGNS), 0.0),
        "three signs, AFP and size": _auc(settings, len(SIGNS), both),
        "AFP": _auc(settings, 0, abs(afp)),
        "AFP and size": _auc(settings, 0, both),
    }


def _auc(settings: PhantomSettings, signs: int, shift: float) -> float:
    absent, present = sign_log_ratios(settings)
    k = np.arange(signs + 1)
    ratio_k = k * present + (signs - k) * absent
    positive_k, negative_k = (
        comb(signs, k) * p**k * (1.0 - p) ** (signs - k)
        for p in (settings.sign_given_positive, settings.sign_given_negative)
    )
    gap_ij = np.subtract.outer(ratio_k, ratio_k)
    if shift > _NO_SHIFT:
        wins_ij = ndtr((gap_ij + shift**2) / (np.sqrt(2.0) * shift))
    else:
        wins_ij = (gap_ij > 1e-12) + 0.5 * (np.abs(gap_ij) <= 1e-12)
    return float(positive_k @ wins_ij @ negative_k)


def oracle_auc(rows: Iterable[Mapping[str, object]]) -> float | None:
    """AUC of the likelihood ratio among patients that were drawn; None where one class is missing.

    Args:
        rows: ``proliferative`` and ``log_likelihood_ratio`` of each patient, as in ``truth/signs.csv``.
    """
    drawn = list(rows)
    if not drawn:
        return None
    return auc(
        [int(str(row["proliferative"])) for row in drawn],
        [float(str(row["log_likelihood_ratio"])) for row in drawn],
    )
