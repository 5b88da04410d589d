"""The project's temporal head on curves: what stage 2 does with one token per phase, with one token per minute.

`CurveHead` is `phcc_model.classifier.Classifier` without its encoder: the same norm over cases, dynamic features,
fusion over time and last layer. It is trained in rounds, as a study's stage 2 is: each centre goes on from the
common weights with an AdamW of its own, and the mean of what they changed, weighed by animals, is the next model
(FedAvg). One site that holds all scans is training in one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from phcc_model.build import load_state, state_of
from phcc_model.config import ClassifierSettings, FederationSettings
from phcc_model.contract.manifest import Manifest
from phcc_model.heads import CaseNorm, Fusion, dynamic_features
from phcc_model.layers import start_weights
from phcc_model.seeds import derive_seed
from phcc_model.training.labels import positive_weight
from phcc_model.training.progress import Place
from phcc_model.training.steps import Recipe, RoundOptimiser, evaluation_mode, training_mode
from phcc_server.aggregation import Aggregate, site_weight
from phcc_simulation.real.rats import MINUTES, Scans

STAGE = "finetune"
CPU = torch.device("cpu")
HEAD = ClassifierSettings(width=16, heads=2)


@dataclass(frozen=True)
class HeadSettings:
    """How the head is built and trained.

    Attributes:
        classifier: the head, in the terms of a study.
        rounds, local_epochs, batch_size, learning_rate, weight_decay: as in a study's ``finetune``.
        gain: sd of the logarithm by which a whole curve's logarithm is multiplied: centres, field strengths and
            doses differ in how much the same amount of contrast shows.
        noise: sd of what is added to each token.
        dropout: probability that a token is hidden.
    """

    classifier: ClassifierSettings = HEAD
    rounds: int = 20
    local_epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    gain: float = 0.0
    noise: float = 0.03
    dropout: float = 0.05


class CurveHead(nn.Module):
    """From a curve's logarithm to one logit.

    Args:
        settings: of the head.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.kinds = settings.features
        self.norm = CaseNorm(len(MINUTES), 1)
        self.fusion = Fusion(settings, len(MINUTES), len(self.kinds))
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(settings.width, 1)
        start_weights(self.out)

    def forward(self, log_bt: Tensor, present_bt: Tensor) -> Tensor:
        """One logit per curve.

        Args:
            log_bt: logarithm of the signal over its pre-contrast mean; finite, also where a token is missing.
            present_bt: bool, True where the token is there.
        """
        f_btc = self.norm(log_bt[..., None], present_bt)
        fused_bw = self.fusion(dynamic_features(f_btc, present_bt, self.kinds), present_bt)
        logit_b: Tensor = self.out(self.dropout(fused_bw))[:, 0]
        return logit_b


def train_head(sites: Mapping[str, Scans], settings: HeadSettings, seed: int) -> CurveHead:
    """Train a head over sites; the same arguments give the same weights, bit for bit, on the same machine.

    Args:
        sites: scans by site; every site has one at least.
        settings: how.
        seed: of the first weights and of all that is drawn.

    Raises:
        TrainingError: a site has no scan, or the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "start", "curves"))
        model = CurveHead(settings.classifier)
    manifest = Manifest.of(state_of(model))
    weighting = FederationSettings()
    for round_index in range(settings.rounds):
        base = manifest.pack(state_of(model))["float32"]
        aggregate = Aggregate(base.size)
        for site in sorted(sites):
            load_state(model, manifest.unpack({"float32": base}))
            _train_round(model, sites[site], settings, Place(seed, STAGE, round_index, site))
            changed = manifest.pack(state_of(model))["float32"]
            aggregate.fold(changed - base, site_weight(weighting, sites[site].animals))
        load_state(model, manifest.unpack({"float32": base + aggregate.mean()}))
    return model


def score_scans(model: CurveHead, scans: Scans) -> NDArray[np.float64]:
    """One logit per scan; a scan's does not depend on the others."""
    log_nt, present_nt = _tensors(scans)
    with evaluation_mode(model, CPU):
        logit_n: NDArray[np.float64] = model(log_nt, present_nt).double().numpy()
    return logit_n


def _train_round(model: CurveHead, scans: Scans, settings: HeadSettings, place: Place) -> None:
    """Some epochs at one site, in place."""
    log_nt, present_nt = _tensors(scans)
    label_n = torch.from_numpy(scans.label_n).float()
    weight = torch.tensor(positive_weight(scans.label_n, "balanced"))
    epochs = place.epochs(len(scans), settings.batch_size, settings.local_epochs, scans.label_n)
    recipe = Recipe(settings.learning_rate, settings.weight_decay, warmup=0.1, rounds=settings.rounds)
    with training_mode(model, CPU):
        optimiser = RoundOptimiser(model, recipe, place, steps=sum(map(len, epochs)))
        for epoch, batches in enumerate(epochs):
            torch.manual_seed(place.derive(epoch, "dropout"))
            for step, at_b in enumerate(batches):
                seed = place.derive(epoch, "augmentation", step)
                logit_b = model(*augment_curves(log_nt[at_b], present_nt[at_b], settings, seed))
                optimiser.step(
                    F.binary_cross_entropy_with_logits(logit_b, label_n[at_b], pos_weight=weight), epoch
                )


def augment_curves(
    log_bt: Tensor, present_bt: Tensor, settings: HeadSettings, seed: int
) -> tuple[Tensor, Tensor]:
    """The same curves as another scanner might have shown them, drawn by `seed`.

    Args:
        log_bt: logarithms; multiplied by ``exp(gain * N(0, 1))`` as a whole, then noise is added to each token.
        present_bt: some of those present are hidden; a curve never loses its last one.
        settings: how much.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    gain_b1 = torch.exp(settings.gain * torch.randn(len(log_bt), 1, generator=generator))
    noise_bt = settings.noise * torch.randn(log_bt.shape, generator=generator)
    kept_bt = present_bt & (torch.rand(log_bt.shape, generator=generator) >= settings.dropout)
    kept_bt = torch.where(kept_bt.any(dim=1, keepdim=True), kept_bt, present_bt)
    return log_bt * gain_b1 + noise_bt, kept_bt


def _tensors(scans: Scans) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.log(scans.ratio_nt)).float(), torch.from_numpy(scans.present_nt)


def candidates() -> Sequence[HeadSettings]:
    """Settings to choose among, by the training centres' animals: how much curves vary, how long is trained."""
    return [HeadSettings(gain=gain, rounds=rounds) for rounds in (10, 30) for gain in (0.0, 0.3)]
