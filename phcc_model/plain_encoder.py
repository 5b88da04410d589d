"""A plain small 3-D network in the encoder's place: the baseline that a new architecture has to beat.

Four layers of convolution, batch norm and ReLU, strides (1,2,2), (1,2,2), 1, (2,2,2). METHOD 8: such a network
matched every ConvNeXt of a first prototype at a third of the time. It is not pre-trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 32, 64)
STRIDES = ((1, 2, 2), (1, 2, 2), (1, 1, 1), (2, 2, 2))


class PlainEncoder(nn.Module):
    """What `encoder.Encoder` offers a classifier, by other means.

    Args:
        in_channels: of the volumes.

    Attributes:
        dim: channels of the last map.
        layers: depth of whatever follows, for layer-wise learning rates.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dim = WIDTHS[-1]
        self.layers = len(WIDTHS)
        channels = (in_channels, *WIDTHS)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 3, stride, 1, bias=False), RoundNorm(b), nn.ReLU())
            for a, b, stride in zip(channels[:-1], WIDTHS, STRIDES, strict=True)
        )

    def draw_paths(self, samples: int) -> Tensor:
        """No branch is ever dropped: bool [n, 0]."""
        return torch.ones(samples, 0, dtype=torch.bool)

    def forward(self, x_bcdhw: Tensor, visible_bdhw: None = None, kept_bl: Tensor | None = None) -> Tensor:
        """The last map, [B, dim, d, h, w]; every voxel is seen, nothing is dropped."""
        del visible_bdhw, kept_bl  # the encoder's, not ours
        for layer in self.body:
            x_bcdhw = layer(x_bcdhw)
        return x_bcdhw

    def parameter_depths(self) -> dict[str, int]:
        """The depth of each parameter by its name, for layer-wise learning rates."""
        return {name: int(name.split(".")[1]) for name, _ in self.named_parameters()}


class RoundNorm(nn.BatchNorm3d):
    """Batch norm whose running statistics travel as weights do: without a count of batches, a whole number."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # torch adds the count to any state without a version, as weights from the wire are, and then refuses it.
        super()._load_from_state_dict(state_dict, prefix, {**local_metadata, "version": self._version}, *rest)
