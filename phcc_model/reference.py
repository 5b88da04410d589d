"""The same autoencoder as it is usually written: torch's own layers on a dense map, masked by multiplication.

Nothing of this package's kernels is used. It is what they are measured against, in numbers and in time: the
parameters have the same names and shapes, so a state goes from one to the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phcc_model.config import ModelSettings
from phcc_model.layers import EPSILON, EXPANSION, GRN
from phcc_model.pretrain import SWFCMAE
from phcc_model.sparse import Triple


class ReferenceBlock(nn.Module):
    """ConvNeXt V2's block, channels first between blocks, channels last inside [F]."""

    def __init__(self, width: int, kernel: Triple) -> None:
        super().__init__()
        self.depthwise = nn.Conv3d(width, width, kernel, padding="same", groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.expand = nn.Linear(width, EXPANSION * width)
        self.grn = GRN(EXPANSION * width)
        self.project = nn.Linear(EXPANSION * width, width)

    def forward(self, x_ncdhw: Tensor, mask_n1dhw: Tensor | None) -> Tensor:
        """Maps [n, c, d, h, w] to maps [n, c, d, h, w]."""
        seen = x_ncdhw if mask_n1dhw is None else x_ncdhw * mask_n1dhw
        z_ndhwc = self.norm(self.depthwise(seen).permute(0, 2, 3, 4, 1))
        y_ndhwe = F.gelu(self.expand(z_ndhwc))
        mask_nt1 = None if mask_n1dhw is None else mask_n1dhw.flatten(1)[:, :, None]
        y_ndhwe = self.grn(y_ndhwe.flatten(1, 3), mask_nt1).view_as(y_ndhwe)
        out: Tensor = x_ncdhw + self.project(y_ndhwe).permute(0, 4, 1, 2, 3)
        return out


class ReferenceDownsample(nn.Module):
    """Layer norm over channels, then a strided convolution."""

    def __init__(self, width: int, wider: int, stride: Triple) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.conv = nn.Conv3d(width, wider, stride, stride)

    def forward(self, x_ncdhw: Tensor) -> Tensor:
        """Maps of one stage to maps of the next."""
        out: Tensor = self.conv(_channel_norm(self.norm, x_ncdhw))
        return out


class ReferenceEncoder(nn.Module):
    """Takes the place of `phcc_model.encoder.Encoder`, without drop path."""

    def __init__(self, settings: ModelSettings, in_channels: int) -> None:
        super().__init__()
        depths, dims = settings.stages
        self.dim = dims[-1]
        self.patch = settings.patch
        self.stem = nn.Conv3d(in_channels, dims[0], settings.stem, settings.stem)
        self.stem_norm = nn.LayerNorm(dims[0], eps=EPSILON)
        steps = zip(dims[:-1], dims[1:], settings.downsample, strict=True)
        self.downs = nn.ModuleList(ReferenceDownsample(a, b, step) for a, b, step in steps)
        self.stages = nn.ModuleList(
            nn.ModuleList(ReferenceBlock(width, settings.kernel) for _ in range(depth))
            for depth, width in zip(depths, dims, strict=True)
        )

    def forward(
        self, x_bcdhw: Tensor, visible_bdhw: Tensor | None = None, _kept_bl: Tensor | None = None
    ) -> Tensor:
        """Volumes and a mask on the grid of cells to the last map, zero at masked cells."""
        x_ncdhw = _channel_norm(self.stem_norm, self.stem(x_bcdhw))
        mask = None
        for i, stage in enumerate(self.stages):
            x_ncdhw = self.downs[i - 1](x_ncdhw) if i else x_ncdhw
            if visible_bdhw is not None:
                mask = F.interpolate(visible_bdhw[:, None].to(x_ncdhw.dtype), size=x_ncdhw.shape[2:])
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x_ncdhw = block(x_ncdhw, mask)
        return x_ncdhw if mask is None else x_ncdhw * mask


class ReferenceDecoder(nn.Module):
    """Takes the place of `phcc_model.decoder.Decoder`."""

    def __init__(self, settings: ModelSettings, dim: int, outputs: int) -> None:
        super().__init__()
        width = settings.decoder_width
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            ReferenceBlock(width, settings.kernel) for _ in range(settings.decoder_depth)
        )
        self.predict = nn.Linear(width, outputs)

    def fill(self, z_bcdhw: Tensor, visible_bdhw: Tensor) -> Tensor:
        """The encoder's map at the decoder's width, the learned token in masked cells: [B, cells, width]."""
        x_btc = self.embed(z_bcdhw.flatten(2).transpose(1, 2))
        return torch.where(visible_bdhw.flatten(1)[..., None], x_btc, self.mask_token.to(x_btc.dtype))

    def forward(self, x_btc: Tensor, grid: Triple) -> Tensor:
        """Filled cells to predicted voxels [B, cells, outputs]."""
        x_ncdhw = x_btc.transpose(1, 2).reshape(len(x_btc), -1, *grid)
        for block in self.blocks:
            x_ncdhw = block(x_ncdhw, None)
        out: Tensor = self.predict(x_ncdhw.flatten(2).transpose(1, 2))
        return out


def reference_of(model: SWFCMAE, settings: ModelSettings) -> SWFCMAE:
    """The same autoencoder with the same parameters, made of torch's own layers throughout.

    Args:
        model: the autoencoder to copy.
        settings: those it was built with.
    """
    channels = model.phases if model.joint else 1
    voxels = model.encoder.patch[0] * model.encoder.patch[1] * model.encoder.patch[2]
    copy = SWFCMAE(settings, model.phases, model.objective)
    copy.add_module("encoder", ReferenceEncoder(settings, channels))
    copy.add_module("decoder", ReferenceDecoder(settings, model.encoder.dim, channels * voxels))
    copy.load_state_dict(model.state_dict())
    return copy


def _channel_norm(norm: nn.Module, x_ncdhw: Tensor) -> Tensor:
    out: Tensor = norm(x_ncdhw.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
    return out
