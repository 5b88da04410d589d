"""Stage 2: phases -> one map each -> deep dynamic features -> attention over the phases -> one logit.

A re-implementation from the paper's abstract [R]; the figure in one screen is `Classifier.forward`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phcc_model.config import ModelSettings
from phcc_model.encoder import Encoder
from phcc_model.errors import ConfigError
from phcc_model.heads import CaseNorm, Fusion, PlainNorm, dynamic_features
from phcc_model.layers import start_weights
from phcc_model.look import Samples
from phcc_model.model_settings import FOUND
from phcc_model.plain_encoder import PlainEncoder
from phcc_model.pooling import Pooling
from phcc_model.sparse import spread

ENCODER_PREFIX = "encoder."

CPU_VOLUMES = 16
"""Volumes that go through the encoder at once on a CPU. Larger activations are given back to the system and
fetched again page by page: measured, 64 at once take up to twice as long per volume."""


class Classifier(nn.Module):
    """Proliferative or not, from the phases of one lesion, whichever of them are there.

    ``shared``: one encoder for every phase, one token per phase. ``joint``: the phases are the channels of
    one encoder, a missing one is a channel of zeros; there is one token, and with nothing to differ from,
    its absolute features are used whatever `features` says.

    Args:
        settings: sizes, and `settings.classifier` for the head.
        phases: the study's phases in the order of acquisition.
    """

    def __init__(self, settings: ModelSettings, phases: tuple[str, ...]) -> None:
        super().__init__()
        head = settings.classifier
        self.phases = phases
        self.joint = settings.phases == "joint"
        self.pooling = head.pooling
        self.kinds = ("absolute",) if self.joint else head.features
        channels = len(phases) if self.joint else 1
        plain = settings.encoder == "plain"
        self.encoder: Encoder | PlainEncoder = (
            PlainEncoder(channels) if plain else Encoder(settings, channels)
        )
        tokens = 1 if self.joint else len(phases)
        self.pool = Pooling(head.pooling, self.encoder.dim, tokens if head.look == "common" else 0)
        features = self.pool.features
        self.norm = CaseNorm(tokens, features) if head.feature_norm == "batch" else PlainNorm(features)
        self.fusion = Fusion(head, tokens, features * len(self.kinds))
        self.dropout = nn.Dropout(head.dropout)
        self.out = nn.Linear(head.width, 1)
        start_weights(self.out)

    def forward(self, volumes_bpdhw: Tensor, present_bp: Tensor, lesion_bdhw: Tensor) -> Tensor:
        """One logit per case.

        What stands in the voxels of a missing phase does not matter: they are never read.

        Args:
            volumes_bpdhw: normalised volumes, phases in the study's order.
            present_bp: bool, True where the phase is there.
            lesion_bdhw: 1 inside the lesion.

        Returns:
            float32 [B], positive where proliferative is the likelier.
        """
        kept_btl = self.draw_paths(present_bp)
        f_btc, _ = self.features(volumes_bpdhw, present_bp, lesion_bdhw, kept_btl)
        return self.score(f_btc, present_bp)

    def features(
        self, volumes_bpdhw: Tensor, present_bp: Tensor, lesion_bdhw: Tensor, kept_btl: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Each case's pooled maps, which depend on this case alone: nearly all of the work and the memory.

        Args:
            volumes_bpdhw: as in `forward`.
            present_bp: as in `forward`.
            lesion_bdhw: as in `forward`.
            kept_btl: these cases' rows of what `draw_paths` drew for a batch.

        Returns:
            float32 [B, T, C], zero where a phase is missing; T is 1 where phases are joint. And how far the
            network looked beside the lesion (`Pooled.missed_n`), the mean over the phases that are there, [B].
        """
        # 1. encode
        map_ncdhw, samples = self._encode(volumes_bpdhw, present_bp, kept_btl)
        case_n, token_n, _ = samples
        # What follows is small, and stays in float32 where the encoder runs in bfloat16.
        with torch.autocast(map_ncdhw.device.type, enabled=False):
            # 2. pool
            f_nc, missed_n = self.pool(map_ncdhw.float(), lesion_bdhw[case_n], samples)
            f_btc = f_nc.new_zeros(*kept_btl.shape[:2], f_nc.shape[1]).index_put((case_n, token_n), f_nc)
            return f_btc, self._over_phases(missed_n, case_n, present_bp)

    def score(self, f_btc: Tensor, present_bp: Tensor) -> Tensor:
        """One logit per case, from the pooled maps of a whole batch: here cases meet, in the norm.

        Args:
            f_btc: what `features` returned.
            present_bp: as in `forward`.

        Returns:
            float32 [B]
        """
        present_bt = self.counted(self._tokens(present_bp))
        with torch.autocast(f_btc.device.type, enabled=False):
            f_btc = self.norm(f_btc, present_bt)
            # 3. see what changes
            dynamic_btf = dynamic_features(f_btc, present_bt, self.kinds)
            # 4. fuse
            fused_bw = self.fusion(dynamic_btf, present_bt)
            # 5. score
            logit_b: Tensor = self.out(self.dropout(fused_bw))[:, 0]
        return logit_b

    def looked_within(self, volumes_bpdhw: Tensor, present_bp: Tensor, lesion_bdhw: Tensor) -> Tensor | None:
        """How much of where the network looks lies in the lesion as it is given, the mean over phases: [B].

        None where it does not look for lesions by itself. The arguments are those of `forward`.
        """
        if FOUND not in self.pool.parts:
            return None
        map_ncdhw, samples = self._encode(volumes_bpdhw, present_bp, self.draw_paths(present_bp))
        within_n = self.pool.within(map_ncdhw.float(), lesion_bdhw[samples.case_n], samples)
        return self._over_phases(within_n, samples.case_n, present_bp)

    def counted(self, present_bt: Tensor) -> Tensor:
        """The tokens that count in a score, bool [B, T]: in evaluation not those that no training case had.

        What such a phase would add was never learnt: without it the case is scored as one that lacks the phase,
        as the network learnt to. A case that has nothing else keeps what it has.

        Args:
            present_bt: bool, True where the token's phase is there.
        """
        if self.training or self.joint or not isinstance(self.norm, CaseNorm):
            return present_bt
        taught_bt = present_bt & (self.norm.mass_t1[:, 0] > 0)
        return taught_bt | (present_bt & ~taught_bt.any(dim=1, keepdim=True))

    def untaught(self) -> tuple[str, ...]:
        """The phases that no case of the training had (see `counted`).

        Empty where that cannot be told: phases are joint, a layer norm keeps no count, or nothing was trained.
        """
        if self.joint or not isinstance(self.norm, CaseNorm) or not bool((self.norm.mass_t1 > 0).any()):
            return ()
        masses = zip(self.phases, self.norm.mass_t1[:, 0].tolist(), strict=True)
        return tuple(phase for phase, mass in masses if mass <= 0.0)

    def draw_paths(self, present_bp: Tensor) -> Tensor:
        """Which branches of the encoder's blocks each token of a batch keeps: bool [B, T, blocks], on the CPU.

        Drawn from torch's global generator in the order in which `forward` encodes the samples.
        """
        there_bt = self._tokens(present_bp).cpu()
        samples = torch.empty(int(there_bt.sum()))
        at_once = self._at_once(present_bp.device, len(samples))
        drawn = [self.encoder.draw_paths(len(part)) for part in torch.split(samples, at_once)]
        return spread(torch.cat(drawn), there_bt)

    def load_encoder(self, state: Mapping[str, Tensor]) -> None:
        """Take over the encoder of a pre-trained `SWFCMAE`; its decoder is left behind.

        Args:
            state: the pre-trained model's state; every name under ``encoder.`` is used.

        Raises:
            ConfigError: names or shapes differ from this study's encoder; nothing has been loaded then.
        """
        encoder = {
            n.removeprefix(ENCODER_PREFIX): a for n, a in state.items() if n.startswith(ENCODER_PREFIX)
        }
        own = self.encoder.state_dict()
        differing = sorted(
            name
            for name in own.keys() | encoder.keys()
            if name not in own or name not in encoder or own[name].shape != encoder[name].shape
        )
        if differing:
            raise ConfigError(
                f"the pre-trained encoder differs in {len(differing)} arrays, first {differing[0]!r}",
                where="model",
                remedy="use the study configuration that the encoder was pre-trained with",
            )
        self.encoder.load_state_dict(encoder)

    def parameter_depths(self) -> dict[str, int]:
        """The layer of each parameter by its name: 0 the stem ... `self.encoder.layers` the whole head."""
        depths = {ENCODER_PREFIX + name: depth for name, depth in self.encoder.parameter_depths().items()}
        return {name: depths.get(name, self.encoder.layers) for name, _ in self.named_parameters()}

    def _tokens(self, present_bp: Tensor) -> Tensor:
        """Which tokens are there: the phases', or the one of all of them."""
        return present_bp.new_ones(len(present_bp), 1) if self.joint else present_bp

    def _over_phases(self, value_n: Tensor, case_n: Tensor, present_bp: Tensor) -> Tensor:
        """Each case's mean over its samples, [B]; zero for a case that has none."""
        total_b = value_n.new_zeros(len(present_bp)).index_add(0, case_n, value_n)
        return total_b / self._tokens(present_bp).sum(dim=1).clamp_min(1)

    def _encode(self, volumes_bpdhw: Tensor, present_bp: Tensor, kept_btl: Tensor) -> tuple[Tensor, Samples]:
        """The last map of every sample of the encoder, and the case and the token that it belongs to."""
        if self.joint:
            # `where`, not a product: not even a NaN in a missing phase may come through.
            there_bp111 = present_bp[:, :, None, None, None]
            x_bpdhw = torch.where(there_bp111, volumes_bpdhw, torch.zeros_like(volumes_bpdhw))
            return self._maps(x_bpdhw, kept_btl[:, 0]), Samples.alone(x_bpdhw)
        # Only phases that are there are encoded.
        case_n, phase_n = present_bp.nonzero(as_tuple=True)
        maps_ncdhw = self._maps(volumes_bpdhw[case_n, phase_n][:, None], kept_btl[present_bp.cpu()])
        return maps_ncdhw, Samples(case_n, phase_n, self.counted(present_bp))

    def _maps(self, x_ncdhw: Tensor, kept_nl: Tensor) -> Tensor:
        """The encoder, which looks at each sample by itself, on few of them at a time where that is faster."""
        if not len(x_ncdhw):  # no case of the batch has any phase
            return x_ncdhw.new_zeros(0, self.encoder.dim, 1, 1, 1)
        at_once = self._at_once(x_ncdhw.device, len(x_ncdhw))
        parts = zip(torch.split(x_ncdhw, at_once), torch.split(kept_nl, at_once), strict=True)
        return torch.cat([self.encoder(x, None, kept) for x, kept in parts])

    def _at_once(self, device: torch.device, volumes: int) -> int:
        return CPU_VOLUMES if device.type == "cpu" else max(volumes, 1)
