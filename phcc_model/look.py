"""Where a network looks for a lesion by itself: one number per cell, before the softmax over the cells."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from phcc_model.layers import WEIGHT_STD, start_weights


class Samples(NamedTuple):
    """Which case and which token (phase) each of n maps is of.

    Attributes:
        case_n: int64, from 0.
        token_n: int64, from 0; all 0 where phases are joint.
        counted_bt: bool [B, T], the tokens that count in a case's score (`Classifier.counted`).
    """

    case_n: Tensor
    token_n: Tensor
    counted_bt: Tensor

    @staticmethod
    def alone(maps_n: Tensor) -> Samples:
        """Maps that are each a case's only one.

        Args:
            maps_n: [n, ...], for their number and device.
        """
        case_n = torch.arange(maps_n.shape[0], device=maps_n.device)
        return Samples(case_n, torch.zeros_like(case_n), torch.ones_like(case_n, dtype=torch.bool)[:, None])


class OwnLook(nn.Linear):
    """Each map by itself, all phases with the same weights.

    Args:
        channels: of a map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1)
        start_weights(self)

    def forward(self, normed_nkc: Tensor, _samples: Samples) -> Tensor:  # type: ignore[override]
        """What speaks for each cell, [n, cells]."""
        return super().forward(normed_nkc)[:, :, 0]


class CommonLook(nn.Module):
    """One look for all phases of a case [R]: what each shows of where the lesion is, then the mean over them.

    A lesion is brighter than the liver in one phase and as bright in the next. There a phase that looks by itself
    learns where lesions mostly lie in a crop, not where this one is (DECISIONS 53). Each phase is read with
    weights of its own, as the same brightness means something else in another phase.

    Args:
        tokens: phases.
        channels: of a map.
    """

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.weight_tc = nn.Parameter(torch.empty(tokens, channels))
        nn.init.trunc_normal_(self.weight_tc, std=WEIGHT_STD)

    def forward(self, normed_nkc: Tensor, samples: Samples) -> Tensor:
        """What speaks for each cell, [n, cells], the same for all maps of a case."""
        case_n, token_n, counted_bt = samples
        speaks_nk = torch.einsum("nkc,nc->nk", normed_nkc, self.weight_tc[token_n])
        counted_nk = torch.where(counted_bt[case_n, token_n, None], speaks_nk, 0.0)
        total_bk = counted_nk.new_zeros(counted_bt.shape[0], counted_nk.shape[1])
        total_bk = total_bk.index_add(0, case_n, counted_nk)
        return (total_bk / counted_bt.sum(dim=1, keepdim=True).clamp_min(1))[case_n]
