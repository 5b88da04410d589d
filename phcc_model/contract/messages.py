"""The orders and replies that coordinator and hospital exchange.

Each is a frozen record of named values and of flat arrays; `phcc_model.contract.wire` takes it apart and
puts it together again, every value checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from phcc_model.contract.wire import Message


@dataclass(frozen=True, kw_only=True)
class CardOrder(Message):
    """Asks a site who it is, and what it has for this study.

    Attributes:
        study_digest: `StudyConfig.digest` of the study as configured: what a hospital has approved.
        study: the study itself, as text.
        arm: which variant of the study; `phcc_model.arms.arm_study` says what it changes.
    """

    study_digest: str
    study: str
    arm: str


@dataclass(frozen=True, kw_only=True)
class SiteCard(Message):
    """How a site announces itself: the answer to a `CardOrder`, counts by split (see `keys.SPLITS`).

    Attributes:
        site: the site's name.
        study_digest: the study for which this was counted.
        patients: patients by split.
        cases: cases (lesions) by split.
        positives: patients by split with at least one positive lesion.
        negatives: the other patients by split with a labelled lesion; who is in neither is unlabelled.
        aside: patients that are in no split, by the reason (see `keys.ASIDE`).
        seen: what the training patients' images look like, as ends of ranges (see `ranges.ENDS`).
    """

    site: str
    study_digest: str
    patients: dict[str, int]
    cases: dict[str, int]
    positives: dict[str, int]
    negatives: dict[str, int]
    aside: dict[str, int] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainOrder(Message):
    """Asks a site to train these weights on its patients and to send back what changed.

    Attributes:
        study_digest: `StudyConfig.digest` of the study as configured: what a hospital has approved.
        study: the study itself, as text.
        arm: which variant of the study; `phcc_model.arms.arm_study` says what it changes.
        stage: ``pretrain`` or ``finetune``.
        round: of this stage, from 0.
        rounds: of this stage, at most.
        site: to whom this is addressed.
        seed: from which the site derives every random draw of this round.
        manifest_digest: `Manifest.digest` of the state.
        encoding: how the change is to be written.
        notice: why this site's last reply was refused, if it was.
        arrays: the shared weights, one flat array per dtype under its name.
    """

    carries_arrays: ClassVar[bool] = True

    study_digest: str
    study: str
    arm: str
    stage: str
    round: int
    rounds: int
    site: str
    seed: int
    manifest_digest: str
    encoding: str
    notice: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainReply(Message):
    """What training at one site gave.

    Attributes:
        study_digest, arm, stage, round, site, manifest_digest, encoding: of the order that this answers.
        patients: patients trained on.
        cases: cases trained on.
        steps: steps of the optimiser.
        seconds: that training took.
        metrics: means over the site's patients; names from `keys.METRICS` only.
        arrays: the change, as `codec.encode_change` writes it.
    """

    carries_arrays: ClassVar[bool] = True

    study_digest: str
    arm: str
    stage: str
    round: int
    site: str
    manifest_digest: str
    encoding: str
    patients: int
    cases: int
    steps: int
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EvaluateOrder(Message):
    """Asks a site to score these weights on its patients of one split.

    Attributes:
        study_digest, study, arm, stage, round, site, seed, manifest_digest, arrays: as in `TrainOrder`; the
            weights are those *after* the round's aggregation.
        split: ``validation``, or ``test`` at the very end.
    """

    carries_arrays: ClassVar[bool] = True

    study_digest: str
    study: str
    arm: str
    stage: str
    round: int
    site: str
    seed: int
    manifest_digest: str
    split: str


@dataclass(frozen=True, kw_only=True)
class EvaluateReply(Message):
    """How well the weights do at one site.

    Attributes:
        study_digest, arm, stage, round, site, manifest_digest, split: of the order that this answers.
        patients: patients scored.
        cases: cases scored.
        loss: mean over the cases.
        positives: positive cases per bin of the score, bins of equal width over 0..1. Together with
            `negatives` it holds all `cases`; both are empty where there is no score (pre-training).
        negatives: negative cases, likewise.
        seconds: that scoring took.
    """

    study_digest: str
    arm: str
    stage: str
    round: int
    site: str
    manifest_digest: str
    split: str
    patients: int
    cases: int
    loss: float
    positives: list[int]
    negatives: list[int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PollOrder(Message):
    """Asks a site how far it has come with an order, or for the reply to it.

    Attributes:
        site: to whom this is addressed.
        order: `Message.digest` of the order that is meant.
    """

    site: str
    order: str


@dataclass(frozen=True, kw_only=True)
class Working(Message):
    """How far a site has come with an order: what it says in place of a reply that is not ready.

    Attributes:
        site: the site's name.
        order: `Message.digest` of the order that is meant.
        state: ``waiting``, ``training``, or ``unknown``: the order has to be sent again.
        step: steps of the optimiser that are done.
        steps: of the whole order; 0 while it is not known.
        seconds: since the order came in.
    """

    site: str
    order: str
    state: str
    step: int
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Failure(Message):
    """Why a site did not do what it was asked.

    Attributes:
        site: the site's name.
        code: one word of `keys.FAILURE_CODES`.
        line: one line for people, already cleared of names and paths by the site.
    """

    site: str
    code: str
    line: str
