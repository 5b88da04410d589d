"""What every statistic starts from: labels of 0 and 1, finite scores, and the patients behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phcc_model.errors import DataError

FEW_PATIENTS = 20
"""Fewer patients than this in a class: an interval is wide and coarse."""

TOO_FEW_PATIENTS = 10
"""Fewer patients than this in a class: the figure says nothing by itself."""

Patients = Sequence[str] | NDArray[np.str_] | NDArray[np.intp] | None
"""The patient of each case; None where every case is a patient of its own."""


@dataclass(frozen=True)
class Sample:
    """Scored cases, checked.

    Axes: n cases.

    Attributes:
        label_n: 1 positive, 0 negative.
        score_n: float64, finite; the higher, the more likely positive.
        patient_n: number of each case's patient, 0 to patients - 1.
    """

    label_n: NDArray[np.bool_]
    score_n: NDArray[np.float64]
    patient_n: NDArray[np.intp]

    @property
    def n(self) -> int:
        """Cases."""
        return len(self.label_n)

    @property
    def n_pos(self) -> int:
        """Positive cases."""
        return int(self.label_n.sum())

    @property
    def patients(self) -> int:
        """Patients, each counted once."""
        return len(np.unique(self.patient_n))

    @property
    def clustered(self) -> bool:
        """Whether some patient has several cases."""
        return self.patients < self.n

    @property
    def reason(self) -> str | None:
        """Why nothing that compares the two classes is defined, or None where it is."""
        if self.n == 0:
            return "no cases"
        if self.n_pos in (0, self.n):
            kind = "negative" if self.n_pos == 0 else "positive"
            return f"one class only: all {self.n} cases are {kind}"
        return None

    def patients_of(self, positive: bool) -> int:
        """Patients with at least one case of this class."""
        return len(np.unique(self.patient_n[self.label_n == positive]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Plain words where a class is too small to carry what is said about it."""
        found: list[str] = []
        if self.reason is None:
            for name, positive in (("positive", True), ("negative", False)):
                count = self.patients_of(positive)
                patients = "patient" if count == 1 else "patients"
                if count < TOO_FEW_PATIENTS:
                    found.append(f"only {count} {name} {patients}: too few to say anything")
                elif count < FEW_PATIENTS:
                    found.append(f"only {count} {name} {patients}: read the interval, not the figure")
        return tuple(found)


def sample(label_n: ArrayLike, score_n: ArrayLike, patient_n: Patients = None) -> Sample:
    """Check scored cases.

    Args:
        label_n: 0 or 1 for each case.
        score_n: a finite score for each case.
        patient_n: the patient of each case; without it every case is a patient of its own.

    Raises:
        DataError: lengths differ, a label is neither 0 nor 1, or a score is not finite.
    """
    label = np.asarray(label_n)
    score = np.asarray(score_n, dtype=np.float64)
    patient = np.arange(len(label)) if patient_n is None else np.asarray(patient_n)
    if label.ndim != 1 or label.shape != score.shape or label.shape != patient.shape:
        raise DataError(
            f"{label.shape} labels, {score.shape} scores and {patient.shape} patients do not belong together",
            where="scored cases",
            remedy="Give one label, one score and one patient for each case",
        )
    if not np.isin(label, (0, 1)).all():
        raise DataError(
            "a label is neither 0 nor 1",
            where="scored cases",
            remedy="Leave out the cases whose label is unknown",
        )
    if not np.isfinite(score).all():
        raise DataError(
            f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are not finite",
            where="scored cases",
            remedy="Leave out the cases without a score, and say how many they were",
        )
    _, number = np.unique(patient, return_inverse=True)
    return Sample(label.astype(np.bool_), score, number.astype(np.intp))
