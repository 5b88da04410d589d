"""SW-FCMAE, stage 1 of the method: mask, encode, fill, decode, loss.

[F] FCMAE of ConvNeXt V2 (Woo et al., CVPR 2023); [R] its 3-D, multi-phase form. Sample weights come from
`weighting`: a step minimises ``(weights_b * result.loss_b).sum()``, and uniform weights give plain FCMAE
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phcc_model.config import ModelSettings, PretrainSettings
from phcc_model.decoder import Decoder
from phcc_model.encoder import Encoder
from phcc_model.masking import draw_visible, grid_of, unpatchify
from phcc_model.sparse import Triple, spread
from phcc_model.targets import PatchTargets, patch_targets


@dataclass(frozen=True)
class Pictures:
    """What to draw: the volumes as the network fills them in.

    Attributes:
        prediction_bpdhw: predicted voxels of all patches, in units of the input; zero where a phase is
            missing.
        visible_bpdhw: bool per voxel, what the encoder saw.
    """

    prediction_bpdhw: Tensor
    visible_bpdhw: Tensor


@dataclass(frozen=True)
class Chance:
    """What is drawn for a batch of pre-training, case by case: a part of it meets what it meets in the whole.

    Attributes:
        visible_bpdhw: bool per cell of the last map, what the encoder sees.
        kept_btl: bool, which branch of the encoder's blocks each of its samples keeps (t: phases, or one if
            they are joint); None: drawn by the encoder.
    """

    visible_bpdhw: Tensor
    kept_btl: Tensor | None = None

    def of(self, cases: slice) -> Chance:
        """That of some cases."""
        return Chance(self.visible_bpdhw[cases], None if self.kept_btl is None else self.kept_btl[cases])


@dataclass(frozen=True)
class PretrainResult:
    """One forward pass of pre-training.

    Attributes:
        loss_b: squared error of each case, mean over its masked patches and present phases.
        features_bc: mean of the encoder's last map over visible cells and present phases; detached, float32.
        pictures: on request.
    """

    loss_b: Tensor
    features_bc: Tensor
    pictures: Pictures | None = None


class SWFCMAE(nn.Module):
    """The masked autoencoder of all phases of a case.

    Args:
        settings: the encoder and decoder. With `phases` ``shared`` each present phase of a case is a sample
            of a one-channel encoder; with ``joint`` the phases are the channels of one sample.
        phases: how many phases a study has.
        objective: mask ratio, one mask for all phases of a case or one each, and the target.

    Attributes:
        encoder, decoder: their parameters stand under ``encoder.`` and ``decoder.``.
    """

    def __init__(
        self, settings: ModelSettings, phases: int, objective: PretrainSettings | None = None
    ) -> None:
        super().__init__()
        self.phases = phases
        self.joint = settings.phases == "joint"
        self.objective = objective or PretrainSettings()
        channels = phases if self.joint else 1
        self.encoder = Encoder(settings, channels)
        d, h, w = self.encoder.patch
        self.decoder = Decoder(settings, self.encoder.dim, channels * d * h * w)

    def draw_mask(self, cases: int, size: Triple, generator: torch.Generator) -> Tensor:
        """Masks for a batch, on the grid of cells: bool [b, p, d, h, w], the same for all phases where
        configured.

        Args:
            cases: b.
            size: voxels of a volume along D, H, W.
            generator: a CPU generator.

        Raises:
            ConfigError: the volume is not a multiple of the patch, or a single patch.
        """
        grid = grid_of(size, self.encoder.patch)
        if self.joint or self.objective.mask_phases == "same":
            visible = self._drawn(cases, grid, generator)
            return visible[:, None].expand(-1, self.phases, -1, -1, -1)
        visible = self._drawn(cases * self.phases, grid, generator)
        return visible.view(cases, self.phases, *grid)

    def _drawn(self, samples: int, grid: Triple, generator: torch.Generator) -> Tensor:
        objective = self.objective
        return draw_visible(samples, grid, objective.mask_ratio, generator, objective.mask_block)

    def draw(self, present_bp: Tensor, size: Triple, generator: torch.Generator) -> Chance:
        """Draw for a batch: masks from the generator, the encoder's paths from torch's global one.

        Args:
            present_bp: True where a phase is there.
            size: voxels of a volume along D, H, W.
            generator: a CPU generator.

        Raises:
            ConfigError: the volume is not a multiple of the patch, or a single patch.
        """
        visible_bpdhw = self.draw_mask(len(present_bp), size, generator)
        there_bt = torch.ones(len(present_bp), 1, dtype=torch.bool) if self.joint else present_bp.cpu()
        return Chance(visible_bpdhw, spread(self.encoder.draw_paths(int(there_bt.sum())), there_bt))

    def forward(
        self,
        volumes_bpdhw: Tensor,
        present_bp: Tensor,
        chance: torch.Generator | Chance,
        *,
        pictures: bool = False,
    ) -> PretrainResult:
        """Mask, encode, fill, decode, compare.

        Args:
            volumes_bpdhw: normalised volumes; what a missing phase holds does not matter.
            present_bp: True where a phase is there; at least one in each case.
            chance: a CPU generator, from which the masks are drawn, or what `draw` drew for these cases.
            pictures: whether to return the filled-in volumes.

        Raises:
            ConfigError: the volume is not a multiple of the patch, or a single patch.
        """
        # 1. mask
        size = (volumes_bpdhw.shape[2], volumes_bpdhw.shape[3], volumes_bpdhw.shape[4])
        if isinstance(chance, torch.Generator):
            chance = Chance(self.draw_mask(len(volumes_bpdhw), size, chance))
        visible_bpdhw = chance.visible_bpdhw.to(volumes_bpdhw.device)
        x_ncdhw, visible_ndhw = self._samples(volumes_bpdhw, present_bp, visible_bpdhw)
        # 2. encode
        z_ncdhw: Tensor = self.encoder(x_ncdhw, visible_ndhw, self._kept(chance, present_bp))
        # 3. fill
        filled_nkc = self.decoder.fill(z_ncdhw, visible_ndhw)
        # 4. decode
        voxels_nkv = self.decoder(filled_nkc, tuple(visible_ndhw.shape[1:]))
        # 5. loss
        predicted_bpkv = self._per_phase(voxels_nkv, present_bp)
        targets = patch_targets(volumes_bpdhw, present_bp, self.encoder.patch, self.objective.target)
        loss_b = masked_loss(predicted_bpkv, targets, ~visible_bpdhw.flatten(2))
        features_bc = self._pool(z_ncdhw.detach(), visible_ndhw, present_bp)
        drawn = self._draw(predicted_bpkv.detach(), targets, visible_bpdhw, present_bp) if pictures else None
        return PretrainResult(loss_b, features_bc, drawn)

    def _samples(
        self, volumes_bpdhw: Tensor, present_bp: Tensor, visible_bpdhw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the encoder sees: cases with phases as channels, or every present phase by itself."""
        if self.joint:
            held = torch.where(present_bp[:, :, None, None, None], volumes_bpdhw, 0.0)
            return held, visible_bpdhw[:, 0]
        return volumes_bpdhw[present_bp][:, None], visible_bpdhw[present_bp]

    def _kept(self, chance: Chance, present_bp: Tensor) -> Tensor | None:
        """The rows of `kept_btl` that are samples of the encoder."""
        if chance.kept_btl is None:
            return None
        return chance.kept_btl[:, 0] if self.joint else chance.kept_btl[present_bp.cpu()]

    def _per_phase(self, voxels_nkv: Tensor, present_bp: Tensor) -> Tensor:
        """Predictions of the samples as [b, p, cells, voxels of a patch], zero where a phase is missing."""
        if self.joint:
            n, k, _ = voxels_nkv.shape
            return voxels_nkv.view(n, k, self.phases, -1).transpose(1, 2)
        return spread(voxels_nkv, present_bp)

    def _pool(self, z_ncdhw: Tensor, visible_ndhw: Tensor, present_bp: Tensor) -> Tensor:
        """Mean over visible cells (the map is zero at the others), then over the present phases of a case."""
        mean_nc: Tensor = z_ncdhw.flatten(2).sum(2) / visible_ndhw.flatten(1).sum(1, keepdim=True)
        if self.joint:
            return mean_nc
        return spread(mean_nc, present_bp).sum(1) / present_bp.sum(1, keepdim=True).clamp_min(1)

    def _draw(
        self, predicted_bpkv: Tensor, targets: PatchTargets, visible_bpdhw: Tensor, present_bp: Tensor
    ) -> Pictures:
        grid = (visible_bpdhw.shape[2], visible_bpdhw.shape[3], visible_bpdhw.shape[4])
        voxels = (predicted_bpkv * targets.std_bpk1 + targets.mean_bpk1) * present_bp[:, :, None, None]
        volumes = unpatchify(voxels.flatten(0, 1), grid, self.encoder.patch)[:, 0]
        shown = visible_bpdhw
        for axis, times in enumerate(self.encoder.patch, start=2):
            shown = shown.repeat_interleave(times, axis)
        return Pictures(volumes.view(*present_bp.shape, *volumes.shape[1:]), shown)


def masked_loss(predicted_bpkv: Tensor, targets: PatchTargets, hidden_bpk: Tensor) -> Tensor:
    """Mean squared error of each case over its hidden, useful patches; 0 for a case that has none.

    The targets are float32, and so is the error, whatever autocast made of the prediction.
    """
    error_bpk = (predicted_bpkv - targets.values_bpkv).square().mean(3)
    counted_bpk = (hidden_bpk & targets.useful_bpk).to(error_bpk)
    return (error_bpk * counted_bpk).sum((1, 2)) / counted_bpk.sum((1, 2)).clamp_min(1.0)
