"""From pooled maps to one vector per case: norm over cases, dynamic features, fusion over the phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phcc_model.config import ClassifierSettings
from phcc_model.layers import WEIGHT_STD, start_weights

RELATIVE_FLOOR = 0.1
"""[R] eps of the relative change rate: features are normed (spread 1), a tenth of it is nothing."""

RELATIVE_BOUND = 3.0
"""[R] A relative change is squeezed into +-3 by ``3 tanh(r / 3)``: nearly itself up to a doubling, and a
feature that starts near zero cannot drown all others."""

Kind = Literal["absolute", "difference", "relative"]


class CaseNorm(nn.Module):
    """Each pooled feature of each phase about its mean over cases, in units of its spread: batch norm [R].

    What a map's mean holds is mostly what every case has. A layer norm keeps that, and the little by which cases
    differ is then too small to learn from in few steps; batch norm before a linear head is known from MAE's
    linear probe [F: He et al., CVPR 2022]. Measured on 240 synthetic patients (joint, lesion pooling, 21 epochs,
    two seeds): test AUC .69 and .58, with a layer norm .60 and .56, standard error .03 each.

    In training a batch is normed by its own mean and variance, in evaluation by running ones. These are kept as
    sums with the mass that went into them, not as means with a start that wears off: so they are exact from the
    first step, where a round has few; and averaging states over sites, as if they were weights, gives the mean
    over sites by mass, where a site that never saw a phase does not count.

    Args:
        tokens: phases.
        features: of each.
    """

    EPSILON = 1e-5
    MOMENTUM = 0.1
    """Share of the newest batch in the running statistics."""

    mean_tc: Tensor
    variance_tc: Tensor
    mass_t1: Tensor

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean_tc", torch.zeros(tokens, features))
        self.register_buffer("variance_tc", torch.zeros(tokens, features))
        self.register_buffer("mass_t1", torch.zeros(tokens, 1))

    def forward(self, f_btc: Tensor, present_bt: Tensor) -> Tensor:
        """Norm.

        Args:
            f_btc: features per phase; finite, also where a phase is missing.
            present_bt: bool, True where the phase is there; only there it counts.

        Returns:
            [B, T, C], zero where a phase is missing.
        """
        there_bt1 = present_bt[..., None].to(f_btc.dtype)
        known_t1 = self.mass_t1 > 0
        mean_tc = torch.where(known_t1, self.mean_tc / self.mass_t1, 0.0)
        variance_tc = torch.where(known_t1, self.variance_tc / self.mass_t1, 1.0)
        if self.training:
            # One case has no spread: it is held against the running statistics.
            count_t1 = there_bt1.sum(dim=0)
            batch_mean_tc = (f_btc * there_bt1).sum(dim=0) / count_t1.clamp_min(1.0)
            batch_variance_tc = ((f_btc - batch_mean_tc).square() * there_bt1).sum(
                dim=0
            ) / count_t1.clamp_min(1.0)
            enough_t1 = count_t1 >= 2
            self._remember(batch_mean_tc.detach(), batch_variance_tc.detach(), enough_t1)
            mean_tc = torch.where(enough_t1, batch_mean_tc, mean_tc)
            variance_tc = torch.where(enough_t1, batch_variance_tc, variance_tc)
        normed_btc = (f_btc - mean_tc) * torch.rsqrt(variance_tc + self.EPSILON)
        return (normed_btc * self.weight + self.bias) * there_bt1

    @torch.no_grad()
    def _remember(self, mean_tc: Tensor, variance_tc: Tensor, enough_t1: Tensor) -> None:
        """Move the running sums on; a batch that is not finite ends the training, and must not stay in them."""
        sound_t1 = enough_t1 & (mean_tc + variance_tc).isfinite().all()
        share_t1 = self.MOMENTUM * sound_t1.to(mean_tc.dtype)
        for held, new in ((self.mean_tc, mean_tc), (self.variance_tc, variance_tc), (self.mass_t1, 1.0)):
            held.copy_(torch.where(sound_t1, (1.0 - share_t1) * held + share_t1 * new, held))


class PlainNorm(nn.Module):
    """METHOD's plain form: a layer norm of each phase's features, zero where a phase is missing."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, f_btc: Tensor, present_bt: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        normed_btc: Tensor = self.norm(f_btc) * present_bt[..., None].to(f_btc.dtype)
        return normed_btc


