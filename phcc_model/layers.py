"""The ConvNeXt-V2 block in 3-D, and what all of its layers share: start values, weight decay, drop path.

Every layer sees *tokens*: `x_ntc`, n samples, t tokens of each, c channels, with a `Layout` that says where the
tokens lie on the sample's canvas. So one block serves the dense map and the packed visible cells alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phcc_model.depthwise import depthwise
from phcc_model.grn import response_norm
from phcc_model.masking import patchify
from phcc_model.pointwise import pointwise
from phcc_model.sparse import Layout

Triple = tuple[int, int, int]

EPSILON = 1e-6
WEIGHT_STD = 0.02
EXPANSION = 4


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay may reach this parameter.

    Decay pulls a kernel towards zero; a bias, a norm's or GRN's gain and offset, a token and an embedding are
    places, not slopes, and stay where the data put them. [F] ConvNeXt V2's code lets decay reach GRN: not so here.

    Args:
        name: the parameter's dotted name, as in `named_parameters()`.
        parameter: the parameter.
    """
    place = any(word in part for part in name.split(".") for word in ("token", "embedding"))
    return parameter.ndim >= 2 and not place


def start_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 for the weights of `module`'s own layers, zero for their biases [F]."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.trunc_normal_(part.weight, std=WEIGHT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Pointwise(nn.Linear):
    """A layer that mixes the channels of each token; `nn.Linear` with the faster kernel of the machine."""

    def forward(self, x_ntc: Tensor, fast: bool = True) -> Tensor:
        """Tokens [n, t, in] to tokens [n, t, out]."""
        return pointwise(x_ntc, self.weight, self.bias, fast=fast)


class Strided(nn.Conv3d):
    """A convolution whose kernel is its stride: it works within a brick of tokens, visible or not."""

    def __init__(self, width: int, wider: int, stride: Triple) -> None:
        super().__init__(width, wider, stride, stride)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens [n, t, in] of one layout to tokens [n, t / voxels of the stride, out] of the next."""
        bricks, d, h, w = layout.blocks
        x_bcdhw = x_ntc.reshape(bricks, d, h, w, -1).permute(0, 4, 1, 2, 3)
        y_bcdhw = super().forward(x_bcdhw)
        return y_bcdhw.permute(0, 2, 3, 4, 1).reshape(len(x_ntc), -1, self.out_channels)

    def cut(self, x_bcdhw: Tensor, layout: Layout, visible_bdhw: Tensor | None) -> Tensor:
        """Volumes [B, in, D, H, W] to the tokens of their cells [B, t, out], the visible ones only if packed."""
        d, h, w = (b * s for b, s in zip(layout.blocks[1:], self.kernel_size, strict=True))
        if layout.rows is not None:
            assert visible_bdhw is not None
            seen = patchify(x_bcdhw, (d, h, w))[visible_bdhw.flatten(1)]
            x_ncdhw = seen.view(len(seen), -1, d, h, w)
        else:
            x_ncdhw = x_bcdhw
        y_ncdhw = super().forward(x_ncdhw)
        return y_ncdhw.permute(0, 2, 3, 4, 1).reshape(len(x_bcdhw), -1, self.out_channels)

    def spread_bias(self) -> None:
        """Random biases, as wide as the response to a flat patch of height one [R].

        A layer norm follows. With a zero bias the response to a flat patch is its height times one vector, and the
        norm would leave nothing of the height; with a random offset of the same size the direction changes with it.
        """
        assert self.bias is not None
        voxels = self.in_channels * math.prod(self.kernel_size)
        nn.init.normal_(self.bias, std=WEIGHT_STD * math.sqrt(voxels))


class Depthwise(nn.Conv3d):
    """One odd kernel per channel, zero padding, on the canvas that the layout describes."""

    def __init__(self, width: int, kernel: Triple) -> None:
        super().__init__(width, width, kernel, groups=width)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """Tokens [n, t, c] to tokens [n, t, c]."""
        assert self.bias is not None
        return depthwise(x_ntc, self.weight, self.bias, layout)


class GRN(nn.Module):
    """Global response normalisation over the visible tokens of each sample [F: Woo et al., CVPR 2023]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]."""
        return response_norm(x_ntc, self.gamma, self.beta, mask_nt1=layout.mask_nt1, fast=layout.fast)


class DropPath(nn.Module):
    """Leaves out a block's branch for a random share of the samples while training [F: stochastic depth].

    The draw is torch's global one on the CPU, whatever the device: seed it inside `torch.random.fork_rng`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_ntc: Tensor) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c], whole samples zeroed and the others scaled up."""
        if not self.training or self.rate == 0.0:
            return x_ntc
        keep = 1.0 - self.rate
        kept_n11 = (
            (torch.rand(len(x_ntc), 1, 1) < keep).to(x_ntc) / keep if keep else torch.zeros(len(x_ntc), 1, 1)
        )
        return x_ntc * kept_n11.to(x_ntc)


class Block(nn.Module):
    """x + DropPath(W2 GRN(GELU(W1 LN(DWConv x)))), expansion 4, no LayerScale [F: ConvNeXt V2, in 3-D [R]]."""

    def __init__(self, width: int, kernel: Triple, drop_path: float = 0.0) -> None:
        super().__init__()
        self.depthwise = Depthwise(width, kernel)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.expand = Pointwise(width, EXPANSION * width)
        self.grn = GRN(EXPANSION * width)
        self.project = Pointwise(EXPANSION * width, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]."""
        z_ntc = self.norm(self.depthwise(x_ntc, layout))
        z_ntc = F.gelu(self.expand(z_ntc, layout.fast))
        z_ntc = self.project(self.grn(z_ntc, layout), layout.fast)
        out: Tensor = x_ntc + self.drop_path(z_ntc)
        return out
