"""Where an arm of a study stands, from what the run's folder keeps of it: store, ledger, end of the pre-training.

A round is kept once it has been trained and evaluated; after a crash it is done again, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phcc_model.build import first_weights
from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import SiteCard
from phcc_model.errors import StorageError
from phcc_server.ledger import CardRecord, Ledger, RoundRecord
from phcc_server.rounds import StudyState, Train, after_evaluation, first_state, rounds_of
from phcc_server.rules import RuleState, rule_of
from phcc_server.store import RunStore
from phcc_server.training_round import median_change
from phcc_server.validation_round import NO_THRESHOLD

State = Mapping[str, Array]


@dataclass(frozen=True)
class ArmResult:
    """A finished arm.

    Attributes:
        arm: its name.
        weights: of the chosen round of the fine-tuning, by name.
        threshold: on the probability, by Youden on all sites' validation patients; 0.5 where they have none.
        best_round: the chosen round, from 0.
        digest: of the weights.
        rounds: the arm's records, in order.
    """

    arm: str
    weights: State
    threshold: float
    best_round: int
    digest: str
    rounds: tuple[RoundRecord, ...]


class Standing:
    """What is kept of one arm, and what follows from it for the round to come.

    Args:
        arm: its name.
        study: the arm's study.
        store: where checkpoints go.
        ledger: where rounds are recorded.
        pretrained: file that holds the end of the pre-training; one that is there already is used in place of
            a pre-training of one's own, so that arms may share it.
    """

    def __init__(
        self, arm: str, study: StudyConfig, store: RunStore, ledger: Ledger, pretrained: Path
    ) -> None:
        self.arm = arm
        self.study = study
        self.store = store
        self.ledger = ledger
        self.pretrained = pretrained
        self._written: dict[str, CardRecord] = {}

    def state(self) -> StudyState:
        """Where the arm stands; a round that a crash left trained and recorded, but not judged, is judged."""
        shared = self.study.pretrain.rounds > 0 and self.pretrained.exists()
        state = self.store.state(self.arm) or first_state(self.study, pretrain=not shared)
        latest = self.store.latest(self.arm)
        if state.finished or not state.trained or latest is None:
            return state
        step = Train(state.stage, state.round, rounds_of(self.study, state.stage))
        validation = self._records()[(state.stage, state.round)].validation
        settled = after_evaluation(state, validation.loss if validation else None, self.study)
        self._advance(step, latest.arrays, state, settled)
        return settled

    def weights(self, state: StudyState) -> State:
        """The weights from which the next round starts."""
        latest = self.store.latest(self.arm)
        if latest is not None and latest.info.stage == state.stage:
            return latest.arrays
        before: State | None = None
        if state.stage == keys.FINETUNE and self.study.pretrain.rounds:
            before = latest.arrays if latest is not None else load_checkpoint(self.pretrained)[0]
        return first_weights(self.study, state.stage, before)

    def held(self, state: StudyState, weights: State) -> RuleState:
        """What the rule of aggregation kept in the round before the next one.

        Raises:
            StorageError: it should be there, and is not.
        """
        manifest = Manifest.of(weights)
        start = rule_of(self.study, state.stage, manifest).start(manifest.size)
        if not state.round or not start:
            return start
        kept = self.store.rule(self.arm)
        if kept is None or (kept.info.stage, kept.info.round_index) != (state.stage, state.round - 1):
            raise StorageError(
                f"what {self.study.federation.algorithm} kept after round {state.round} is not there",
                where=f"arm {self.arm}",
                remedy="Restore the arm's folder, or start the arm anew",
            )
        return kept.arrays

    def last_norm(self, state: StudyState) -> float | None:
        """Median length of the changes in the round before the next one, where the arm is resumed.

        The record may be ahead of the checkpoints by a round, which is then done again.
        """
        before = self._records().get((state.stage, state.round - 1))
        return median_change(before.sites) if before is not None else None

    def append(self, record: RoundRecord, cards: Mapping[str, SiteCard]) -> RoundRecord:
        """Write a round down, with the cards that came since the last one."""
        known = {site: CardRecord.of(card) for site, card in sorted(cards.items())}
        new = {site: card for site, card in known.items() if self._written.get(site) != card}
        record = record.model_copy(update={"cards": new})
        self.ledger.append(record)
        self._written |= new
        return record

    def keep(
        self, step: Train, weights: State, trained: StudyState, state: StudyState, held: RuleState
    ) -> None:
        """Keep a round that is recorded: its weights, then where the arm stands.

        Args:
            step: the round.
            weights: that came of it.
            trained: the state before it was judged.
            state: and after.
            held: what the rule of aggregation keeps for the next round.
        """
        self.store.save_round(self.arm, step.stage, step.round, weights, trained, held)
        self._advance(step, weights, trained, state)

    def result(self) -> ArmResult:
        """What came of the arm, once it is finished."""
        final = self.store.final(self.arm)
        records = self._records()
        chosen = records[(keys.FINETUNE, final.info.round_index)].validation
        threshold = chosen.threshold if chosen is not None else None
        return ArmResult(
            arm=self.arm,
            weights=final.arrays,
            threshold=NO_THRESHOLD if threshold is None else threshold,
            best_round=final.info.round_index,
            digest=state_digest(final.arrays),
            rounds=tuple(records.values()),
        )

    def _advance(self, step: Train, weights: State, trained: StudyState, state: StudyState) -> None:
        judged = _judged(state, trained, step)
        self.store.save_state(self.arm, judged)
        if state.stage != step.stage:
            info = CheckpointInfo(step.stage, step.round, self.study.digest)
            save_checkpoint(self.pretrained, weights, info)
        if state != judged:
            self.store.save_state(self.arm, state)

    def _records(self) -> dict[tuple[str, int], RoundRecord]:
        """The arm's rounds; of one that was done twice, the last record counts."""
        return {(r.stage, r.round): r for r in self.ledger.read() if r.arm == self.arm}


def _judged(state: StudyState, trained: StudyState, step: Train) -> StudyState:
    """The state of the stage that was just evaluated, also where the next stage has begun."""
    if state.stage == step.stage:
        return state
    return StudyState(trained.stage, trained.round, trained=True, best_round=trained.round)
