"""Prepared cases: what training sees of a site's patients, and all that it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN_LABEL = -1


@dataclass(frozen=True)
class CaseSet:
    """The cases of one site (or of one split of it), stacked.

    Axes: n cases, p phases in the study's order, d, h, w the crop's grid.

    Attributes:
        case: name of each case, unique within the site.
        patient: the patient of each case; two lesions of one patient are two cases.
        volumes_npdhw: float16, normalised; zeros where a phase is missing.
        present_np: True where the phase is there.
        lesion_ndhw: uint8, 1 inside the lesion's box or mask.
        label_n: int8, 1 proliferative, 0 not, -1 unknown.
        afp_n: float32, alpha-fetoprotein in ng/mL, NaN where unknown.
    """

    case: tuple[str, ...]
    patient: tuple[str, ...]
    volumes_npdhw: NDArray[np.float16]
    present_np: NDArray[np.bool_]
    lesion_ndhw: NDArray[np.uint8]
    label_n: NDArray[np.int8]
    afp_n: NDArray[np.float32]

    def __post_init__(self) -> None:
        n, p = self.present_np.shape
        grid = self.volumes_npdhw.shape[2:]
        lengths = {len(self.case), len(self.patient), len(self.label_n), len(self.afp_n), n}
        if (
            len(lengths) != 1
            or self.volumes_npdhw.shape[:2] != (n, p)
            or self.lesion_ndhw.shape != (n, *grid)
        ):
            raise ValueError("the parts of a CaseSet disagree in their shapes")

    def __len__(self) -> int:
        return len(self.case)

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> CaseSet:
        """The cases at these positions, in this order."""
        at = np.asarray(indices, dtype=np.intp)
        return CaseSet(
            case=tuple(self.case[i] for i in at),
            patient=tuple(self.patient[i] for i in at),
            volumes_npdhw=self.volumes_npdhw[at],
            present_np=self.present_np[at],
            lesion_ndhw=self.lesion_ndhw[at],
            label_n=self.label_n[at],
            afp_n=self.afp_n[at],
        )

    @property
    def labelled(self) -> CaseSet:
        """The cases whose label is known."""
        return self.take(np.flatnonzero(self.label_n != UNKNOWN_LABEL))

    @staticmethod
    def join(parts: Sequence[CaseSet]) -> CaseSet:
        """Several sets as one, in the order given.

        Raises:
            ValueError: there is no part, or the grids differ.
        """
        return CaseSet(
            case=tuple(c for part in parts for c in part.case),
            patient=tuple(p for part in parts for p in part.patient),
            volumes_npdhw=np.concatenate([part.volumes_npdhw for part in parts]),
            present_np=np.concatenate([part.present_np for part in parts]),
            lesion_ndhw=np.concatenate([part.lesion_ndhw for part in parts]),
            label_n=np.concatenate([part.label_n for part in parts]),
            afp_n=np.concatenate([part.afp_n for part in parts]),
        )
