"""One arm of a study, from its first weights to its chosen model: the loop around the pure parts.

`rounds` says what is next, `sites` carries it out, `reception` judges what comes back, `aggregation` folds it,
`store` and `ledger` keep it. The same loop serves Flower's deployment, Flower's simulation and memory.

A round is kept once it has been trained and evaluated; after a crash it is done again, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from phcc_model.build import first_weights
from phcc_model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import CardOrder, SiteCard
from phcc_model.contract.wire import LINE
from phcc_model.errors import ReplyRefused, RoundError, StorageError
from phcc_model.study_file import as_text
from phcc_server.ledger import CardRecord, Ledger, RoundRecord
from phcc_server.reception import check_card
from phcc_server.rounds import (
    Evaluate,
    Finish,
    RoundStatus,
    StudyState,
    Train,
    after_evaluation,
    after_training,
    first_state,
    judge_round,
    next_step,
    rounds_of,
)
from phcc_server.rules import RuleState, rule_of
from phcc_server.sites import NoReply, Sites
from phcc_server.store import RunStore
from phcc_server.training_round import RoundDone, median_change, train_round
from phcc_server.validation_round import NO_THRESHOLD, validate_round

State = Mapping[str, Array]

WAIT_S = 30.0
"""Between two looks for sites that a round waits for."""


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


class Coordinator:
    """Runs one arm over some sites.

    Args:
        arm: its name.
        study: the arm's study.
        sites: how the sites are reached.
        store: where checkpoints go.
        ledger: where rounds are recorded.
        pretrained: file that holds the end of the pre-training; one that is there already is used in place of
            a pre-training of one's own, so that arms may share it.
        listen: called with every round's record, for whoever watches.
        configured: the study of which this is an arm: what travels, and what hospitals approve; the arm's own
            study where nothing is given.
    """

    def __init__(
        self,
        arm: str,
        study: StudyConfig,
        sites: Sites,
        store: RunStore,
        ledger: Ledger,
        pretrained: Path,
        listen: Callable[[RoundRecord], None],
        configured: StudyConfig | None = None,
    ) -> None:
        self.arm = arm
        self.study = study
        self.sites = sites
        self.store = store
        self.ledger = ledger
        self.pretrained = pretrained
        self.listen = listen
        self._asked = as_text(configured or study)
        self._expected: tuple[str, ...] = ()
        self._cards: dict[str, SiteCard] = {}
        self._written: dict[str, CardRecord] = {}
        self._absent: dict[str, str] = {}
        self._notices: dict[str, str] = {}

    def run(self, expected: Sequence[str]) -> ArmResult:
        """Run the arm to its end, from where it stands.

        Args:
            expected: the sites that take part.

        Raises:
            RoundError: too few sites are there, or a round fell below its quorum; what was finished is kept.
            StorageError: the disk failed.
        """
        shared = self.study.pretrain.rounds > 0 and self.pretrained.exists()
        state = self._settled(self.store.state(self.arm) or first_state(self.study, pretrain=not shared))
        self._expected = tuple(expected)
        if not state.finished:
            self._gather()
            weights = self._weights_at(state)
            self._loop(state, weights, self._held_at(state, weights))
        return self._result()

    def cards(self, expected: Sequence[str]) -> Mapping[str, SiteCard]:
        """The cards of the sites that are there, for a finished arm to be judged by them.

        Raises:
            RoundError: fewer than the quorum are there, and the study does not wait.
        """
        self._expected = tuple(expected)
        self._gather()
        return self._cards

    def _loop(self, state: StudyState, weights: State, held: RuleState) -> None:
        previous_norm = self._last_norm(state)
        while not isinstance(step := next_step(state, self.study), Finish):
            assert isinstance(step, Train)
            manifest = Manifest.of(weights)
            done = self._train(step, weights, manifest, previous_norm, held)
            new = manifest.unpack(done.flats)
            trained = after_training(state, done.status)
            judging = next_step(trained, self.study)
            assert isinstance(judging, Evaluate)
            validation = validate_round(
                judging, self.arm, self.study, self._asked, manifest, done.flats, self._cards, self.sites
            )
            state = after_evaluation(trained, validation.loss, self.study)
            judged = _judged(state, trained, step)
            record = done.record(
                self.arm,
                state_digest(weights),
                state_digest(new),
                validation,
                best=_is_best(trained, validation.loss),
            )
            self._keep(step, new, trained, judged, state, record, done.held)
            weights, previous_norm, held = new, done.median_norm, done.held
            if state.stage != step.stage:
                weights, previous_norm = first_weights(self.study, state.stage, new), None
                held = self._held_at(state, weights)

    def _gather(self) -> None:
        """Ask the sites for their cards, and wait for the quorum if the study does; else it is an error."""
        self._ask(None)
        while not self._quorum():
            if self.study.federation.below_quorum == "stop":
                named = "; ".join(f"{site}: {reason}" for site, reason in self._absent.items())
                raise RoundError(
                    f"{len(self._cards)} of {len(self._expected)} sites can take part ({named})",
                    where=f"arm {self.arm}",
                    remedy="Start the sites that are missing, or lower federation.minimum_sites",
                )
            self._ask(WAIT_S)

    def _quorum(self) -> bool:
        status = judge_round(self._expected, self._cards, (), self.study.federation)
        return status is not RoundStatus.FAILED

    def _ask(self, patience_s: float | None) -> None:
        """Ask the expected sites that have no card (yet, or not any more) for theirs."""
        missing = [site for site in self._expected if site not in self._cards]
        if not missing:
            return
        order = CardOrder(
            package=keys.package_version(),
            study_digest=self._asked.digest,
            study=self._asked.text,
            arm=self.arm,
        )
        for site, answer in sorted(self.sites.cards(order, missing, patience_s).items()):
            if site not in missing:
                continue
            if isinstance(answer, NoReply):
                self._absent[site] = answer.reason
                continue
            try:
                self._cards[site] = check_card(answer, order)
                self._absent.pop(site, None)
            except ReplyRefused as error:
                self._absent[site] = error.what

    def _train(
        self, step: Train, weights: State, manifest: Manifest, previous_norm: float | None, held: RuleState
    ) -> RoundDone:
        """One round, done again as long as it fails and the study waits."""
        flats = manifest.pack(weights)
        self._ask(0.0)
        while (
            done := self._attempt(step, manifest, flats, previous_norm, held)
        ).status is RoundStatus.FAILED:
            digest = state_digest(weights)
            record = self._append(done.record(self.arm, digest, digest))
            self.listen(record)
            if self.study.federation.below_quorum == "stop":
                raise RoundError(
                    f"round {step.round + 1} of {step.stage} has too few usable replies ({done.in_words})",
                    where=f"arm {self.arm}",
                    remedy="Look at the sites named, then start the same command again: it goes on from here",
                )
            self._ask(WAIT_S)
            self._gather()
        return done

    def _attempt(
        self,
        step: Train,
        manifest: Manifest,
        flats: dict[str, Array],
        previous_norm: float | None,
        held: RuleState,
    ) -> RoundDone:
        # A site that has no patients to train on judges only: it is not missed in a round.
        able = {site: card for site, card in self._cards.items() if _can_train(card, step.stage)}
        absent = self._absent | {
            site: "no patient with a label to train on"
            for site, card in self._cards.items()
            if site not in able and card.patients.get(keys.TRAIN, 0)
        }
        done = train_round(
            step,
            self.arm,
            self.study,
            self._asked,
            manifest,
            flats,
            able,
            absent,
            self.sites,
            previous_norm,
            self._notices,
            rule_of(self.study, step.stage, manifest),
            held,
        )
        self._notices = {
            site: _notice(step, record.reason)
            for site, record in done.sites.items()
            if record.status == "refused"
        }
        for site, record in done.sites.items():
            if record.status == "missing" and self._cards.pop(site, None) is not None:
                self._absent[site] = record.reason or "missing"
        return done

    def _keep(
        self,
        step: Train,
        weights: State,
        trained: StudyState,
        judged: StudyState,
        state: StudyState,
        record: RoundRecord,
        held: RuleState,
    ) -> None:
        """Write the round down: the record, then the checkpoint, then where the arm stands."""
        record = self._append(record)
        self.store.save_round(self.arm, step.stage, step.round, weights, trained, held)
        self._advance(step, weights, judged, state)
        self.listen(record)

    def _append(self, record: RoundRecord) -> RoundRecord:
        """Write a round down, with the cards that came since the last one."""
        cards = {site: CardRecord.of(card) for site, card in sorted(self._cards.items())}
        new = {site: card for site, card in cards.items() if self._written.get(site) != card}
        record = record.model_copy(update={"cards": new})
        self.ledger.append(record)
        self._written |= new
        return record

    def _advance(self, step: Train, weights: State, judged: StudyState, state: StudyState) -> None:
        self.store.save_state(self.arm, judged)
        if state.stage != step.stage:
            info = CheckpointInfo(step.stage, step.round, self.study.digest)
            save_checkpoint(self.pretrained, weights, info)
        if state != judged:
            self.store.save_state(self.arm, state)

    def _settled(self, state: StudyState) -> StudyState:
        """Where the arm stands; a round that a crash left trained and recorded, but not judged, is judged."""
        latest = self.store.latest(self.arm)
        if state.finished or not state.trained or latest is None:
            return state
        step = Train(state.stage, state.round, rounds_of(self.study, state.stage))
        validation = self._records()[(state.stage, state.round)].validation
        settled = after_evaluation(state, validation.loss if validation else None, self.study)
        self._advance(step, latest.arrays, _judged(settled, state, step), settled)
        return settled

    def _records(self) -> dict[tuple[str, int], RoundRecord]:
        """The arm's rounds; of one that was done twice, the last record counts."""
        return {(r.stage, r.round): r for r in self.ledger.read() if r.arm == self.arm}

    def _weights_at(self, state: StudyState) -> State:
        """The weights from which the next round starts."""
        latest = self.store.latest(self.arm)
        if latest is not None and latest.info.stage == state.stage:
            return latest.arrays
        before: State | None = None
        if state.stage == keys.FINETUNE and self.study.pretrain.rounds:
            before = latest.arrays if latest is not None else load_checkpoint(self.pretrained)[0]
        return first_weights(self.study, state.stage, before)

    def _held_at(self, state: StudyState, weights: State) -> RuleState:
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

    def _last_norm(self, state: StudyState) -> float | None:
        """Median length of the changes in the round before the next one, where the arm is resumed.

        The record may be ahead of the checkpoints by a round, which is then done again.
        """
        before = self._records().get((state.stage, state.round - 1))
        return median_change(before.sites) if before is not None else None

    def _result(self) -> ArmResult:
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


def _notice(step: Train, reason: str | None) -> str:
    text = f"your reply to round {step.round + 1} of {step.stage} was refused: {reason}"
    return "".join(c if c.isprintable() else " " for c in text)[:LINE]


def _judged(state: StudyState, trained: StudyState, step: Train) -> StudyState:
    """The state of the stage that was just evaluated, also where the next stage has begun."""
    if state.stage == step.stage:
        return state
    return StudyState(trained.stage, trained.round, trained=True, best_round=trained.round)


def _is_best(trained: StudyState, loss: float | None) -> bool:
    """Whether the round just evaluated is its stage's best so far; as long as no loss is known, it is."""
    return trained.best_loss is None or (loss is not None and loss < trained.best_loss)


def _can_train(card: SiteCard, stage: str) -> bool:
    if stage == keys.PRETRAIN:
        return card.patients.get(keys.TRAIN, 0) > 0
    return card.positives.get(keys.TRAIN, 0) + card.negatives.get(keys.TRAIN, 0) > 0
