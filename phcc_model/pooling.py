"""From the encoder's last map to one vector: means over places that are given, or that the network finds."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phcc_model.layers import EPSILON
from phcc_model.look import CommonLook, OwnLook, Samples
from phcc_model.model_settings import FOUND

RIM_FROM, CORE_TO = 0.75, 0.55
"""[R] Shares of the way from a lesion's middle to its border: where the rim begins, where the core ends."""

Grid = tuple[int, int, int]


class Pooled(NamedTuple):
    """What `Pooling` makes of maps.

    Attributes:
        f_nc: [n, C * parts], in the order in which the pooling names its parts.
        missed_n: how far the network looks beside the lesion that is given (`missed`); zero where it does not
            look for one by itself.
    """

    f_nc: Tensor
    missed_n: Tensor


class Pooling(nn.Module):
    """One vector per map: the parts that the study's `model.classifier.pooling` names, side by side.

    ``gap`` mean over all cells; ``lesion`` mean weighted by the share of each cell that is lesion, over all cells
    alike where no cell has any; ``spread`` standard deviation about the lesion's mean with the same weights: how
    far the lesion is the same throughout, which no mean tells (with ``found``: about its mean); ``rim``
    and ``core`` means over the lesion's outer shell and its middle (`lesion_zones`). ``found``: attention over
    the cells [F: Ilse et al., ICML 2018, here without their gate], a mean over what the network finds in the
    images by itself [R]; in training it is told where the lesion is (`Pooled.missed_n`, weighted by
    `finetune.find_weight`), afterwards it is not asked.

    Args:
        pooling: names joined by ``+``.
        channels: of the map.
        common_look: of how many phases one look is made (`CommonLook`); 0: each map is looked at by itself.
    """

    def __init__(self, pooling: str, channels: int, common_look: int = 0) -> None:
        super().__init__()
        self.parts = tuple(pooling.split("+"))
        self.features = channels * len(self.parts)
        if FOUND in self.parts:
            self.look_norm = nn.LayerNorm(channels, eps=EPSILON)
            self.look = CommonLook(common_look, channels) if common_look else OwnLook(channels)

    def forward(self, map_ncdhw: Tensor, lesion_ndhw: Tensor, samples: Samples | None = None) -> Pooled:
        """Pool.

        Args:
            map_ncdhw: the encoder's last map.
            lesion_ndhw: 1 inside the lesion, on the input's grid or on any other; all zero where it is not known.
            samples: which case and phase each map is of; None: each is a case's only one.
        """
        map_nck = map_ncdhw.flatten(2)
        grid = (map_ncdhw.shape[2], map_ncdhw.shape[3], map_ncdhw.shape[4])
        lesion_ndhw = lesion_ndhw.to(map_nck.dtype)
        parts: dict[str, Tensor] = {"gap": map_nck.mean(dim=2)}
        missed_n = map_nck.new_zeros(map_nck.shape[0])
        if FOUND in self.parts:
            weight_nk = self.looks(map_nck, samples)
            parts[FOUND] = _mean(map_nck, weight_nk)
            missed_n = missed(weight_nk, lesion_ndhw, grid)
        else:
            weight_nk = _weights(lesion_ndhw, grid)
            parts["lesion"] = _mean(map_nck, weight_nk)
        if "spread" in self.parts:
            parts["spread"] = _spread(map_nck, weight_nk)
        if "rim" in self.parts:
            for part, zone_ndhw in zip(("rim", "core"), lesion_zones(lesion_ndhw > 0), strict=True):
                parts[part] = _mean(map_nck, _weights(zone_ndhw.to(map_nck.dtype), grid))
        return Pooled(torch.cat([parts[part] for part in self.parts], dim=1), missed_n)

    def looks(self, map_nck: Tensor, samples: Samples | None = None) -> Tensor:
        """Where the network looks: [n, cells], sums to 1 over the cells."""
        samples = Samples.alone(map_nck) if samples is None else samples
        speaks_nk: Tensor = self.look(self.look_norm(map_nck.transpose(1, 2)), samples)
        return speaks_nk.softmax(dim=1)

    def within(self, map_ncdhw: Tensor, lesion_ndhw: Tensor, samples: Samples | None = None) -> Tensor:
        """The share of where the network looks that lies in the lesion as it is given: [n]."""
        grid = (map_ncdhw.shape[2], map_ncdhw.shape[3], map_ncdhw.shape[4])
        return _within(self.looks(map_ncdhw.flatten(2), samples), lesion_ndhw.to(map_ncdhw.dtype), grid)


