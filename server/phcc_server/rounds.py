"""One arm of a study as a pure state machine: what happened, and so what is next. No I/O, no clock.

::

    pretrain: Train 0 -> Evaluate 0 -> Train 1 -> ... -> Evaluate last
    finetune: Train 0 -> Evaluate 0 -> ...            -> Evaluate last, or out of patience
    Finish: the round of the fine-tuning with the lowest validation loss

The second stage starts from the weights of the first one's last round; a masked autoencoder's reconstruction
loss on validation is recorded but does not choose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from phcc_model.config import FederationSettings, StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import StorageError


class RoundStatus(StrEnum):
    """How a round went."""

    COMPLETE = "COMPLETE"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Train:
    """Let the sites train; `round` from 0, of `rounds` at most."""

    stage: str
    round: int
    rounds: int


@dataclass(frozen=True)
class Evaluate:
    """Let the sites score the weights that this round gave, on their validation patients."""

    stage: str
    round: int


@dataclass(frozen=True)
class Finish:
    """The arm is done; the model is that of `best_round` of the fine-tuning."""

    best_round: int
    best_loss: float | None


Step = Train | Evaluate | Finish


@dataclass(frozen=True)
class StudyState:
    """Where an arm stands.

    Attributes:
        stage: ``pretrain`` or ``finetune``.
        round: of this stage, from 0: the one to be trained, or to be evaluated.
        trained: whether this round's training is done and its evaluation due.
        best_round: of this stage, by validation loss; None before the first evaluation.
        best_loss: its loss; None while no loss is known.
        rounds_without_better: since then.
        finished: nothing is left to do.
    """

    stage: str
    round: int = 0
    trained: bool = False
    best_round: int | None = None
    best_loss: float | None = None
    rounds_without_better: int = 0
    finished: bool = False

    @property
    def is_best(self) -> bool:
        """After an evaluation: whether the round just evaluated is the best so far."""
        return self.best_round is not None and self.rounds_without_better == 0

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StudyState:
        """The state that `to_json` wrote.

        Raises:
            StorageError: the text is no such state.
        """
        try:
            plain = json.loads(text)
            if (
                not isinstance(plain, dict)
                or {name: type(value) for name, value in plain.items()} not in _shapes()
            ):
                raise ValueError("wrong keys or types")
            state = cls(**plain)
        except ValueError as error:
            raise StorageError(f"not the state of a study ({error})", where="state") from error
        if not state._is_possible():
            raise StorageError("no arm can come into this state", where="state")
        return state

    def _is_possible(self) -> bool:
        counts = self.round >= 0 and 0 <= self.rounds_without_better <= self.round
        best = self.best_loss is None if self.best_round is None else 0 <= self.best_round <= self.round
        end = not self.finished or (
            self.trained and self.best_round is not None and self.stage == keys.FINETUNE
        )
        return self.stage in keys.STAGES and counts and best and end


def _shapes() -> list[dict[str, type]]:
    """The types that a state's values have: the best round and its loss may be unknown."""
    plain: dict[str, type] = {
        "stage": str,
        "round": int,
        "trained": bool,
        "rounds_without_better": int,
        "finished": bool,
    }
    none = type(None)
    return [
        plain | {"best_round": best_round, "best_loss": best_loss}
        for best_round, best_loss in ((none, none), (int, none), (int, float))
    ]


def first_state(study: StudyConfig, *, pretrain: bool = True) -> StudyState:
    """Where an arm begins; without pre-training rounds, or in an arm without them, at the fine-tuning."""
    return StudyState(keys.PRETRAIN if pretrain and study.pretrain.rounds else keys.FINETUNE)


def rounds_of(study: StudyConfig, stage: str) -> int:
    """Rounds of a stage, at most."""
    return study.pretrain.rounds if stage == keys.PRETRAIN else study.finetune.rounds


def next_step(state: StudyState, study: StudyConfig) -> Step:
    """What is to be done now."""
    if state.finished:
        assert state.best_round is not None
        return Finish(state.best_round, state.best_loss)
    if state.trained:
        return Evaluate(state.stage, state.round)
    return Train(state.stage, state.round, rounds_of(study, state.stage))


def after_training(state: StudyState, outcome: RoundStatus) -> StudyState:
    """The state after a `Train` step; a failed round is still to be trained.

    Raises:
        ValueError: no training was due.
    """
    if state.finished or state.trained:
        raise ValueError("no training was due")
    return state if outcome is RoundStatus.FAILED else replace(state, trained=True)


def after_evaluation(state: StudyState, validation_loss: float | None, study: StudyConfig) -> StudyState:
    """The state after an `Evaluate` step.

    Args:
        state: before it.
        validation_loss: over all sites; None (or what is not finite) where it is not known. As long as none
            is known, the latest round counts as the best; patience counts known losses only.
        study: the study.

    Raises:
        ValueError: no evaluation was due.
    """
    if state.finished or not state.trained:
        raise ValueError("no evaluation was due")
    judged = _judged(state, validation_loss)
    patience = study.finetune.patience if state.stage == keys.FINETUNE else 0
    out_of_patience = 0 < patience <= judged.rounds_without_better
    if state.round + 1 < rounds_of(study, state.stage) and not out_of_patience:
        return replace(judged, round=state.round + 1, trained=False)
    if state.stage == keys.PRETRAIN:
        return StudyState(keys.FINETUNE)
    return replace(judged, finished=True)


def _judged(state: StudyState, loss: float | None) -> StudyState:
    """The state with its best round brought up to date; the earlier of two equal losses stays the best."""
    if loss is None or not math.isfinite(loss):
        return replace(state, best_round=state.round) if state.best_loss is None else state
    if state.best_loss is None or loss < state.best_loss:
        return replace(state, best_round=state.round, best_loss=loss, rounds_without_better=0)
    return replace(state, rounds_without_better=state.rounds_without_better + 1)


def judge_round(
    expected: Collection[str],
    replied: Collection[str],
    refused: Collection[str],
    settings: FederationSettings,
) -> RoundStatus:
    """Whether a round may be aggregated, and what it is then called.

    Args:
        expected: sites that were sent an order.
        replied: sites whose reply arrived in time.
        refused: sites whose reply was set aside.
        settings: of the study.

    Returns:
        COMPLETE where every expected site is folded in; PARTIAL where at least `minimum_sites` and all
        `required_sites` are; FAILED otherwise.
    """
    folded = (set(replied) & set(expected)) - set(refused)
    if folded and folded == set(expected):
        return RoundStatus.COMPLETE
    if len(folded) >= settings.minimum_sites and folded.issuperset(settings.required_sites):
        return RoundStatus.PARTIAL
    return RoundStatus.FAILED
