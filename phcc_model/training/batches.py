"""Cases as tensors, and the order in which an epoch takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phcc_model.cases import CaseSet


@dataclass(frozen=True)
class Batch:
    """Some cases of a `CaseSet` as tensors on one device.

    Attributes:
        volumes_bpdhw: float32, zeros where a phase is missing.
        present_bp: bool.
        lesion_bdhw: float32, 0 or 1.
        label_b: float32, 1 or 0 (-1 where unknown).
    """

    volumes_bpdhw: Tensor
    present_bp: Tensor
    lesion_bdhw: Tensor
    label_b: Tensor

    @staticmethod
    def of(cases: CaseSet, at_b: NDArray[np.intp], device: torch.device) -> Batch:
        """The cases at these positions, in this order."""

        def tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(array[at_b]).to(device).to(dtype)

        return Batch(
            tensor(cases.volumes_npdhw, torch.float32),
            tensor(cases.present_np, torch.bool),
            tensor(cases.lesion_ndhw, torch.float32),
            tensor(cases.label_n, torch.float32),
        )


def shuffled(
    cases: int, size: int, seed: int, strata_n: NDArray[np.int8] | None = None
) -> list[NDArray[np.intp]]:
    """One epoch: every case once, in batches, in an order that follows from the seed.

    The last batch may be smaller; a case that would be left by itself joins the batch before it, because
    sample weights need company. No case is ever dropped.

    Args:
        cases: how many there are.
        size: cases of a batch.
        seed: names the order.
        strata_n: class of each case; the cases of each class are then spread evenly over the epoch, and of two
            classes every batch holds its share to within one case. Chance shares would move the mean of the
            residuals from step to step, which is most of the noise while the features still differ little.
    """
    rng = np.random.default_rng(seed)
    at_n = rng.permutation(cases)
    if strata_n is not None:
        when_n = np.empty(cases)
        for stratum in np.unique(strata_n):
            members = at_n[strata_n[at_n] == stratum]
            when_n[members] = (np.arange(len(members)) + rng.random()) / len(members)
        at_n = np.argsort(when_n, kind="stable")
    cuts = list(range(size, cases, size))
    if cuts and size > 1 and cases - cuts[-1] == 1:
        cuts.pop()
    return np.split(at_n, cuts)


def in_order(cases: int, size: int) -> list[NDArray[np.intp]]:
    """Every case once, in the order in which they stand."""
    return np.split(np.arange(cases), range(size, cases, size)) if cases else []
