"""FedEMA: how much of its own encoder a site keeps when the global one comes, in stage 1.

[F] Zhuang, Wen & Zhang, Divergence-aware Federated Self-Supervised Learning, ICLR 2022: at the beginning of a
round site k mixes what it ended its last round with, W_k, into the global weights W_g,

- mu = min(lambda_k ||W_g - W_k||, 1), the length over the encoder's weights,
- W_k = mu W_k + (1 - mu) W_g,

so that a site far from the others stays more its own. lambda_k is the site's, set once (their autoscaler): where
it meets the global weights for the first time after training of its own, lambda_k = tau / ||W_g - W_k||, hence
mu = tau in that round.

[R] Their predictor, mixed with the same mu, is here the decoder. A length of zero sets no lambda: the next round
does. Their first round is the site's first: until it has weights of its own it takes the global ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, NDArray[Any]]

ENCODER = "encoder."
"""How the names of the encoder's weights begin."""


def divergence(given: State, own: State) -> float:
    """||W_g - W_k|| over the encoder's float weights, summed in float64.

    Args:
        given: the global weights, by name.
        own: the site's, by name.
    """
    total = 0.0
    for name in sorted(given):
        if name.startswith(ENCODER) and given[name].dtype.kind == "f":
            apart = given[name].astype(np.float64).ravel() - own[name].astype(np.float64).ravel()
            total += float(apart @ apart)
    return math.sqrt(total)


def autoscaled(tau: float, distance: float) -> float | None:
    """The lambda for mu to be `tau` at this distance; None where there is none."""
    return tau / distance if distance > 0.0 else None


def mixed(given: State, own: State, mu: float) -> dict[str, NDArray[Any]]:
    """The mixture mu W_k + (1 - mu) W_g, worked out in float64 and rounded once; what is no float is as given.

    Args:
        given: the global weights, by name.
        own: the site's, by name.
        mu: share of its own, in [0, 1].
    """
    return {
        name: (mu * own[name].astype(np.float64) + (1.0 - mu) * array.astype(np.float64)).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in given.items()
    }
