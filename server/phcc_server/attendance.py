"""Which sites of an arm are there, by their cards; whom it waits for, and why the others are not there."""

from __future__ import annotations

from collections.abc import Sequence

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.messages import CardOrder, SiteCard
from phcc_model.errors import ReplyRefused, RoundError
from phcc_model.study_file import StudyText
from phcc_server.reception import check_card
from phcc_server.rounds import RoundStatus, judge_round
from phcc_server.sites import NoReply, Sites

WAIT_S = 30.0
"""Between two looks for sites that a round waits for."""


class Attendance:
    """Asks sites for their cards, and keeps who answered.

    Args:
        arm: its name.
        study: the arm's study: its quorum, and what to do below it.
        asked: the study that travels, as configured.
        sites: how the sites are reached.

    Attributes:
        expected: who takes part.
        cards: of the sites that are there.
        absent: why each of the others is not.
    """

    def __init__(self, arm: str, study: StudyConfig, asked: StudyText, sites: Sites) -> None:
        self._arm = arm
        self._study = study
        self._asked = asked
        self._sites = sites
        self.expected: tuple[str, ...] = ()
        self.cards: dict[str, SiteCard] = {}
        self.absent: dict[str, str] = {}

    def gather(self, expected: Sequence[str]) -> None:
        """Ask sites for their cards, and wait for the quorum if the study does.

        Args:
            expected: who takes part from now on.

        Raises:
            RoundError: fewer than the quorum are there, and the study does not wait.
        """
        self.expected = tuple(expected)
        self.ask(None)
        while not self._quorum():
            if self._study.federation.below_quorum == "stop":
                named = "; ".join(f"{site}: {reason}" for site, reason in self.absent.items())
                raise RoundError(
                    f"{len(self.cards)} of {len(self.expected)} sites can take part ({named})",
                    where=f"arm {self._arm}",
                    remedy="Start the sites that are missing, or lower federation.minimum_sites",
                )
            self.ask(WAIT_S)

    def ask(self, patience_s: float | None) -> None:
        """Ask the expected sites that have no card (yet, or not any more) for theirs.

        Args:
            patience_s: how long to wait for answers, seconds; None: as long as is usual (`Sites.cards`).
        """
        missing = [site for site in self.expected if site not in self.cards]
        if not missing:
            return
        order = CardOrder(
            package=keys.package_version(),
            study_digest=self._asked.digest,
            study=self._asked.text,
            arm=self._arm,
        )
        for site, answer in sorted(self._sites.cards(order, missing, patience_s).items()):
            if site not in missing:
                continue
            if isinstance(answer, NoReply):
                self.absent[site] = answer.reason
                continue
            try:
                self.cards[site] = check_card(answer, order)
                self.absent.pop(site, None)
            except ReplyRefused as error:
                self.absent[site] = error.what

    def trainers(self, stage: str) -> tuple[dict[str, SiteCard], dict[str, str]]:
        """Who can train in a stage, and why each of the others that would be missed cannot.

        A site that has no patients to train on judges only: it is not missed in a round.
        """
        able = {site: card for site, card in self.cards.items() if _can_train(card, stage)}
        unlabelled = {
            site: "no patient with a label to train on"
            for site, card in self.cards.items()
            if site not in able and card.patients.get(keys.TRAIN, 0)
        }
        return able, self.absent | unlabelled

    def lost(self, site: str, reason: str) -> None:
        """A site that did not answer in a round gives its card again before the next one."""
        if self.cards.pop(site, None) is not None:
            self.absent[site] = reason

    def _quorum(self) -> bool:
        status = judge_round(self.expected, self.cards, (), self._study.federation)
        return status is not RoundStatus.FAILED


def _can_train(card: SiteCard, stage: str) -> bool:
    if stage == keys.PRETRAIN:
        return card.patients.get(keys.TRAIN, 0) > 0
    return card.positives.get(keys.TRAIN, 0) + card.negatives.get(keys.TRAIN, 0) > 0
