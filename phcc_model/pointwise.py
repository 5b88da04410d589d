"""Layers that mix the channels of each token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pointwise(x_ntc: Tensor, weight_oc: Tensor, bias_o: Tensor | None, *, fast: bool = True) -> Tensor:
    """X W^T + b for every token."""
    return F.linear(x_ntc, weight_oc, bias_o)
