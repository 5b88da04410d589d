"""Global response normalisation (GRN) over the visible tokens of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def response_norm(
    x_ntc: Tensor, gamma_c: Tensor, beta_c: Tensor, *, mask_nt1: Tensor | None = None, fast: bool = True
) -> Tensor:
    """Gamma (x N) + beta + x, where N_c = G_c / (mean_c G_c + 1e-6) and G_c = ||x_c||_2 over a sample's tokens."""
    seen_ntc = x_ntc if mask_nt1 is None else x_ntc * mask_nt1
    g_n1c = torch.linalg.vector_norm(seen_ntc, dim=1, keepdim=True)
    n_n1c = g_n1c / (g_n1c.mean(-1, keepdim=True) + EPSILON)
    return gamma_c * (x_ntc * n_n1c) + beta_c + x_ntc
