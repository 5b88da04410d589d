"""From the encoder's visible cells to the voxels of every patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phcc_model.config import ModelSettings
from phcc_model.layers import WEIGHT_STD, Block, Pointwise
from phcc_model.sparse import Triple, dense_layout


class Decoder(nn.Module):
    """A 1x1 layer to its width, masked cells := one learned token, blocks, a 1x1 layer to voxels [F].

    Args:
        settings: width, depth and kernel.
        dim: channels of the encoder's last map.
        outputs: numbers to predict per cell: channels times voxels of a patch.
    """

    def __init__(self, settings: ModelSettings, dim: int, outputs: int) -> None:
        super().__init__()
        width = settings.decoder_width
        self.fast = False if settings.masking == "dense" else None
        self.embed = Pointwise(dim, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList(Block(width, settings.kernel) for _ in range(settings.decoder_depth))
        self.predict = Pointwise(width, outputs)
        nn.init.normal_(self.mask_token, std=WEIGHT_STD)

    def fill(self, z_bcdhw: Tensor, visible_bdhw: Tensor) -> Tensor:
        """The encoder's map at the decoder's width, the learned token in masked cells: [B, cells, width]."""
        x_btc = self.embed(z_bcdhw.flatten(2).transpose(1, 2), self._fast(z_bcdhw))
        return torch.where(visible_bdhw.flatten(1)[..., None], x_btc, self.mask_token.to(x_btc.dtype))

    def forward(self, x_btc: Tensor, grid: Triple) -> Tensor:
        """Filled cells [B, cells, width] on a grid (D, H, W) to predicted voxels [B, cells, outputs]."""
        layout = dense_layout(len(x_btc), grid, (1, 1, 1), None, self._fast(x_btc))
        for block in self.blocks:
            x_btc = block(x_btc, layout)
        out: Tensor = self.predict(x_btc, layout.fast)
        return out

    def _fast(self, x: Tensor) -> bool:
        return x.device.type == "cpu" if self.fast is None else self.fast
