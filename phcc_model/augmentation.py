"""What is done to the training cases of stage 2: the same anatomy seen otherwise, by seed.

Drawn per case, on the whole batch at once: measured on one thread, MONAI's `RandAffine` takes four times as
long per batch for the affine alone (case by case, in full 3-D), and it does not know that a missing phase has
to stay missing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from phcc_model.config import AugmentationSettings


def augment(
    volumes_bpdhw: Tensor, present_bp: Tensor, lesion_bdhw: Tensor, settings: AugmentationSettings, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Flips, a small affine, gain and offset, noise, and now and then a phase that is hidden.

    Geometry is the same for all phases of a case and its lesion mask; gain, offset and noise are drawn per
    phase. A missing phase stays zero. The arguments are left as they are.

    Args:
        volumes_bpdhw: normalised volumes, zeros where a phase is missing.
        present_bp: bool, True where the phase is there.
        lesion_bdhw: 1 inside the lesion.
        settings: how much of each.
        seed: every draw follows from it.

    Returns:
        Volumes, presence and lesion (0 or 1), each of the shape and type that came in.
    """
    source = torch.Generator(device=volumes_bpdhw.device).manual_seed(seed)
    present_bp = hide_phases(present_bp, settings.phase_dropout, source)
    stacked_bqdhw = torch.cat([volumes_bpdhw, lesion_bdhw[:, None].to(volumes_bpdhw.dtype)], dim=1)
    if settings.flip:
        stacked_bqdhw = flip(stacked_bqdhw, source)
    moved_bqdhw = _affine(stacked_bqdhw, settings, source)
    lesion = (moved_bqdhw[:, -1] >= 0.5).to(lesion_bdhw.dtype)
    volumes = _intensity(moved_bqdhw[:, :-1], settings, source)
    return volumes.mul_(present_bp[:, :, None, None, None]), present_bp, lesion


def hide_phases(present_bp: Tensor, probability: float, source: torch.Generator) -> Tensor:
    """Hide each phase that is there with this probability, but never the last one of a case.

    Args:
        present_bp: bool, True where the phase is there.
        probability: of hiding one phase.
        source: where the draws come from.

    Returns:
        bool [B, P], at least one True wherever there was one.
    """
    draw_bp = _uniform(source, present_bp.device, *present_bp.shape)
    draw_bp = draw_bp.masked_fill(~present_bp, -1.0)
    spared_bp = F.one_hot(draw_bp.argmax(dim=1), present_bp.shape[1]).bool()
    return present_bp & ((draw_bp >= probability) | spared_bp)


def flip(x_bcdhw: Tensor, source: torch.Generator) -> Tensor:
    """Mirror each case along each of its three axes with probability 1/2, all channels alike (exact)."""
    drawn_b3 = _uniform(source, x_bcdhw.device, len(x_bcdhw), 3) < 0.5
    for axis in range(3):
        x_bcdhw = torch.where(drawn_b3[:, axis, None, None, None, None], x_bcdhw.flip(axis + 2), x_bcdhw)
    return x_bcdhw


def moved(x_bcdhw: Tensor, seed: int) -> Tensor:
    """Each case elsewhere in its crop: all channels alike, any way along each axis; what leaves comes in again.

    By whole voxels, so that no value changes.

    Args:
        x_bcdhw: the volumes; they are left as they are.
        seed: every draw follows from it.
    """
    source = torch.Generator().manual_seed(seed)
    size_3 = torch.tensor(x_bcdhw.shape[2:])
    by_b3 = (torch.rand((len(x_bcdhw), 3), generator=source) * size_3).long().tolist()
    return torch.stack([x_cdhw.roll(by, (1, 2, 3)) for x_cdhw, by in zip(x_bcdhw, by_b3, strict=True)])


def _uniform(source: torch.Generator, device: torch.device, *shape: int) -> Tensor:
    """U(0, 1) on `device`, whichever device the generator lives on."""
    return torch.rand(shape, generator=source, device=source.device).to(device)


def _affine(x_bcdhw: Tensor, settings: AugmentationSettings, source: torch.Generator) -> Tensor:
    """Rotate about the slice axis, scale and shift, with linear interpolation; borders are continued.

    In-plane voxels are taken as square. A shift of s voxels in-plane is the same share of the crop along the
    slice axis, where crops are thinner. As nothing tilts a slice, the 3-D interpolation is exactly one
    in-plane after one along the slice axis, at a third of the cost of a 3-D one.
    """
    if not (settings.rotation_degrees or settings.scale or settings.shift_voxels):
        return x_bcdhw
    batch, channels, depth, height, width = x_bcdhw.shape

    def symmetric(*shape: int) -> Tensor:
        return 2.0 * _uniform(source, x_bcdhw.device, *shape) - 1.0

    angle_b = symmetric(batch) * math.radians(settings.rotation_degrees)
    zoom_b = 1.0 + symmetric(batch) * settings.scale
    # In units of half the crop, as grid_sample counts.
    shift_b3 = symmetric(batch, 3) * (2.0 * settings.shift_voxels / min(height, width))
    cos_b, sin_b = zoom_b * angle_b.cos(), zoom_b * angle_b.sin()
    theta_b23 = torch.stack(
        [
            torch.stack([cos_b, -sin_b * height / width, shift_b3[:, 2]], dim=1),
            torch.stack([sin_b * width / height, cos_b, shift_b3[:, 1]], dim=1),
        ],
        dim=1,
    )
    sliced_bchw = along_slices(x_bcdhw, zoom_b, shift_b3[:, 0]).flatten(1, 2)
    grid_bhw2 = F.affine_grid(theta_b23, [batch, 1, height, width], align_corners=False).to(x_bcdhw.dtype)
    moved = F.grid_sample(sliced_bchw, grid_bhw2, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.view(batch, channels, depth, height, width)


def along_slices(x_bcdhw: Tensor, zoom_b: Tensor, shift_b: Tensor) -> Tensor:
    """Scale and shift along the slice axis: linear interpolation as one small matrix per case.

    Args:
        x_bcdhw: the volumes.
        zoom_b: step between samples, in voxels.
        shift_b: displacement in units of half the crop, as `grid_sample` counts.
    """
    depth = x_bcdhw.shape[2]
    slices_d = torch.arange(depth, device=x_bcdhw.device, dtype=x_bcdhw.dtype)
    centre = (depth - 1) / 2.0
    at_bd = (slices_d - centre) * zoom_b[:, None] + centre + shift_b[:, None] * depth / 2.0
    weight_bde = (1.0 - (at_bd.clamp(0, depth - 1)[:, :, None] - slices_d).abs()).clamp_min(0.0)
    return torch.einsum("bde,bcehw->bcdhw", weight_bde.to(x_bcdhw.dtype), x_bcdhw)


def _intensity(x_bpdhw: Tensor, settings: AugmentationSettings, source: torch.Generator) -> Tensor:
    """A gain and an offset per phase, and noise per voxel, all normal."""

    def normal(shape: torch.Size | tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=source, device=x_bpdhw.device, dtype=x_bpdhw.dtype)

    if settings.intensity:
        gain_bp, offset_bp = settings.intensity * normal((2, *x_bpdhw.shape[:2]))
        x_bpdhw = torch.addcmul(
            offset_bp[..., None, None, None], x_bpdhw, 1.0 + gain_bp[..., None, None, None]
        )
    if settings.noise:
        x_bpdhw = normal(x_bpdhw.shape).mul_(settings.noise).add_(x_bpdhw)
    return x_bpdhw
