"""Global response normalisation (GRN), and the second half of a block in one exact, fast function.

[F] Woo et al., ConvNeXt V2, CVPR 2023: G_c = ||y_c||_2 over the tokens of a sample,
N_c = G_c / (mean_c G_c + 1e-6), GRN(y) = gamma (y N) + beta + y.

That is y times one number per sample and channel, s = 1 + gamma N, plus beta. So GRN needs no pass over the
widest tensor of the block: s goes into the weight that follows, W (y s + beta) + b = (W s) y + (W beta + b);
and on the way back the products g^T y of each sample, needed for W's gradient anyhow, hold the gradient by s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6
TINY = 1e-12


def response_norm(y_nte: Tensor, gamma_e: Tensor, beta_e: Tensor, mask_nt1: Tensor | None = None) -> Tensor:
    """GRN as it is published, with statistics over the visible tokens of each sample.

    Args:
        y_nte: tokens.
        gamma_e: gain.
        beta_e: offset.
        mask_nt1: 1 at visible tokens, 0 at masked ones; None: all are visible.

    Returns:
        Tokens [n, t, e].
    """
    seen_nte = y_nte if mask_nt1 is None else y_nte * mask_nt1
    norm_n1e: Tensor = torch.linalg.vector_norm(seen_nte, dim=1, keepdim=True, dtype=_wide(y_nte))
    relative_n1e = (norm_n1e / (norm_n1e.mean(-1, keepdim=True) + EPSILON)).to(y_nte.dtype)
    return gamma_e * (y_nte * relative_n1e) + beta_e + y_nte


def activate_norm_project(
    h_nte: Tensor,
    gamma_e: Tensor,
    beta_e: Tensor,
    weight_ce: Tensor,
    bias_c: Tensor,
    mask_nt1: Tensor | None = None,
) -> Tensor:
    """W GRN(GELU(h)) + b in one function, for the CPU.

    Args:
        h_nte: tokens.
        gamma_e: GRN's gain.
        beta_e: GRN's offset.
        weight_ce: W.
        bias_c: b.
        mask_nt1: 1 at visible tokens, 0 at masked ones; None: all are visible.

    Returns:
        Tokens [n, t, c].
    """
    return _activate_norm_project(h_nte, gamma_e, beta_e, weight_ce, bias_c, mask_nt1)


class _ActivateNormProject(torch.autograd.Function):
    """Autocast chose the precision of h; that of the other products is written out, so it is off in here."""

    @staticmethod
    def forward(
        ctx: Any,
        h_nte: Tensor,
        gamma_e: Tensor,
        beta_e: Tensor,
        weight_ce: Tensor,
        bias_c: Tensor,
        mask_nt1: Tensor | None,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y_nte = F.gelu(h_nte)
            norm_n1e = _norm(y_nte, mask_nt1)
            scale_n1e = 1.0 + gamma_e * norm_n1e / (norm_n1e.mean(-1, keepdim=True) + EPSILON)
            ctx.save_for_backward(h_nte, y_nte, norm_n1e, gamma_e, beta_e, weight_ce, mask_nt1)
            offset_c = torch.addmv(bias_c, weight_ce, beta_e).to(y_nte.dtype)
            scaled_nec = (weight_ce * scale_n1e).to(y_nte.dtype).transpose(1, 2)
            return torch.baddbmm(offset_c, y_nte, scaled_nec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_nte, y_nte, norm_n1e, gamma_e, beta_e, weight_ce, mask_nt1 = ctx.saved_tensors
        g_ntc = grads[0].to(y_nte.dtype)
        with torch.autocast("cpu", enabled=False):
            mean_n11 = norm_n1e.mean(-1, keepdim=True) + EPSILON
            relative_n1e = norm_n1e / mean_n11
            scale_n1e = 1.0 + gamma_e * relative_n1e
            # Products per sample: they give the gradients by W, by s, and through s by gamma and the norms.
            products_nce = torch.bmm(g_ntc.transpose(1, 2), y_nte).to(weight_ce.dtype)
            by_scale_n1e = (products_nce * weight_ce).sum(1, keepdim=True)
            by_relative_n1e = by_scale_n1e * gamma_e
            shared_n11 = (by_relative_n1e * norm_n1e).mean(-1, keepdim=True) / mean_n11.square()
            by_norm_n1e = by_relative_n1e / mean_n11 - shared_n11
            by_y_nte = torch.bmm(g_ntc, (weight_ce * scale_n1e).to(y_nte.dtype))
            seen_nte = y_nte if mask_nt1 is None else y_nte * mask_nt1.to(y_nte.dtype)
            by_y_nte.addcmul_(seen_nte, (by_norm_n1e / norm_n1e.clamp_min(TINY)).to(y_nte.dtype))
            by_h_nte = torch.ops.aten.gelu_backward(by_y_nte, h_nte)
            by_bias_c = g_ntc.sum((0, 1), dtype=weight_ce.dtype)
            by_weight_ce = (products_nce * scale_n1e).sum(0).addr_(by_bias_c, beta_e)
            by_gamma_e = (by_scale_n1e * relative_n1e).sum((0, 1))
            return by_h_nte, by_gamma_e, by_bias_c @ weight_ce, by_weight_ce, by_bias_c, None


_activate_norm_project: Callable[..., Tensor] = _ActivateNormProject.apply


def _norm(y_nte: Tensor, mask_nt1: Tensor | None) -> Tensor:
    """||y||_2 over each sample's visible tokens, [n, 1, e]; half the time of torch's norm over this axis."""
    squares_nte = y_nte.square()
    if mask_nt1 is not None:
        squares_nte *= mask_nt1
    return squares_nte.sum(1, keepdim=True, dtype=_wide(y_nte)).sqrt()


def _wide(x: Tensor) -> torch.dtype:
    """Sums over many tokens are taken in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)
