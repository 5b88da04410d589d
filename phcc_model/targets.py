"""What the decoder is asked for: the voxels of each patch, normalised by choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phcc_model.masking import patchify
from phcc_model.sparse import Triple

Target = Literal["norm-pix", "raw", "norm-across-phases", "norm-volume", "enhancement"]

EPSILON = 1e-6
FLAT = 0.01
"""A patch whose spread is below this share of its volume's is near-constant: padding, air, a clipped tail."""


@dataclass(frozen=True)
class PatchTargets:
    """Targets of every patch of every case and phase.

    Axes: b cases, p phases, k cells, v voxels of a patch.

    Attributes:
        values_bpkv: what to predict.
        mean_bpk1, std_bpk1: values = (voxels - mean) / std, so that a prediction can be drawn as an image.
        useful_bpk: False where the phase is missing or the patch is near-constant: no loss there.
    """

    values_bpkv: Tensor
    mean_bpk1: Tensor
    std_bpk1: Tensor
    useful_bpk: Tensor


def patch_targets(volumes_bpdhw: Tensor, present_bp: Tensor, patch: Triple, target: Target) -> PatchTargets:
    """Cut volumes into patches and normalise them.

    `norm-pix` [F: MAE]: each patch by its own mean and standard deviation. `raw`: as they are.
    `norm-across-phases` [R]: by mean and standard deviation over all present phases of the case at that cell,
    so that the enhancement from phase to phase stays in the target; for an encoder that sees one phase at a time
    (`model.phases` ``shared``) which phase it is tells most of it (DECISIONS 51). `norm-volume` [R]: by mean and
    standard deviation of the whole crop in that phase, so that how bright a place is beside its surroundings
    stays too. `enhancement` [R]: less the mean over all present phases of the case at that cell, by the spread
    that such differences have in the whole crop: a place that does not enhance has a target near zero, not of its
    noise.
    Near-constant patches are left out: dividing by their spread would make a target of their noise.

    Args:
        volumes_bpdhw: normalised volumes, float32.
        present_bp: True where a phase is there; what a missing phase holds does not matter.
        patch: voxels of a cell along D, H, W.
        target: how to normalise.

    Raises:
        ConfigError: the volume is not a multiple of the patch.
    """
    b, p = present_bp.shape
    held_bp111 = present_bp[:, :, None, None, None]
    volumes_bpdhw = torch.where(held_bp111, volumes_bpdhw, 0.0)
    cut = patchify(volumes_bpdhw.flatten(0, 1)[:, None], patch)
    voxels_bpkv = cut.view(b, p, *cut.shape[1:])
    there_bp11 = present_bp[:, :, None, None]
    across = (1,) if target == "norm-across-phases" else ()
    mean, variance = _moments(voxels_bpkv, there_bp11, (*across, 3))
    _, whole = _moments(voxels_bpkv, there_bp11, (*across, 2, 3))
    useful_bpk = (there_bp11 & (variance > FLAT**2 * whole))[..., 0]
    std = (variance + EPSILON).sqrt()
    if target == "raw":
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    elif target == "norm-volume":
        mean, variance = _moments(voxels_bpkv, there_bp11, (2, 3))
        std = (variance + EPSILON).sqrt()
    elif target == "enhancement":
        mean, _ = _moments(voxels_bpkv, there_bp11, (1, 3))
        _, variance = _moments(voxels_bpkv - mean, there_bp11, (1, 2, 3))
        std = (variance + EPSILON).sqrt()
    shape = (*voxels_bpkv.shape[:3], 1)
    return PatchTargets((voxels_bpkv - mean) / std, mean.expand(shape), std.expand(shape), useful_bpk)


def _moments(x_bpkv: Tensor, there_bp11: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance over `axes` of what is there."""
    weight = there_bp11.expand_as(x_bpkv).to(x_bpkv)
    count = weight.sum(axes, keepdim=True).clamp_min(1.0)
    mean = (x_bpkv * weight).sum(axes, keepdim=True) / count
    return mean, ((x_bpkv - mean).square() * weight).sum(axes, keepdim=True) / count
