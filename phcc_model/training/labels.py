"""Which labels a site trains on, and what each class weighs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phcc_model.cases import CaseSet
from phcc_model.seeds import derive_seed

HEAVIEST_CLASS = 10.0
"""[R] No class weighs more than this many times the other, however rare it is at a site."""


def positive_weight(label_n: NDArray[np.int8], rule: str) -> float:
    """What a positive case weighs against a negative one in the loss.

    Args:
        label_n: the site's labels, 0 or 1.
        rule: ``balanced``: negatives over positives, within [1 / 10, 10], and 1 with one class only (there is
            nothing to balance); ``none``: 1.
    """
    positives = int((label_n == 1).sum())
    negatives = len(label_n) - positives
    if rule == "none" or not positives or not negatives:
        return 1.0
    return min(max(negatives / positives, 1.0 / HEAVIEST_CLASS), HEAVIEST_CLASS)


def label_subset(cases: CaseSet, fraction: float, seed: int, site: str) -> CaseSet:
    """The share of the labelled cases that a study with few labels may use: by patient, stratified by label.

    A patient is positive if one of the patient's cases is. Of each class the nearest whole number of patients
    is kept, at least one. A smaller fraction is a subset of a larger one, and the order of the cases is kept
    and does not matter.

    Args:
        cases: cases whose label is known.
        fraction: share of the patients, in (0, 1].
        seed: the study's seed.
        site: the site's name.
    """
    if fraction >= 1.0:
        return cases
    positive: dict[str, bool] = {}
    for patient, label in zip(cases.patient, cases.label_n, strict=True):
        positive[patient] = positive.get(patient, False) or label == 1
    kept: set[str] = set()
    for group in (True, False):
        members = [patient for patient, is_positive in positive.items() if is_positive == group]
        members.sort(key=lambda patient: (derive_seed(seed, "label-subset", site, patient), patient))
        kept.update(members[: max(1, math.floor(fraction * len(members) + 0.5))])
    return cases.take([i for i, patient in enumerate(cases.patient) if patient in kept])
