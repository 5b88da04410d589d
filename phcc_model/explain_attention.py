"""How much of the fused vector comes from each phase, as far as attention says.

Rollout [F: Abnar & Zuidema, ACL 2020]: of each layer the mean attention over its heads, half and half with the
identity, which stands for the residual path; the layers' matrices multiplied. What is fused is the mean of the
tokens of the phases that are there, so a phase's share is the mean over their rows.

Attention says where the fusion looked, not whether it mattered [F: Jain & Wallace, NAACL 2019]: with one layer
half of every share is the residual path's, so shares lie about 1 / phases unless all attend to one phase.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from phcc_model.heads import AttentionLayer, Fusion

RESIDUAL = 0.5
"""Share of a layer's output that is ascribed to the residual path."""


class AttentionBook:
    """Writes down what each layer of a fusion attends to while a batch goes through it.

    Args:
        fusion: the classifier's; one without attention has nothing to write down.
    """

    def __init__(self, fusion: Fusion) -> None:
        self._layers = list(fusion.layers) if fusion.fusion == "attention" else []
        self._seen: list[Tensor] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> AttentionBook:
        self._handles = [layer.register_forward_pre_hook(self._look) for layer in self._layers]
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def shares(self, present_bp: Tensor) -> Tensor | None:
        """Share of each phase: float32 [B, P], zero where it is missing; None where there is no attention.

        Args:
            present_bp: bool, True where the phase is there.
        """
        if not self._seen:
            return None
        there_bp = present_bp.to(self._seen[0].dtype)
        rollout_bqk = torch.eye(present_bp.shape[1]).to(self._seen[0])
        for attention_bqk in self._seen:
            mixed_bqk = (
                RESIDUAL * torch.eye(len(attention_bqk[0])).to(attention_bqk) + (1 - RESIDUAL) * attention_bqk
            )
            rollout_bqk = mixed_bqk @ rollout_bqk
        rows_bp = torch.einsum("bq,bqk->bk", there_bp, rollout_bqk) * there_bp
        return rows_bp / there_bp.sum(dim=1, keepdim=True).clamp_min(1.0)

    @torch.no_grad()
    def _look(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The layer's attention again, which the layer itself never holds: mean over heads, [B, T, T]."""
        assert isinstance(layer, AttentionLayer)
        x_btw, seen_bt = inputs
        q, k, _ = layer.query_key_value(layer.norm(x_btw)).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
        scores_bhqk = torch.einsum("bqhc,bkhc->bhqk", q, k) / math.sqrt(q.shape[-1])
        hidden_b11k = ~seen_bt[:, None, None, :]
        self._seen.append(scores_bhqk.masked_fill(hidden_b11k, -math.inf).softmax(dim=-1).mean(dim=1))
