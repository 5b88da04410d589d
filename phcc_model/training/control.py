"""SCAFFOLD at one site: a correction of the gradient, and the control variate that comes of a round.

[F] Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, Algorithm 1.
A site walks with g - c_i + c in place of its gradient g: c_i is its own control variate, what its gradients were
like in its last round, and c their mean over the sites, so that all sites walk into one direction. After K steps
of rate eta from x to y, option II sets c_i = c_i - c + (x - y) / (K eta).

[R] For plain SGD, (x - y) / (K eta) is the mean of g - c_i + c over the steps, so option II is the mean of the
raw gradients g along the way. A site's optimiser here is AdamW, whose steps are no sum of gradients: the same
quotient would be a direction of about unit size per weight, with the weight decay in it, and adding that to a
gradient would drown it. So the mean of the raw gradients is taken itself, before correction and clipping, each
step alike; the correction is added to the gradient, before the clipping and AdamW, as FedProx's term is. What is
not trained in a round (a frozen encoder) has gradients of zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Control:
    """The control variates of one site in one round.

    Args:
        correction: c - c_i by name of the parameter; a parameter without one is not corrected.
    """

    def __init__(self, correction: Mapping[str, NDArray[np.float32]]) -> None:
        self._correction: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(array)) for name, array in correction.items()
        }
        self._sum: dict[str, Tensor] = {}
        self._steps = 0

    def correct(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Take note of the gradients of a step, and correct them in place.

        Args:
            trained: parameters by name, after the way back; one without a gradient is left alone.
        """
        self._steps += 1
        for name, parameter in trained.items():
            if parameter.grad is None:
                continue
            held = self._sum.get(name)
            self._sum[name] = parameter.grad.clone() if held is None else held.add_(parameter.grad)
            if name in self._correction:
                moved = self._correction[name] = self._correction[name].to(parameter)
                parameter.grad.add_(moved)

    def mean(self) -> dict[str, NDArray[Any]]:
        """The mean of the raw gradients over the steps: the site's new control variate, by parameter.

        Returns:
            float32; parameters that had no gradient are left out: theirs is zero.
        """
        return {name: (total / max(self._steps, 1)).cpu().numpy() for name, total in self._sum.items()}
