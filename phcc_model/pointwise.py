"""Layers that mix the channels of each token: one matrix for all, on the faster of torch's two routes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IMAGES = 16
"""Fewer images than this, and torch takes a 1x1 convolution away from oneDNN when it runs on one thread."""
FEWEST_ROWS = 2048


def pointwise(x_ntc: Tensor, weight_oc: Tensor, bias_o: Tensor | None, *, fast: bool = True) -> Tensor:
    """W x + b for every token.

    `F.linear` goes to the BLAS of the build, a 1x1 convolution to oneDNN, which is the faster one for many
    rows of few channels, and on some processors throughout. The tokens of all samples are dealt to 16
    "images" of one row, a view that costs nothing; where they do not divide, or are few, `F.linear` it is.

    Args:
        x_ntc: tokens.
        weight_oc: W.
        bias_o: b.
        fast: False: `F.linear` always.

    Returns:
        Tokens [n, t, o].
    """
    n, t, c = x_ntc.shape
    rows = n * t
    if not fast or rows % IMAGES or rows < FEWEST_ROWS:
        return F.linear(x_ntc, weight_oc, bias_o)
    images = x_ntc.reshape(IMAGES, 1, rows // IMAGES, c).permute(0, 3, 1, 2)
    return F.conv2d(images, weight_oc[:, :, None, None], bias_o).permute(0, 2, 3, 1).reshape(n, t, -1)
