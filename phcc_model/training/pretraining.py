"""Stage 1 at one site: one round of SW-FCMAE, and its loss on cases that are not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phcc_model.augmentation import flip
from phcc_model.cases import CaseSet
from phcc_model.config import StudyConfig
from phcc_model.errors import TrainingError
from phcc_model.pretrain import SWFCMAE, PretrainResult
from phcc_model.seeds import derive_seed
from phcc_model.training.batches import Batch, in_order
from phcc_model.training.control import Control
from phcc_model.training.progress import Place, ProgressListener
from phcc_model.training.sharing import Share
from phcc_model.training.steps import Recipe, RoundOptimiser, evaluation_mode, precision, training_mode
from phcc_model.weighting import SampleWeighting, SampleWeights

STAGE = "pretrain"
CASES_AT_ONCE = 16
"""Where nothing is trained."""

Memory = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class PretrainRoundResult:
    """What one site did in one round of pre-training, and how its weights and features fared.

    Means are over the round's steps. Nothing here is about a single patient.

    Attributes:
        loss: plain mean reconstruction loss of the round's cases (uniform, so that sites compare).
        weighted_loss: the loss that was minimised; equal to `loss` with uniform weights and equal batches.
        cases: cases trained on in each epoch.
        patients: their patients.
        steps: optimiser steps.
        effective_fraction: 1 / sum(w^2) over the batch's cases, as a share: 1 is uniform weights.
        decorrelation_weighted: mean squared off-diagonal covariance under the weights, on held-out draws.
        decorrelation_uniform: the same under uniform weights: the weights earn their keep below it.
        effective_rank: see `effective_rank`, of the last epoch's features: near 1, the encoder has collapsed.
        memory: the sample weighting's memory, the site's own: it stays where it is.
    """

    loss: float
    weighted_loss: float
    cases: int
    patients: int
    steps: int
    effective_fraction: float
    decorrelation_weighted: float
    decorrelation_uniform: float
    effective_rank: float
    memory: dict[str, NDArray[np.float64]]


def pretrain_round(
    model: SWFCMAE,
    cases: CaseSet,
    study: StudyConfig,
    *,
    round_index: int,
    site: str,
    device: torch.device,
    memory: Memory | None = None,
    progress: ProgressListener | None = None,
    reference: Mapping[str, Tensor] | None = None,
    control: Control | None = None,
    share: Share | None = None,
) -> PretrainRoundResult:
    """Train `model`, in place, on one site's cases for one round; labels are not looked at.

    The same arguments give the same weights, bit for bit, on the same machine and number of threads.

    Args:
        model: holds the global weights; on return the site's.
        cases: the site's training cases.
        study: `study.pretrain` and `study.federation`.
        round_index: the round, from 0.
        site: the site's name.
        device: where to train.
        memory: what the site's last round returned, None at the beginning.
        progress: called after each step.
        reference: global weights by name for FedProx; None: those that `model` has now.
        control: SCAFFOLD's; takes note of the gradients and corrects them.
        share: how batches are shared out over ranks and time; what returns is the same on every rank.

    Raises:
        TrainingError: there is no case, or the loss is not finite.
        StorageError: `memory` is damaged.
    """
    settings = study.pretrain
    place = Place(study.seed, STAGE, round_index, site)
    epochs = place.epochs(len(cases), settings.batch_size, settings.local_epochs)
    steps = sum(len(batches) for batches in epochs)
    weighting = SampleWeighting(
        settings.weighting, model.encoder.dim, derive_seed(study.seed, "weighting", site)
    )
    if memory is not None:
        weighting.load(memory)
    log, share = _Log(cases), share or Share()
    with training_mode(model, device), share.runner(model) as run:
        optimiser = RoundOptimiser(
            model,
            _recipe(study),
            place,
            steps=steps,
            reference=reference,
            control=control,
            listener=progress,
        )
        for epoch, batches in enumerate(epochs):
            torch.manual_seed(place.derive(epoch, "drop-path"))
            source = torch.Generator().manual_seed(place.derive(epoch, "masks"))
            log.features.clear()
            for at_b in batches:
                batch = Batch.of(cases, at_b, device)
                loss_b, features_bc = run(partial(_forward, model, batch, study, source, share))
                weights = weighting.weigh(features_bc, optimiser.position)
                log.add(loss_b, features_bc, weights)
                log.weighted_loss += optimiser.step((weights.weights_b * loss_b).sum(), epoch)
    return log.result(steps, weighting)


def pretrain_loss(
    model: SWFCMAE,
    cases: CaseSet,
    study: StudyConfig,
    *,
    device: torch.device,
    batch_size: int = CASES_AT_ONCE,
) -> float:
    """Reconstruction loss with fixed masks, mean over the cases: comparable from round to round.

    Args:
        model: the global weights.
        cases: cases that are not trained on.
        study: names the masks' seed and the precision.
        device: where to compute.
        batch_size: cases at a time.

    Raises:
        TrainingError: there is no case, or the loss is not finite.
    """
    if not len(cases):
        raise TrainingError("there is no case to take the loss of", where=f"{STAGE} validation")
    masks = torch.Generator().manual_seed(derive_seed(study.seed, STAGE, "validation-masks"))
    total = 0.0
    with evaluation_mode(model, device), precision(device, study.pretrain.bf16):
        for at_b in in_order(len(cases), batch_size):
            batch = Batch.of(cases, at_b, device)
            total += float(model(batch.volumes_bpdhw, batch.present_bp, masks).loss_b.double().sum())
    if not np.isfinite(total):
        raise TrainingError(
            "the loss is not finite",
            where=f"{STAGE} validation",
            remedy=f"lower {STAGE}.learning_rate, and look for damaged volumes",
        )
    return total / len(cases)


def effective_rank(features_nc: NDArray[Any]) -> float:
    """How many directions the features really use: exp of the entropy of the singular values' shares.

    Roy & Vetterli, EUSIPCO 2007, of the features about their mean. 1 if all lie on a line, at most
    min(n - 1, c), 0 if they are all the same.

    Args:
        features_nc: features, one row per case.
    """
    centred = np.asarray(features_nc, np.float64)
    centred = centred - centred.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    # Rounding leaves singular values of about this size where there is no spread at all.
    singular = singular[singular > 1e-6 * np.sqrt(centred.size) * (np.abs(features_nc).max() + 1e-30)]
    if not singular.size:
        return 0.0
    share = singular / singular.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


class _Log:
    """Running sums of one round."""

    def __init__(self, cases: CaseSet) -> None:
        self.cases = len(cases)
        self.patients = len(set(cases.patient))
        self.loss = 0.0
        self.seen = 0
        self.weighted_loss = 0.0
        self.weights: list[SampleWeights] = []
        self.features: list[NDArray[np.float32]] = []

    def add(self, loss_b: Tensor, features_bc: Tensor, weights: SampleWeights) -> None:
        self.loss += float(loss_b.detach().double().sum())
        self.seen += len(loss_b)
        self.features.append(features_bc.float().cpu().numpy())
        self.weights.append(weights)

    def result(self, steps: int, weighting: SampleWeighting) -> PretrainRoundResult:
        return PretrainRoundResult(
            loss=self.loss / self.seen,
            weighted_loss=self.weighted_loss / steps,
            cases=self.cases,
            patients=self.patients,
            steps=steps,
            effective_fraction=float(np.mean([w.effective_fraction for w in self.weights])),
            decorrelation_weighted=float(np.mean([w.decorrelation for w in self.weights])),
            decorrelation_uniform=float(np.mean([w.decorrelation_uniform for w in self.weights])),
            effective_rank=effective_rank(np.concatenate(self.features)),
            memory=weighting.state(),
        )


def _recipe(study: StudyConfig) -> Recipe:
    settings, federation = study.pretrain, study.federation
    return Recipe(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        round_warmup=settings.round_warmup,
        rounds=settings.rounds,
        proximal=federation.proximal if federation.algorithm == "fedprox" else 0.0,
    )


def _forward(
    model: SWFCMAE, batch: Batch, study: StudyConfig, source: torch.Generator, share: Share
) -> tuple[Tensor, ...]:
    """Loss and features of each case of a batch; what is drawn, is drawn for all of them."""
    volumes_bpdhw, present_bp = batch.volumes_bpdhw, batch.present_bp
    if study.pretrain.flips:
        volumes_bpdhw = flip(volumes_bpdhw, source)
    chance = model.draw(present_bp, study.data.crop.size, source)

    def work(part: slice) -> tuple[Tensor, ...]:
        outcome: PretrainResult = model(volumes_bpdhw[part], present_bp[part], chance.of(part))
        return outcome.loss_b, outcome.features_bc

    with precision(volumes_bpdhw.device, study.pretrain.bf16):
        return share.gather(work, len(present_bp))
