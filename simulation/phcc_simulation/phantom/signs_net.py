"""A plain small 3-D network that is trained on the planted signs themselves: can they be seen?

It shares nothing with the models under study, and is never pre-trained: the phantom is judged, not a method.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTHS = (8, 16, 32)
_BATCH = 16
_LEARNING_RATE, _WEIGHT_DECAY, _WARMUP_STEPS = 3e-3, 0.02, 20


class SignsNet(nn.Module):
    """Four conv-norm-relu layers; mean and maximum over the lesion's box; one linear layer.

    Args:
        channels: of the input.
        targets: logits.
    """

    def __init__(self, channels: int, targets: int) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.body = nn.Sequential(
            *_layer(channels, a, (1, 2, 2)),
            *_layer(a, b, (1, 2, 2)),
            *_layer(b, b, (1, 1, 1)),
            *_layer(b, c, (2, 2, 2)),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * c, targets)

    def forward(self, x_bcdhw: Tensor, box_bdhw: Tensor) -> Tensor:
        """Logits, axes b, target; the box is 1 inside the lesion's box."""
        z = self.body(x_bcdhw)
        weight = F.adaptive_avg_pool3d(box_bdhw[:, None], z.shape[2:])
        mean = (z * weight).sum((2, 3, 4)) / weight.sum((2, 3, 4)).clamp_min(1e-6)
        peak = (z * (weight > 0.3)).amax((2, 3, 4))
        logits: Tensor = self.head(self.dropout(torch.cat([mean, peak], 1)))
        return logits


def _layer(inside: int, outside: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    return [nn.Conv3d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm3d(outside), nn.ReLU()]


def train_signs_net(
    x_ncdhw: NDArray[np.float32],
    box_ndhw: NDArray[np.float32],
    target_nt: NDArray[np.int64],
    *,
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> SignsNet:
    """Train on several binary targets at once (AdamW, warm-up, cosine), with flips and small shifts.

    Args:
        x_ncdhw: inputs.
        box_ndhw: the lesion's box.
        target_nt: 0 or 1 for each case and target.
        epochs: passes over the cases.
        seed: of the weights, the order and the augmentation.
        progress: called with (epochs done, epochs).
    """
    # No generator can be handed to torch's initialisers, so the global one is seeded inside a fork of it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SignsNet(x_ncdhw.shape[1], target_nt.shape[1])
        rng = torch.Generator().manual_seed(seed)
        x, box = torch.from_numpy(x_ncdhw), torch.from_numpy(box_ndhw)
        target = torch.from_numpy(target_nt).float()
        optimiser = torch.optim.AdamW(net.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        batches = max(len(x) // _BATCH, 1)
        net.train()
        for step in range(epochs * batches):
            at = step % batches
            if at == 0:
                order = torch.randperm(len(x), generator=rng)
            chosen = order[at * _BATCH : (at + 1) * _BATCH]
            for group in optimiser.param_groups:
                group["lr"] = _LEARNING_RATE * _schedule(step, epochs * batches)
            x_bcdhw, box_bdhw = _augment(x[chosen], box[chosen], rng)
            loss = F.binary_cross_entropy_with_logits(net(x_bcdhw, box_bdhw), target[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if progress is not None and at == batches - 1:
                progress(step // batches + 1, epochs)
    return net.eval()


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARMUP_STEPS) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)


def _augment(x_bcdhw: Tensor, box_bdhw: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip each case along each axis at random, swap its in-plane axes, and shift it by up to two voxels."""
    joined = torch.cat([x_bcdhw, box_bdhw[:, None]], 1)
    cases = []
    for case in joined:
        flips = [axis for axis in (1, 2, 3) if torch.rand((), generator=rng) < 0.5]
        moved = case.flip(flips) if flips else case
        if torch.rand((), generator=rng) < 0.5 and case.shape[2] == case.shape[3]:
            moved = moved.transpose(2, 3)
        shift = torch.randint(-2, 3, (2,), generator=rng).tolist()
        cases.append(moved.roll(shift, (2, 3)))
    out = torch.stack(cases)
    return out[:, :-1].contiguous(), out[:, -1].contiguous()


@torch.no_grad()
def predict_signs(
    net: SignsNet, x_ncdhw: NDArray[np.float32], box_ndhw: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits, axes n, target."""
    net.eval()
    parts = [
        net(torch.from_numpy(x_ncdhw[i : i + 50]), torch.from_numpy(box_ndhw[i : i + 50]))
        for i in range(0, len(x_ncdhw), 50)
    ]
    return torch.cat(parts).numpy()
