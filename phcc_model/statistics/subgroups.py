"""The AUC of parts of the patients, and the rule by which a part is too small to say anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from phcc_model.errors import DataError
from phcc_model.statistics.delong import AucEstimate, auc_interval
from phcc_model.statistics.meta import heterogeneity
from phcc_model.statistics.samples import TOO_FEW_PATIENTS, Patients, sample

UNKNOWN = "unknown"
"""The group of the cases of which nothing is known."""


@dataclass(frozen=True)
class Subgroup:
    """One part of the patients.

    Attributes:
        name: of the part.
        estimate: its AUC with interval, also where the part is small.
        too_small: why nothing can be said of it; None where something can.
    """

    name: str
    estimate: AucEstimate
    too_small: str | None


@dataclass(frozen=True)
class Subgroups:
    """All parts by one trait.

    Attributes:
        groups: by name, unknown last.
        p: of no difference between the groups that are large enough (Cochran's Q on logit AUCs); None with
            fewer than two of them. Not corrected for the number of traits looked at.
        compared: how many groups that p-value compares.
    """

    groups: tuple[Subgroup, ...]
    p: float | None
    compared: int


def assess_subgroups(
    label_n: ArrayLike,
    score_n: ArrayLike,
    group_n: Sequence[str],
    patient_n: Patients = None,
    *,
    confidence: float = 0.95,
) -> Subgroups:
    """The AUC of every group, with a warning where one is too small.

    A group says nothing with fewer than `TOO_FEW_PATIENTS` patients in either class: an AUC of ten against ten
    has a 95 % interval about 0.45 wide. The figure is given all the same, so that nobody is led to work it out
    by hand, but it takes no part in the comparison.

    Raises:
        DataError: the labels or scores cannot be used, or there is not one group for each case.
    """
    cases = sample(label_n, score_n, patient_n)
    group = np.array([name or UNKNOWN for name in group_n], dtype=np.str_)
    if len(group) != cases.n:
        raise DataError(
            f"{len(group)} groups and {cases.n} cases do not belong together",
            where="subgroups",
            remedy="Give one group for each case",
        )
    found: list[Subgroup] = []
    for name in sorted(set(group.tolist()), key=lambda text: (text == UNKNOWN, text)):
        of = group == name
        estimate = auc_interval(
            cases.label_n[of], cases.score_n[of], cases.patient_n[of], confidence=confidence
        )
        part = sample(cases.label_n[of], cases.score_n[of], cases.patient_n[of])
        fewest = min(part.patients_of(positive=True), part.patients_of(positive=False))
        why = part.reason
        if why is None and fewest < TOO_FEW_PATIENTS:
            rarer = "positive" if part.patients_of(positive=True) == fewest else "negative"
            why = f"only {fewest} {rarer} {'patient' if fewest == 1 else 'patients'}"
        found.append(Subgroup(name, estimate, None if why is None else f"too small to say anything: {why}"))
    large = [one.estimate for one in found if one.too_small is None and one.name != UNKNOWN]
    compared = heterogeneity(large, confidence=confidence)
    return Subgroups(tuple(found), *((None, len(large)) if compared is None else compared))
