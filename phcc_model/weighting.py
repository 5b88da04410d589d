"""Sample weights that decorrelate the features of a batch (METHOD [R]; hypothesis: StableNet).

Zhang et al., *Deep Stable Learning for Out-Of-Distribution Generalization*, CVPR 2021: weights are learned,
batch by batch, so that random Fourier features of any two channels are uncorrelated under them. Here they
weigh the reconstruction loss of each case, so that what the encoder is trained on is less redundant. What is
ours: features are standardised before the cosine, weights are bounded, steps are counted in units of the
uniform weight, and the gain is measured on cosines drawn apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phcc_model.config import WeightingSettings
from phcc_model.errors import StorageError
from phcc_model.seeds import derive_seed

HELD_OUT_DRAWS = 20
MOMENTUM = 0.9
TINY = 1e-12
STATE = ("batches", "features", "weights")


@dataclass(frozen=True)
class SampleWeights:
    """The weights of one batch and what to log of them.

    Attributes:
        weights_b: float32, sum 1.
        effective_fraction: effective sample size 1 / sum(w^2) over the number of cases: 1 is uniform.
        decorrelation: mean squared off-diagonal covariance of held-out Fourier features under the weights.
        decorrelation_uniform: the same under uniform weights.
    """

    weights_b: Tensor
    effective_fraction: float
    decorrelation: float
    decorrelation_uniform: float


class SampleWeighting:
    """Weights for one site's batches; its memory of earlier batches is the site's own and never travels.

    Args:
        settings: mode, strength, bound and memory.
        dim: channels of the features, 2 or more.
        seed: names the streams of the kept channels, of the cosines and of the held-out cosines.
    """

    def __init__(self, settings: WeightingSettings, dim: int, seed: int) -> None:
        self.settings = settings
        self._seed = seed
        order = torch.randperm(dim, generator=_stream(seed, "channels", 0))
        self._channels = order[: settings.feature_dims].sort().values
        self._batches = 0
        self._memory_mr = torch.zeros(0, len(self._channels), dtype=torch.float64)
        self._memory_weights_m = torch.zeros(0, dtype=torch.float64)

    def weigh(self, features_bc: Tensor, progress: float = 1.0) -> SampleWeights:
        """The weights of a batch; the memory moves on by it.

        Args:
            features_bc: pooled features of the cases, detached.
            progress: share of the pre-training that is done, 0 to 1; weights are uniform in the first share
                that the settings name.
        """
        n = len(features_bc)
        z_br = features_bc.detach().to("cpu", torch.float64)[:, self._channels]
        weights_b = uniform_b = torch.full((n,), 1.0 / n, dtype=torch.float64)
        if self.settings.mode == "decorrelate":
            if n > 1 and progress >= self.settings.uniform_fraction:
                weights_b = self._learn(z_br)
            self._remember(z_br, weights_b)
        h_knr = fourier_features(
            standardised(z_br), HELD_OUT_DRAWS, _stream(self._seed, "held-out", self._batches)
        )
        self._batches += 1
        return SampleWeights(
            weights_b.to(features_bc.device, torch.float32),
            float(1.0 / weights_b.square().sum() / n),
            float(decorrelation(weights_b, h_knr)) / HELD_OUT_DRAWS,
            float(decorrelation(uniform_b, h_knr)) / HELD_OUT_DRAWS,
        )

    def state(self) -> dict[str, NDArray[np.float64]]:
        """The memory as plain arrays, to be kept on the site's disk."""
        batches = np.array([self._batches], dtype=np.float64)
        parts = (batches, self._memory_mr.numpy().copy(), self._memory_weights_m.numpy().copy())
        return dict(zip(STATE, parts, strict=True))

    def load(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Go on where `state` was taken.

        Raises:
            StorageError: arrays are missing or do not belong to this weighting; nothing has been loaded then.
        """
        try:
            batches, features, weights = (np.array(state[name], np.float64) for name in STATE)
        except KeyError as missing:
            raise _damaged(f"the array {missing} is missing") from missing
        expected = (weights.size, len(self._channels))
        if batches.shape != (1,) or weights.ndim != 1 or features.shape != expected:
            raise _damaged(f"features of shape {features.shape}, expected {expected}")
        if not all(np.isfinite(part).all() for part in (batches, features, weights)):
            raise _damaged("not every number is finite")
        self._batches = int(batches[0])
        self._memory_mr, self._memory_weights_m = torch.from_numpy(features), torch.from_numpy(weights)

    def _learn(self, z_br: Tensor) -> Tensor:
        """A few gradient steps on the logits of the batch's weights; the memory's weights stand still."""
        s = self.settings
        n, m = len(z_br), len(self._memory_mr)
        share = n / (n + m)
        memory_m = self._memory_weights_m * (1.0 - share)
        x_nr = standardised(torch.cat([z_br, self._memory_mr]))
        stream = _stream(self._seed, "cosines", self._batches)
        weights_b = torch.full((n,), 1.0 / n, dtype=torch.float64)
        speed_b = torch.zeros_like(weights_b)
        for _ in range(s.steps):
            h_knr = fourier_features(x_nr, s.fourier_features, stream)
            joint_n = torch.cat([weights_b * share, memory_m])
            slope_b = decorrelation_gradient(joint_n, h_knr)[:n] * (share / s.penalty) + 2.0 * weights_b
            # Through the softmax: d w_i / d a_j = w_i (1[i = j] - w_j).
            speed_b = MOMENTUM * speed_b + weights_b * (slope_b - (weights_b * slope_b).sum())
            weights_b = bounded(weights_b.log() - s.learning_rate * n * speed_b, s.maximum)
        return weights_b

    def _remember(self, z_br: Tensor, weights_b: Tensor) -> None:
        """Running mean of features and weights, row by row as in StableNet; the first batch starts it."""
        if len(self._memory_mr) == 0:
            self._memory_mr, self._memory_weights_m = z_br.clone(), weights_b.clone()
            return
        keep = self.settings.memory
        m, n = len(self._memory_mr), min(len(z_br), len(self._memory_mr))
        relative_b = weights_b[:n] * (len(z_br) / m)
        self._memory_mr[:n] = keep * self._memory_mr[:n] + (1.0 - keep) * z_br[:n]
        self._memory_weights_m[:n] = keep * self._memory_weights_m[:n] + (1.0 - keep) * relative_b
        self._memory_weights_m /= self._memory_weights_m.sum()


def fourier_features(x_nr: Tensor, draws: int, stream: torch.Generator) -> Tensor:
    """H = sqrt(2) cos(omega x + phi), omega ~ N(0, 1), phi ~ U(0, 2 pi), for each channel: [draws, n, r].

    Rahimi and Recht, *Random Features for Large-Scale Kernel Machines*, NeurIPS 2007.
    """
    r = x_nr.shape[1]
    omega_k1r = torch.randn(draws, 1, r, dtype=x_nr.dtype, generator=stream)
    phi_k1r = torch.rand(draws, 1, r, dtype=x_nr.dtype, generator=stream) * (2.0 * math.pi)
    return math.sqrt(2.0) * torch.cos(omega_k1r * x_nr + phi_k1r)


def decorrelation(weights_n: Tensor, h_knr: Tensor) -> Tensor:
    """L_B: squared off-diagonal entries of the weighted covariances, over r (r - 1), summed over the k draws.

    Args:
        weights_n: sum 1.
        h_knr: Fourier features.
    """
    r = h_knr.shape[2]
    return _off_diagonal(weights_n, h_knr).square().sum() / (r * (r - 1))


def decorrelation_gradient(weights_n: Tensor, h_knr: Tensor) -> Tensor:
    """The derivative of `decorrelation` by each weight, [n].

    With E the off-diagonal part of Cov = H^T diag(w) H - m m^T and m = H^T w: dL/dw_n = 2 (h^T E h - 2 h^T E
    m), over r (r - 1) and summed over the draws.
    """
    off_krr = _off_diagonal(weights_n, h_knr)
    mean_k1r = (weights_n[None, :, None] * h_knr).sum(1, keepdim=True)
    r = h_knr.shape[2]
    return (2.0 / (r * (r - 1))) * ((h_knr @ off_krr) * (h_knr - 2.0 * mean_k1r)).sum((0, 2))


def bounded(logits_n: Tensor, maximum: float) -> Tensor:
    """The softmax, brought under the bound: no weight above `maximum` / n, sum 1.

    It is the nearest such distribution in the sense of Kullback and Leibler: min(bound, t softmax) for the
    one t that makes the sum 1. Found by fixing what lies above the bound and scaling up the rest, until
    nothing does.
    """
    # The floor keeps the rest from having no mass to scale up; the bound is then reached all the same.
    weights_n = torch.softmax(logits_n, 0).clamp_min(TINY)
    weights_n = weights_n / weights_n.sum()
    bound = maximum / len(weights_n)
    at_bound_n = torch.zeros_like(weights_n, dtype=torch.bool)
    while bool(((weights_n > bound) & ~at_bound_n).any()):
        at_bound_n |= weights_n >= bound
        left = 1.0 - bound * int(at_bound_n.sum())
        free_n = torch.where(at_bound_n, 0.0, weights_n)
        weights_n = torch.where(at_bound_n, bound, free_n * (left / free_n.sum().clamp_min(TINY)))
    return weights_n


def standardised(x_nr: Tensor) -> Tensor:
    """Each channel with mean 0 and standard deviation 1 over the rows: one width of cosine then fits all."""
    return (x_nr - x_nr.mean(0)) / x_nr.std(0, unbiased=False).clamp_min(TINY)


def _off_diagonal(weights_n: Tensor, h_knr: Tensor) -> Tensor:
    weighted_knr = weights_n[None, :, None] * h_knr
    mean_kr = weighted_knr.sum(1)
    cov_krr = weighted_knr.transpose(1, 2) @ h_knr - mean_kr[:, :, None] * mean_kr[:, None, :]
    return cov_krr - torch.diag_embed(cov_krr.diagonal(dim1=1, dim2=2))


def _stream(seed: int, name: str, batch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "sample-weighting", name, batch))


def _damaged(what: str) -> StorageError:
    return StorageError(
        what, where="memory of the sample weighting", remedy="Delete this site's stored state to start afresh"
    )
