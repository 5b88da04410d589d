"""The ConvNeXt-V2 block in 3-D and its layers; their start values; which parameters decay.

Every layer sees *tokens* `x_ntc`: n samples, t tokens of each, c channels, with a `Layout` that says where
they lie on the sample's canvas. So one block serves the dense map and the packed visible cells alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phcc_model.depthwise import depthwise
from phcc_model.grn import activate_norm_project, response_norm
from phcc_model.pointwise import pointwise
from phcc_model.sparse import Layout, Triple

EPSILON = 1e-6
WEIGHT_STD = 0.02
EXPANSION = 4


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay may reach this parameter.

    Decay pulls a kernel towards zero; a bias, a norm's or GRN's gain and offset, a token and an embedding are
    places, not slopes, and stay where the data put them. In ConvNeXt V2's code decay reaches GRN [F]: not
    here.

    Args:
        name: the parameter's dotted name, as in `named_parameters()`.
        parameter: the parameter.
    """
    is_place = any(word in part for part in name.split(".") for word in ("token", "embedding"))
    return parameter.ndim >= 2 and not is_place


def start_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 for every linear layer in `module`, zero for its bias [F].

    The draw is torch's global one: build models inside `torch.random.fork_rng` after `torch.manual_seed`.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=WEIGHT_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Pointwise(nn.Linear):
    """A layer that mixes the channels of each token."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__(width, wider)
        start_weights(self)

    def forward(self, x_ntc: Tensor, fast: bool = True) -> Tensor:
        """Tokens [n, t, in] to tokens [n, t, out]."""
        return pointwise(x_ntc, self.weight, self.bias, fast=fast)


class Strided(nn.Module):
    """A convolution whose kernel is its stride: one matrix for the voxels under each stride, brick by brick.

    Args:
        width: channels of the input.
        wider: channels of the output.
        stride: along D, H, W.
    """

    def __init__(self, width: int, wider: int, stride: Triple) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(wider, width, *stride))
        self.bias = nn.Parameter(torch.zeros(wider))
        nn.init.trunc_normal_(self.weight, std=WEIGHT_STD)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens [n, t, in] of one layout to tokens [n, t / voxels of the stride, out] of the next."""
        bricks, d, h, w = layout.bricks
        n, _, c = x_ntc.shape
        a, b, e = self.stride
        cut = x_ntc.reshape(bricks, d // a, a, h // b, b, w // e, e, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
        matrix = self.weight.permute(0, 2, 3, 4, 1).flatten(1)
        y_ntc = pointwise(cut.reshape(n, -1, matrix.shape[1]), matrix, self.bias, fast=layout.fast)
        return y_ntc.to(self.weight.dtype)

    def of_patches(self, x_ntv: Tensor, fast: bool) -> Tensor:
        """Patches [n, t, in * voxels], channels first as `patchify` cuts them, to tokens [n, t, out].

        Like `forward`, it returns the parameters' precision under autocast: the residual stream is float32.
        """
        return pointwise(x_ntv, self.weight.flatten(1), self.bias, fast=fast).to(self.weight.dtype)

    def spread_bias(self) -> None:
        """Random biases, as wide as the response to a flat patch of height one [R].

        A layer norm follows. With a zero bias the response to a flat patch is its height times one vector,
        and the norm would leave nothing of the height; with a random offset of that size the direction turns
        with it.
        """
        nn.init.normal_(self.bias, std=WEIGHT_STD * math.sqrt(self.weight[0].numel()))


class Depthwise(nn.Module):
    """One odd kernel per channel, zero padding, on the canvas that the layout describes."""

    def __init__(self, width: int, kernel: Triple) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, 1, *kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.trunc_normal_(self.weight, std=WEIGHT_STD)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]."""
        return depthwise(x_ntc, self.weight, self.bias, layout)


class GRN(nn.Module):
    """Global response normalisation [F], gain and offset zero at the start: the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x_ntc: Tensor, mask_nt1: Tensor | None) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]."""
        return response_norm(x_ntc, self.gamma, self.beta, mask_nt1)


class DropPath(nn.Module):
    """Leaves out a block's branch for a random share of the samples while training [F: stochastic depth].

    The draw is torch's global one, on the CPU whatever the device: seed it inside `torch.random.fork_rng`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def draw(self, samples: int) -> Tensor:
        """Which samples keep their branch: bool [n], without a draw where none can lose it."""
        if not self.training or self.rate == 0.0:
            return torch.ones(samples, dtype=torch.bool)
        return torch.rand(samples) >= self.rate

    def forward(self, x_ntc: Tensor, kept_n: Tensor | None = None) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]: of some samples zero, of the others scaled up.

        Args:
            x_ntc: tokens.
            kept_n: what `draw` returned for these samples; None: drawn now.
        """
        if not self.training or self.rate == 0.0:
            return x_ntc
        kept_n = self.draw(len(x_ntc)) if kept_n is None else kept_n
        return x_ntc * kept_n[:, None, None].to(x_ntc) / max(1.0 - self.rate, EPSILON)


class Block(nn.Module):
    """x + DropPath(W2 GRN(GELU(W1 LN(DWConv x)))), expansion 4, no LayerScale [F: ConvNeXt V2; in 3-D: R]."""

    def __init__(self, width: int, kernel: Triple, drop_path: float = 0.0) -> None:
        super().__init__()
        self.depthwise = Depthwise(width, kernel)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.expand = Pointwise(width, EXPANSION * width)
        self.grn = GRN(EXPANSION * width)
        self.project = Pointwise(EXPANSION * width, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_ntc: Tensor, layout: Layout, kept_n: Tensor | None = None) -> Tensor:
        """Tokens [n, t, c] to tokens [n, t, c]; `kept_n` as in `DropPath`."""
        h_nte = self.expand(self.norm(self.depthwise(x_ntc, layout)), layout.fast)
        if layout.fast:
            grn, last = self.grn, self.project
            z_ntc = activate_norm_project(h_nte, grn.gamma, grn.beta, last.weight, last.bias, layout.mask_nt1)
        else:
            z_ntc = self.project(self.grn(F.gelu(h_nte), layout.mask_nt1), False)
        out: Tensor = x_ntc + self.drop_path(z_ntc, kept_n)
        return out