def missed(look_nk: Tensor, lesion_ndhw: Tensor, grid: Grid) -> Tensor:
    """How far a look lies beside a lesion: ``-log`` of the share of it that lies within, [n].

    Where within the lesion it lies is left to it. Zero where no lesion is given.

    Args:
        look_nk: sums to 1 over the cells.
        lesion_ndhw: 1 inside the lesion.
        grid: cells along D, H, W.
    """
    beside_n = -_within(look_nk, lesion_ndhw, grid).clamp_min(EPSILON).log()
    return torch.where(lesion_ndhw.flatten(1).amax(dim=1) > 0, beside_n, 0.0)


def _within(look_nk: Tensor, lesion_ndhw: Tensor, grid: Grid) -> Tensor:
    return (look_nk * _share(lesion_ndhw, grid)).sum(dim=1)


def _share(zone_ndhw: Tensor, grid: Grid) -> Tensor:
    """How much of each cell lies in a zone, [n, cells]."""
    return F.adaptive_avg_pool3d(zone_ndhw[:, None], grid).flatten(1)


def _mean(map_nck: Tensor, weight_nk: Tensor) -> Tensor:
    return torch.einsum("nck,nk->nc", map_nck, weight_nk)


def _spread(map_nck: Tensor, weight_nk: Tensor) -> Tensor:
    """Standard deviation about the mean, both with these weights."""
    square_nck = (map_nck - _mean(map_nck, weight_nk)[:, :, None]).square()
    # The root's slope is infinite at zero, where a lesion lies within one cell.
    return (_mean(square_nck, weight_nk) + EPSILON).sqrt()


def _weights(zone_ndhw: Tensor, grid: Grid) -> Tensor:
    """Each cell's part in the mean over a zone, [n, cells]: its share of it; all alike where there is none."""
    share_nk = _share(zone_ndhw, grid)
    total_n1 = share_nk.sum(dim=1, keepdim=True)
    return torch.where(total_n1 > 0, share_nk / total_n1.clamp_min(EPSILON), 1.0 / share_nk.shape[1])


def lesion_zones(inside_ndhw: Tensor) -> tuple[Tensor, Tensor]:
    """A lesion's rim and core, as a reader sees them: rim enhancement and a necrotic core are signs [F: LI-RADS].

    How deep a voxel lies is measured on the ellipsoid that fills the box around the lesion, so that a box and a
    mask of one lesion have nearly the same zones; a box's corners, outside that ellipsoid, belong to neither.

    Args:
        inside_ndhw: bool, True inside the lesion.

    Returns:
        Rim and core, bool, each [n, d, h, w]; empty where the lesion is.
    """
    squares = torch.zeros(inside_ndhw.shape, device=inside_ndhw.device)
    for axis in (1, 2, 3):
        size = inside_ndhw.shape[axis]
        others = [other for other in (1, 2, 3) if other != axis]
        hit_na = inside_ndhw.to(squares.dtype).amax(dim=others) > 0.0
        at_a = torch.arange(size, device=inside_ndhw.device, dtype=squares.dtype)
        first_n = torch.where(hit_na, at_a, float(size)).amin(dim=1)
        last_n = torch.where(hit_na, at_a, -1.0).amax(dim=1)
        half_n1 = ((last_n - first_n + 1.0) / 2.0).clamp_min(0.5)[:, None]
        along_na = ((at_a - ((first_n + last_n) / 2.0)[:, None]) / half_n1).square()
        squares = squares + along_na.view(-1, *(size if a == axis else 1 for a in (1, 2, 3)))
    rim = inside_ndhw & (squares >= RIM_FROM**2) & (squares <= 1.0)
    return rim, inside_ndhw & (squares <= CORE_TO**2)
