"""One arm of a study, from its first weights to its chosen model: the loop around the pure parts.

`rounds` says what is next, `attendance` who is there, `sites` carries it out, `reception` judges what comes
back, `aggregation` folds it, `standing` keeps it. The same loop serves Flower's deployment, its simulation and
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from phcc_model.build import first_weights
from phcc_model.checkpoint import state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import SiteCard
from phcc_model.contract.wire import LINE
from phcc_model.errors import RoundError
from phcc_model.study_file import as_text
from phcc_server.attendance import WAIT_S, Attendance
from phcc_server.ledger import Ledger, RoundRecord
from phcc_server.rounds import (
    Evaluate,
    Finish,
    RoundStatus,
    StudyState,
    Train,
    after_evaluation,
    after_training,
    next_step,
)
from phcc_server.rules import RuleState, rule_of
from phcc_server.sites import Sites
from phcc_server.standing import ArmResult, Standing, State
from phcc_server.store import RunStore
from phcc_server.training_round import RoundDone, train_round
from phcc_server.validation_round import validate_round


class Coordinator:
    """Runs one arm over some sites.

    Args:
        arm: its name.
        study: the arm's study.
        sites: how the sites are reached.
        store: where checkpoints go.
        ledger: where rounds are recorded.
        pretrained: file that holds the end of the pre-training, as `Standing` takes it.
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
        self.listen = listen
        self._asked = as_text(configured or study)
        self.standing = Standing(arm, study, store, ledger, pretrained)
        self._attendance = Attendance(arm, study, self._asked, sites)
        self._notices: dict[str, str] = {}

    def run(self, expected: Sequence[str]) -> ArmResult:
        """Run the arm to its end, from where it stands.

        Args:
            expected: the sites that take part.

        Raises:
            RoundError: too few sites are there, or a round fell below its quorum; what was finished is kept.
            StorageError: the disk failed.
        """
        self._go_on(expected, stages=(keys.PRETRAIN, keys.FINETUNE))
        return self.standing.result()

    def pretrain(self, expected: Sequence[str]) -> None:
        """Run the arm to the end of its stage 1, from where it stands: for an arm that begins with it.

        Args:
            expected: the sites that take part.

        Raises:
            RoundError: as `run`.
            StorageError: the disk failed.
        """
        self._go_on(expected, stages=(keys.PRETRAIN,))

    def cards(self, expected: Sequence[str]) -> Mapping[str, SiteCard]:
        """The cards of the sites that are there, for a finished arm to be judged by them.

        Raises:
            RoundError: fewer than the quorum are there, and the study does not wait.
        """
        self._attendance.gather(expected)
        return self._attendance.cards

    def _go_on(self, expected: Sequence[str], stages: Sequence[str]) -> None:
        state = self.standing.state()
        if not state.finished and state.stage in stages:
            self._attendance.gather(expected)
            weights = self.standing.weights(state)
            self._loop(state, weights, self.standing.held(state, weights), stages)

    def _loop(self, state: StudyState, weights: State, held: RuleState, stages: Sequence[str]) -> None:
        previous_norm = self.standing.last_norm(state)
        while state.stage in stages and not isinstance(step := next_step(state, self.study), Finish):
            assert isinstance(step, Train)
            manifest = Manifest.of(weights)
            done = self._train(step, weights, manifest, previous_norm, held)
            new = manifest.unpack(done.flats)
            trained = after_training(state, done.status)
            judging = next_step(trained, self.study)
            assert isinstance(judging, Evaluate)
            cards = self._attendance.cards
            validation = validate_round(
                judging, self.arm, self.study, self._asked, manifest, done.flats, cards, self.sites
            )
            state = after_evaluation(trained, validation.loss, self.study)
            best = _is_best(trained, validation.loss)
            record = done.record(self.arm, state_digest(weights), state_digest(new), validation, best=best)
            # The record, then the checkpoint, then where the arm stands.
            record = self.standing.append(record, cards)
            self.standing.keep(step, new, trained, state, done.held)
            self.listen(record)
            weights, previous_norm, held = new, done.median_norm, done.held
            if state.stage != step.stage:
                weights, previous_norm = first_weights(self.study, state.stage, new), None
                held = self.standing.held(state, weights)

    def _train(
        self, step: Train, weights: State, manifest: Manifest, previous_norm: float | None, held: RuleState
    ) -> RoundDone:
        """One round, done again as long as it fails and the study waits."""
        flats = manifest.pack(weights)
        self._attendance.ask(0.0)
        while (
            done := self._attempt(step, manifest, flats, previous_norm, held)
        ).status is RoundStatus.FAILED:
            digest = state_digest(weights)
            failed = done.record(self.arm, digest, digest)
            self.listen(self.standing.append(failed, self._attendance.cards))
            if self.study.federation.below_quorum == "stop":
                raise RoundError(
                    f"round {step.round + 1} of {step.stage} has too few usable replies ({done.in_words})",
                    where=f"arm {self.arm}",
                    remedy="Look at the sites named, then start the same command again: it goes on from here",
                )
            self._attendance.ask(WAIT_S)
            self._attendance.gather(self._attendance.expected)
        return done

    def _attempt(
        self,
        step: Train,
        manifest: Manifest,
        flats: dict[str, Array],
        previous_norm: float | None,
        held: RuleState,
    ) -> RoundDone:
        able, absent = self._attendance.trainers(step.stage)
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
            if record.status == "missing":
                self._attendance.lost(site, record.reason or "missing")
        return done


def _notice(step: Train, reason: str | None) -> str:
    text = f"your reply to round {step.round + 1} of {step.stage} was refused: {reason}"
    return "".join(c if c.isprintable() else " " for c in text)[:LINE]


def _is_best(trained: StudyState, loss: float | None) -> bool:
    """Whether the round just evaluated is its stage's best so far; as long as no loss is known, it is."""
    return trained.best_loss is None or (loss is not None and loss < trained.best_loss)
