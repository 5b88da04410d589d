"""The ConvNeXt-V2 encoder in 3-D, dense for the classifier and masked for pre-training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phcc_model.config import ModelSettings
from phcc_model.layers import EPSILON, Block, DropPath, Strided
from phcc_model.masking import grid_of, patchify
from phcc_model.sparse import Layout, Triple, dense_layout, hide, packed_layout, scatter


class Downsample(nn.Module):
    """Layer norm, then a convolution whose kernel is its stride [F: ConvNeXt]."""

    def __init__(self, width: int, wider: int, stride: Triple) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.conv = Strided(width, wider, stride)

    def forward(self, x_ntc: Tensor, layout: Layout) -> Tensor:
        """Tokens of one stage to tokens of the next."""
        out: Tensor = self.conv(self.norm(x_ntc), layout)
        return out


class Encoder(nn.Module):
    """A volume to one feature vector per cell.

    Masked or not, it is the same convolution: a masked cell is a hole that reads as zero before every
    depthwise convolution and that GRN's statistics leave out. *Packed*, only the tokens of visible cells
    exist; *dense*, all exist and a mask is multiplied in. Both give the same numbers.

    Args:
        settings: sizes, strides, kernel, drop path and the choice of masking.
        in_channels: channels of the input.

    Attributes:
        dim: channels of the last map.
        patch: voxels of one cell of the last map along D, H, W.
        layers: how many depths `parameter_depths` tells apart: the blocks and the stem.
        packed: whether masked cells are left out of memory; None: on the CPU.
        fast: whether this package's own CPU kernels are used; None: on the CPU.
    """

    def __init__(self, settings: ModelSettings, in_channels: int) -> None:
        super().__init__()
        depths, dims = settings.stages
        self.dim = dims[-1]
        self.patch = settings.patch
        self.layers = 1 + sum(depths)
        self.packed = {"auto": None, "packed": True, "dense": False}[settings.masking]
        self.fast = {"auto": None, "packed": None, "dense": False}[settings.masking]
        self._strides = (settings.stem, *settings.downsample)
        rates = iter(torch.linspace(0.0, settings.drop_path, sum(depths)).tolist())
        self.stem = Strided(in_channels, dims[0], settings.stem)
        self.stem_norm = nn.LayerNorm(dims[0], eps=EPSILON)
        self.downs = nn.ModuleList(
            Downsample(a, b, step)
            for a, b, step in zip(dims[:-1], dims[1:], settings.downsample, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(width, settings.kernel, next(rates)) for _ in range(depth))
            for depth, width in zip(depths, dims, strict=True)
        )
        self.stem.spread_bias()

    def draw_paths(self, samples: int) -> Tensor:
        """Which samples keep the branch of which block: bool [n, blocks], drawn block after block."""
        drawn = [module.draw(samples) for module in self.modules() if isinstance(module, DropPath)]
        return torch.stack(drawn, dim=1)

    def forward(
        self, x_bcdhw: Tensor, visible_bdhw: Tensor | None = None, kept_bl: Tensor | None = None
    ) -> Tensor:
        """The last map.

        Args:
            x_bcdhw: volumes; each axis a multiple of `patch`.
            visible_bdhw: bool, on the grid of cells, as many visible ones in each sample; None: all visible.
            kept_bl: these samples' rows of what `draw_paths` returned for a batch; None: drawn now.

        Returns:
            [B, dim, d, h, w], zero at masked cells.

        Raises:
            ConfigError: the volume is not a multiple of the patch.
            ValueError: the mask has another shape than the grid, or samples differ in their visible cells.
        """
        layouts = self._layouts(x_bcdhw, visible_bdhw)
        kept = iter((self.draw_paths(len(x_bcdhw)) if kept_bl is None else kept_bl).unbind(1))
        x_ntc = self.stem_norm(self._stem(x_bcdhw, layouts[0], visible_bdhw))
        for i, (stage, layout) in enumerate(zip(self.stages, layouts, strict=True)):
            if i:
                x_ntc = self.downs[i - 1](x_ntc, layouts[i - 1])
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x_ntc = block(x_ntc, layout, next(kept))
        return scatter(hide(x_ntc, layouts[-1]), layouts[-1])

    def parameter_depths(self) -> dict[str, int]:
        """The depth of each parameter by its name, for layer-wise learning rates: 0 stem, 1 to n blocks.

        A downsampling layer counts with the block that follows it; what follows the encoder is at `layers`.
        """
        first = [1]
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            first.append(first[-1] + len(stage))
        depths = {}
        for name, _ in self.named_parameters():
            part, *rest = name.split(".")
            if part == "stages":
                depths[name] = first[int(rest[0])] + int(rest[1])
            else:
                depths[name] = first[int(rest[0]) + 1] if part == "downs" else 0
        return depths

    def _stem(self, x_bcdhw: Tensor, layout: Layout, visible_bdhw: Tensor | None) -> Tensor:
        """The tokens of the first stage; packed, the voxels of masked cells are not even read."""
        n, c = x_bcdhw.shape[:2]
        if layout.rows is None:
            return self.stem.of_patches(patchify(x_bcdhw, self.stem.stride), layout.fast)
        assert visible_bdhw is not None
        cells = patchify(x_bcdhw, self.patch)[visible_bdhw.flatten(1)]
        tokens = patchify(cells.view(-1, c, *self.patch), self.stem.stride)
        return self.stem.of_patches(tokens.reshape(n, -1, tokens.shape[-1]), layout.fast)

    def _layouts(self, x_bcdhw: Tensor, visible_bdhw: Tensor | None) -> list[Layout]:
        """The layout of each stage's tokens."""
        n, _, d, h, w = x_bcdhw.shape
        grid = grid_of((d, h, w), self.patch)
        if visible_bdhw is not None:
            if visible_bdhw.shape != (n, *grid):
                raise ValueError(f"mask of shape {tuple(visible_bdhw.shape)}, expected {(n, *grid)}")
            counts = visible_bdhw.flatten(1).sum(1)
            if int(counts.min()) != int(counts.max()) or int(counts[0]) == 0:
                raise ValueError("every sample needs the same number of visible cells, and at least one")
        on_cpu = x_bcdhw.device.type == "cpu"
        fast = on_cpu if self.fast is None else self.fast
        packed = on_cpu if self.packed is None else self.packed
        cell = self.patch
        layouts = []
        for step in self._strides:
            cell = (cell[0] // step[0], cell[1] // step[1], cell[2] // step[2])
            if visible_bdhw is None or not packed:
                layouts.append(dense_layout(n, grid, cell, visible_bdhw, fast))
            else:
                layouts.append(packed_layout(grid, cell, visible_bdhw, fast))
        return layouts