def dynamic_features(f_btc: Tensor, present_bt: Tensor, kinds: Sequence[Kind]) -> Tensor:
    """How the features change from one phase to the next [R: METHOD, stage 2].

    "The next" is the next phase that is *there*: across a gap the change is taken from the last phase before
    it. The first phase that is there has changed by nothing, and a missing phase has no features at all.

    Args:
        f_btc: features per phase in the order of acquisition; finite, also where a phase is missing.
        present_bt: bool, True where the phase is there.
        kinds: ``absolute`` f_t; ``difference`` f_t - f_s; ``relative`` (f_t - f_s) / (|f_s| + eps), bounded.

    Returns:
        [B, T, C * kinds], zero where a phase is missing.
    """
    before_bt = previous_present(present_bt)
    there_bt1 = present_bt[..., None].to(f_btc.dtype)
    changed_bt1 = (before_bt >= 0)[..., None].to(f_btc.dtype) * there_bt1
    before_btc = f_btc.gather(1, before_bt.clamp_min(0)[..., None].expand_as(f_btc))
    difference_btc = (f_btc - before_btc) * changed_bt1
    parts = []
    for kind in kinds:
        if kind == "absolute":
            parts.append(f_btc * there_bt1)
        elif kind == "difference":
            parts.append(difference_btc)
        else:
            rate_btc = difference_btc / (before_btc.abs() + RELATIVE_FLOOR)
            parts.append(RELATIVE_BOUND * torch.tanh(rate_btc / RELATIVE_BOUND))
    return torch.cat(parts, dim=-1)


def previous_present(present_bt: Tensor) -> Tensor:
    """The last phase before each one that is there: int64 [B, T], -1 where there is none."""
    steps_t = torch.arange(present_bt.shape[1], device=present_bt.device)
    latest_bt = torch.where(present_bt, steps_t, -1).cummax(dim=1).values
    return torch.cat([latest_bt.new_full((len(latest_bt), 1), -1), latest_bt[:, :-1]], dim=1)


class PerPhase(nn.Module):
    """A linear layer for each phase.

    Args:
        phases: T.
        features: entries of each phase.
        width: entries of what comes out.
    """

    def __init__(self, phases: int, features: int, width: int) -> None:
        super().__init__()
        self.phases = nn.ModuleList(nn.Linear(features, width) for _ in range(phases))

    def forward(self, x_btf: Tensor) -> Tensor:
        """[B, T, features] to [B, T, width]."""
        parts = zip(self.phases, x_btf.unbind(1), strict=True)
        return torch.stack([project(x_bf) for project, x_bf in parts], dim=1)


class Fusion(nn.Module):
    """Features per phase to one vector per case.

    ``attention``: phase embedding, pre-norm self-attention with missing phases masked out, masked mean.
    ``mean``: phase embedding and masked mean only. ``concat``: all phases side by side, each with a flag that
    it is there, through one linear layer: the plain baseline.

    With one ``projection`` for all phases, mean and attention begin as a mean over phases of the same linear
    form: a sign in one phase alone counts like the same in any other, and the differences' mean over the phases
    telescopes to last less first. ``per-phase`` [R] tells phases apart from the first step.

    Args:
        settings: fusion, projection, width, layers, heads, dropout.
        phases: tokens T.
        features: entries of each token.
    """

    def __init__(self, settings: ClassifierSettings, phases: int, features: int) -> None:
        super().__init__()
        self.fusion = settings.fusion
        width = settings.width
        self.project: nn.Module
        if self.fusion == "concat":
            self.project = nn.Linear(phases * (features + 1), width)
        else:
            per_phase = settings.projection == "per-phase"
            self.project = PerPhase(phases, features, width) if per_phase else nn.Linear(features, width)
            self.phase_embedding = nn.Parameter(WEIGHT_STD * torch.randn(phases, width))
        if self.fusion == "attention":
            self.layers = nn.ModuleList(
                AttentionLayer(width, settings.heads, settings.dropout) for _ in range(settings.layers)
            )
        self.norm = nn.LayerNorm(width)
        start_weights(self.project)

    def forward(self, features_btf: Tensor, present_bt: Tensor) -> Tensor:
        """Fuse.

        Args:
            features_btf: zero where a phase is missing.
            present_bt: bool, True where the phase is there.

        Returns:
            [B, width]
        """
        there_bt1 = present_bt[..., None].to(features_btf.dtype)
        if self.fusion == "concat":
            fused_bw = F.gelu(self.project(torch.cat([features_btf, there_bt1], dim=-1).flatten(1)))
        else:
            x_btw = self.project(features_btf) + self.phase_embedding
            if self.fusion == "attention":
                # A case without any phase attends to its (empty) tokens: finite, and the mean below drops it.
                seen_bt = present_bt | ~present_bt.any(dim=1, keepdim=True)
                for layer in self.layers:
                    x_btw = layer(x_btw, seen_bt)
            fused_bw = (x_btw * there_bt1).sum(dim=1) / there_bt1.sum(dim=1).clamp_min(1.0)
        fused: Tensor = self.norm(fused_bw)
        return fused


class AttentionLayer(nn.Module):
    """Pre-norm self-attention over the phases, then a pre-norm MLP [F: Xiong et al., ICML 2020].

    torch's own `TransformerEncoderLayer` takes another numerical path in evaluation than in training, and a
    different one again where a mask is given; three lines of attention are the same everywhere.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)
        start_weights(self)

    def forward(self, x_btw: Tensor, seen_bt: Tensor) -> Tensor:
        """Tokens [B, T, width] to tokens [B, T, width]; only tokens with `seen_bt` are attended to."""
        q, k, v = self.query_key_value(self.norm(x_btw)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen_bt[:, None, None, :]
        )
        x_btw = x_btw + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        out: Tensor = x_btw + self.dropout(self.mlp(self.mlp_norm(x_btw)))
        return out
