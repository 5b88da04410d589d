"""Stage 2 at one site: one round of the classifier on the site's labelled cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from phcc_model.augmentation import augment, moved
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.seeds import derive_seed
from phcc_model.threshold import ScoreHistogram
from phcc_model.training.batches import Batch
from phcc_model.training.control import Control
from phcc_model.training.labels import label_subset, positive_weight
from phcc_model.training.progress import Place, ProgressListener
from phcc_model.training.sharing import Share
from phcc_model.training.steps import Recipe, RoundOptimiser, precision, training_mode

STAGE = "finetune"


@dataclass(frozen=True)
class FinetuneRoundResult:
    """What one site did in one round of fine-tuning.

    Attributes:
        loss: mean over the cases of the round's last epoch; of the scores alone, also where the network is told
            where to look.
        cases: labelled cases trained on in each epoch, after `finetune.label_fraction`.
        patients: their patients.
        positives: cases with the positive label.
        steps: optimiser steps.
        auc_training: of the last epoch's scores as they were trained on (augmented, with dropout, while the
            weights moved), from bins; NaN with one class only.
    """

    loss: float
    cases: int
    patients: int
    positives: int
    steps: int
    auc_training: float


def finetune_round(
    model: Classifier,
    cases: CaseSet,
    study: StudyConfig,
    *,
    round_index: int,
    site: str,
    device: torch.device,
    progress: ProgressListener | None = None,
    reference: Mapping[str, Tensor] | None = None,
    control: Control | None = None,
    share: Share | None = None,
) -> FinetuneRoundResult:
    """Train `model`, in place, on one site's labelled cases for one round.

    `finetune.label_fraction` is applied here (`label_subset`), cases without a label are left out. The same
    arguments give the same weights, bit for bit, on the same machine and number of threads.

    Args:
        model: holds the global weights; on return the site's.
        cases: the site's training cases.
        study: `study.finetune` and `study.federation`.
        round_index: the round, from 0.
        site: the site's name.
        device: where to train.
        progress: called after each step.
        reference: global weights by name for FedProx; None: those that `model` has now.
        control: SCAFFOLD's; takes note of the gradients and corrects them.
        share: how batches are shared out over ranks and time; what returns is the same on every rank.

    Raises:
        TrainingError: there is no labelled case, or the loss is not finite.
    """
    settings = study.finetune
    place = Place(study.seed, STAGE, round_index, site)
    cases = label_subset(cases.labelled, settings.label_fraction, study.seed, site)
    epochs = place.epochs(len(cases), settings.batch_size, settings.local_epochs, cases.label_n)
    steps = sum(len(batches) for batches in epochs)
    weight = torch.tensor(positive_weight(cases.label_n, settings.positive_weight), device=device)
    frozen, share = round_index < settings.freeze_encoder_rounds, share or Share()
    with training_mode(model, device), _frozen(model, frozen), share.runner(model) as run:
        optimiser = RoundOptimiser(
            model,
            _recipe(study),
            place,
            steps=steps,
            depths=model.parameter_depths(),
            reference=reference,
            control=control,
            listener=progress,
        )
        for epoch, batches in enumerate(epochs):
            torch.manual_seed(place.derive(epoch, "dropout"))
            loss, histogram = 0.0, ScoreHistogram.empty()
            for step, at_b in enumerate(batches):
                batch = Batch.of(cases, at_b, device)
                seed = place.derive(epoch, "augmentation", step)
                logit_b, missed_b = run(partial(_forward, model, batch, study, seed, share))
                value = F.binary_cross_entropy_with_logits(logit_b, batch.label_b, pos_weight=weight)
                optimiser.step(value + settings.find_weight * missed_b.mean(), epoch)
                loss += float(value.detach()) * len(at_b) / len(cases)
                score_b = torch.sigmoid(logit_b.detach().double()).cpu().numpy()
                histogram += ScoreHistogram.from_scores(score_b, cases.label_n[at_b])
    return FinetuneRoundResult(
        loss=loss,
        cases=len(cases),
        patients=len(set(cases.patient)),
        positives=int((cases.label_n == 1).sum()),
        steps=steps,
        auc_training=histogram.auc,
    )


def _forward(
    model: Classifier, batch: Batch, study: StudyConfig, seed: int, share: Share
) -> tuple[Tensor, ...]:
    """One logit per case of a batch, and how far it looked beside; what is drawn, is drawn for all of them.

    How far it looked has more rows than cases where some are seen a second time, moved (`_with_moved`).
    """
    settings = study.finetune
    scored = len(batch.present_bp)
    seen = augment(batch.volumes_bpdhw, batch.present_bp, batch.lesion_bdhw, settings.augmentation, seed)
    volumes_bpdhw, present_bp, lesion_bdhw = _with_moved(
        *seen, study.moved_of(scored), derive_seed(seed, "moved")
    )
    kept_btl = model.draw_paths(present_bp)

    def work(part: slice) -> tuple[Tensor, ...]:
        return model.features(volumes_bpdhw[part], present_bp[part], lesion_bdhw[part], kept_btl[part])

    with precision(volumes_bpdhw.device, settings.bf16):
        f_btc, missed_b = share.gather(work, len(present_bp))
        return model.score(f_btc[:scored], present_bp[:scored]), missed_b


def _with_moved(
    volumes_bpdhw: Tensor, present_bp: Tensor, lesion_bdhw: Tensor, again: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch and after it its first `again` cases once more, moved in their crops (batches are drawn anew)."""
    if not again:
        return volumes_bpdhw, present_bp, lesion_bdhw
    stacked_bqdhw = torch.cat([volumes_bpdhw, lesion_bdhw[:, None].to(volumes_bpdhw.dtype)], dim=1)
    elsewhere_aqdhw = moved(stacked_bqdhw[:again], seed)
    return (
        torch.cat([volumes_bpdhw, elsewhere_aqdhw[:, :-1]]),
        torch.cat([present_bp, present_bp[:again]]),
        torch.cat([lesion_bdhw, elsewhere_aqdhw[:, -1].to(lesion_bdhw.dtype)]),
    )


@contextmanager
def _frozen(model: Classifier, frozen: bool) -> Iterator[None]:
    """Hold the encoder still for a while: no gradient, no drop path."""
    if not frozen:
        yield
        return
    model.encoder.requires_grad_(False)
    model.encoder.eval()
    try:
        yield
    finally:
        model.encoder.requires_grad_(True)


def _recipe(study: StudyConfig) -> Recipe:
    settings, federation = study.finetune, study.federation
    return Recipe(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        rounds=settings.rounds,
        layer_decay=settings.layer_decay,
        proximal=federation.proximal if federation.algorithm == "fedprox" else 0.0,
    )
