"""One order in, one reply out: everything a site does, without a network and without Flower.

The same order gives the same reply, bit for bit: training is a function of the weights, the study, the round
and the site's data, and what a site remembers from round to round is stored under the round that wrote it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.announcement import card_of
from phcc_client.devices import has_bf16, without_bf16
from phcc_client.guard import failure_of, may_leave
from phcc_client.kept_scores import KeptScores
from phcc_client.memory import SiteMemory
from phcc_client.ordered_study import asked_of, study_of
from phcc_client.own import own_part
from phcc_client.preparations import open_prepared
from phcc_client.room import Room, most_at_once
from phcc_client.site import SPLITS, Site, Split
from phcc_model.build import build_autoencoder, build_classifier, load_state, state_of
from phcc_model.cases import CaseSet
from phcc_model.checkpoint import state_digest
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.codec import change_of, encode_change
from phcc_model.contract.control import without_control
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    Failure,
    PollOrder,
    SiteCard,
    TrainOrder,
    TrainReply,
    Working,
)
from phcc_model.errors import ContractError, StorageError, TrainingError, VersionMismatch
from phcc_model.pretrain import SWFCMAE
from phcc_model.threshold import ScoreHistogram
from phcc_model.training.control import Control
from phcc_model.training.finetuning import finetune_round
from phcc_model.training.predict import predict
from phcc_model.training.pretraining import pretrain_loss, pretrain_round
from phcc_model.training.progress import ProgressListener
from phcc_model.training.sharing import Share

log = logging.getLogger("phcc_client")

SMALLEST = 1e-7
"""A probability this near to 0 or 1 counts as this far from it in the loss."""


@dataclass(frozen=True)
class Runtime:
    """What this machine gives; nothing here changes what is computed, but for rounding.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``...
        threads: threads of torch; None leaves torch's own choice.
        rank: of this process among those that train together, from 0; the first one keeps the site's memory.
        ranks: how many there are.
    """

    device: str = "cpu"
    threads: int | None = None
    rank: int = 0
    ranks: int = 1


class Session:
    """A site's side of a study.

    Args:
        folder: the site's folder; its cases stand in it by the study's way of preparing them.
        name: the site's name.
        runtime: the machine.
        listener: called after each step of the optimiser; what it raises ends the training.
        note: tells the people of this machine what it could not do as asked; None: a line in the log.
        scores: keeps each test case's score for the people of this hospital; None, as in a simulation: nothing.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        runtime: Runtime | None = None,
        listener: ProgressListener | None = None,
        note: Callable[[str], None] | None = None,
        scores: KeptScores | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.runtime = runtime or Runtime()
        self.listener = listener
        self.device = torch.device(self.runtime.device)
        self.note = note or log.warning
        self.room = Room(self.note)
        self.scores = scores
        if self.runtime.threads is not None:
            torch.set_num_threads(self.runtime.threads)

    def card(self, order: CardOrder) -> SiteCard:
        """Announce this site and its counts.

        Raises:
            PhccError: the study or this site's data do not allow it.
        """
        card = card_of(self._site(order), self.name, order.study_digest)
        may_leave(card)
        return card

    def train(self, order: TrainOrder) -> TrainReply:
        """Train the ordered weights on this site's training cases for one round, in the memory that there is.

        Raises:
            PhccError: the order does not fit this site's package, study or data, or training fails.
        """
        return self.room.fit(order, partial(self.train_at_once, order))

    def train_at_once(self, order: TrainOrder, at_once: int | None = None) -> TrainReply:
        """`train` with so many cases in memory at once; None: a whole batch, or this rank's share of it.

        Raises:
            PhccError: as `train`.
            MemoryError: it does not fit; also torch's own errors, see `devices.is_out_of_memory`.
        """
        study = self._checked(order)
        rounds = study.pretrain.rounds if order.stage == keys.PRETRAIN else study.finetune.rounds
        if order.round >= rounds:
            raise ContractError(f"round {order.round} is ordered, the study has {rounds}", where="order")
        cases = self._site(order).load("train")
        share = Share(self.runtime.rank, self.runtime.ranks, at_once)
        study = self._as_able(study, order.stage, share)
        begin = time.monotonic()
        model, manifest = _model(study, order.stage)
        _check_manifest(manifest, order.manifest_digest)
        controlled = study.federation.controlled
        given = without_control(order.arrays) if controlled else order.arrays
        own = own_part(study, order, model, manifest, self._memories, self.note)
        load_state(model, own.begin(manifest.unpack(given)))
        if isinstance(model, SWFCMAE):
            counts, metrics = self._pretrain(model, cases, study, order, share, own.control)
        else:
            counts, metrics = self._finetune(model, cases, study, order, share, own.control)
        after = state_of(model)
        change = change_of(given, manifest.pack(after))
        further = own.end(after, keep=share.rank == 0)
        reply = TrainReply(
            package=keys.package_version(),
            study_digest=order.study_digest,
            arm=order.arm,
            stage=order.stage,
            round=order.round,
            site=self.name,
            manifest_digest=order.manifest_digest,
            encoding=order.encoding,
            **counts,
            seconds=time.monotonic() - begin,
            metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
            arrays=encode_change(change, order.encoding) | further,
        )
        may_leave(reply, manifest, controlled=controlled)
        return reply

    def evaluate(self, order: EvaluateOrder) -> EvaluateReply:
        """Score the ordered weights on one of this site's splits: a loss and counts per bin, never a score.

        Raises:
            PhccError: as `train`.
        """
        return self.room.fit(order, partial(self._evaluate, order))

    def _evaluate(self, order: EvaluateOrder, at_once: int | None) -> EvaluateReply:
        study = self._as_able(self._checked(order), order.stage, Share())
        cases = self._site(order).load(_split_of(order))
        begin = time.monotonic()
        model, manifest = _model(study, order.stage)
        _check_manifest(manifest, order.manifest_digest)
        load_state(model, manifest.unpack(order.arrays))
        histogram: ScoreHistogram | None = None
        most = at_once or most_at_once(order)
        if isinstance(model, SWFCMAE):
            loss = pretrain_loss(model, cases, study, device=self.device, batch_size=most)
        else:
            cases = cases.labelled
            if not len(cases):
                raise TrainingError(
                    "there is no case with a label to score", where=f"{self.name} {order.split}"
                )
            logit = predict(model, cases, device=self.device, batch_size=most).astype(np.float64)
            probability = 1.0 / (1.0 + np.exp(-logit))
            loss = _log_loss(probability, cases.label_n)
            histogram = ScoreHistogram.from_scores(probability, cases.label_n)
            self._keep_scores(order, manifest, cases, probability)
        reply = EvaluateReply(
            package=keys.package_version(),
            study_digest=order.study_digest,
            arm=order.arm,
            stage=order.stage,
            round=order.round,
            site=self.name,
            manifest_digest=order.manifest_digest,
            split=order.split,
            patients=len(set(cases.patient)),
            cases=len(cases),
            loss=loss,
            positives=histogram.positive_k.tolist() if histogram else [],
            negatives=histogram.negative_k.tolist() if histogram else [],
            seconds=time.monotonic() - begin,
        )
        may_leave(reply)
        return reply

    @property
    def _memories(self) -> Path:
        return self.folder / "memory"

    def _keep_scores(
        self, order: EvaluateOrder, manifest: Manifest, cases: CaseSet, score_n: NDArray[np.float64]
    ) -> None:
        """Keep the test's scores on this site's disk; that there is no room is no reason to lose the test."""
        if self.scores is None or order.split != keys.TEST:
            return
        try:
            self.scores.keep(order, state_digest(manifest.unpack(order.arrays)), cases, score_n)
        except StorageError as error:
            self.note(f"the test of {order.arm} is not there for phcc-client mistakes: {error}")

    def poll(self, order: PollOrder) -> Working:
        """A session answers every order at once and keeps none."""
        return Working(
            package=keys.package_version(),
            site=self.name,
            order=order.order,
            state=keys.UNKNOWN,
            step=0,
            steps=0,
            seconds=0.0,
        )

    def failed(self, error: Exception) -> Failure:
        """What is said when an order cannot be carried out."""
        return failure_of(error, self.name)

    def _pretrain(
        self,
        model: SWFCMAE,
        cases: CaseSet,
        study: StudyConfig,
        order: TrainOrder,
        share: Share,
        control: Control | None,
    ) -> tuple[dict[str, int], dict[str, float]]:
        memory = SiteMemory(self._memories, order.study_digest, order.arm)
        result = pretrain_round(
            model,
            cases,
            study,
            round_index=order.round,
            site=self.name,
            device=self.device,
            memory=memory.before(order.round),
            progress=self.listener,
            control=control,
            share=share,
        )
        if share.rank == 0:
            memory.keep(order.round, result.memory)
        counts = {"patients": result.patients, "cases": result.cases, "steps": result.steps}
        return counts, {
            "loss": result.loss,
            "weighted_loss": result.weighted_loss,
            "effective_sample_size": result.effective_fraction,
            "effective_rank": result.effective_rank,
            "decorrelation_weighted": result.decorrelation_weighted,
            "decorrelation_uniform": result.decorrelation_uniform,
        }

    def _finetune(
        self,
        model: Classifier,
        cases: CaseSet,
        study: StudyConfig,
        order: TrainOrder,
        share: Share,
        control: Control | None,
    ) -> tuple[dict[str, int], dict[str, float]]:
        result = finetune_round(
            model,
            cases,
            study,
            round_index=order.round,
            site=self.name,
            device=self.device,
            progress=self.listener,
            control=control,
            share=share,
        )
        counts = {"patients": result.patients, "cases": result.cases, "steps": result.steps}
        return counts, {"loss": result.loss, "auc_training": result.auc_training}

    def _as_able(self, study: StudyConfig, stage: str, share: Share) -> StudyConfig:
        """The study, in float32 where it asks for bf16 and not every rank's device has it."""
        settings = study.pretrain if stage == keys.PRETRAIN else study.finetune
        if not settings.bf16 or share.agreed(has_bf16(self.device), self.device):
            return study
        if share.rank == 0:
            self.note(without_bf16(self.device))
        return study.model_copy(update={stage: settings.model_copy(update={"bf16": False})})

    def _checked(self, order: TrainOrder | EvaluateOrder) -> StudyConfig:
        if order.site != self.name:
            raise ContractError(f"the order is for {order.site}, this is {self.name}", where="order")
        return study_of(order)

    def _site(self, order: CardOrder | TrainOrder | EvaluateOrder) -> Site:
        return open_prepared(self.folder, study_of(order), self.name, asked_of(order))


@functools.lru_cache(maxsize=4)
def _manifest(study_json: str, stage: str) -> Manifest:
    study = StudyConfig.model_validate_json(study_json)
    return Manifest.of(state_of(_build(study, stage)))


def _build(study: StudyConfig, stage: str) -> SWFCMAE | Classifier:
    return build_autoencoder(study) if stage == keys.PRETRAIN else build_classifier(study)


def _model(study: StudyConfig, stage: str) -> tuple[SWFCMAE | Classifier, Manifest]:
    return _build(study, stage), _manifest(study.model_dump_json(), stage)


def _split_of(order: EvaluateOrder) -> Split:
    """The contract's names of the splits are the site folder's."""
    return next(split for split in SPLITS if split == order.split)


def _check_manifest(manifest: Manifest, ordered: str) -> None:
    if manifest.digest != ordered:
        raise VersionMismatch(
            "the weights in the order are laid out for another model than this package builds",
            where="manifest",
            remedy="Install the same version of the package on both sides",
        )


def _log_loss(probability: NDArray[np.float64], label: NDArray[np.int8]) -> float:
    """Mean binary cross-entropy, in nats."""
    p: NDArray[Any] = np.clip(probability, SMALLEST, 1.0 - SMALLEST)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))
