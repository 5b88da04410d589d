"""How much better a model is on the patients whom it learned from than on others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phcc_model.statistics.delong import AucEstimate


@dataclass(frozen=True)
class Gap:
    """AUC in training minus AUC in the test; None, with the reason, where not defined."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None


def auc_gap(training: AucEstimate, test: AucEstimate) -> Gap:
    """The difference of two AUCs of different patients, with an interval from their own ones.

    MOVER (Zou & Donner, Statistics in Medicine 2008;27:1693-1702) for independent estimates: it keeps the
    intervals' asymmetry, and holds where training patients are ranked without an error.
    """
    for name, side in (("training", training), ("test", test)):
        if side.auc is None or side.low is None or side.high is None:
            return Gap(None, None, None, f"{name}: {side.reason or 'no AUC'}")
    assert training.auc is not None and training.low is not None and training.high is not None  # noqa: PT018
    assert test.auc is not None and test.low is not None and test.high is not None  # noqa: PT018
    value = training.auc - test.auc
    low = value - math.hypot(training.auc - training.low, test.high - test.auc)
    high = value + math.hypot(training.high - training.auc, test.auc - test.low)
    return Gap(value, low, high)
