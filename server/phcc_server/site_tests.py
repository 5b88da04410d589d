"""The end of an arm: every site scores the chosen model on its own test patients, once.

No score of a patient leaves a site: what comes back is a loss, and counts of scores per bin and class. Each count
is as good as that many cases at the middle of its bin, so that every figure of the report is worked out by the
same functions as from single scores, to within the width of a bin (1 / 200).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from phcc_model.build import build_classifier, state_of
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateOrder, EvaluateReply, SiteCard
from phcc_model.errors import ContractError, StorageError
from phcc_model.storage import write_atomically
from phcc_model.study_file import StudyText
from phcc_model.threshold import BINS
from phcc_server.ledger import CardRecord, ScoreCounts
from phcc_server.report.summary import ScoredCase
from phcc_server.sites import Sites
from phcc_server.standing import ArmResult
from phcc_server.validation_round import collect


@dataclass(frozen=True)
class SiteTests:
    """What the sites said of one arm.

    Attributes:
        replies: by site.
        left_out: sites whose test patients are missing, with the reason.
        external: sites that no patient was trained on.
        cards: how the sites announced themselves; empty where an earlier version wrote it.
    """

    replies: Mapping[str, EvaluateReply]
    left_out: Mapping[str, str]
    external: tuple[str, ...]
    cards: Mapping[str, CardRecord] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write them down, so that no patient is scored twice.

        Raises:
            StorageError: it cannot be written.
        """
        plain = {
            "replies": {site: reply.to_fields() for site, reply in self.replies.items()},
            "left_out": dict(self.left_out),
            "external": list(self.external),
            "cards": {site: card.model_dump(mode="json") for site, card in self.cards.items()},
        }
        write_atomically(path, json.dumps(plain, sort_keys=True))

    @classmethod
    def load(cls, path: Path) -> SiteTests | None:
        """What was written down; None where nothing was.

        Raises:
            StorageError: the file is damaged.
        """
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            replies = {site: _reply(fields) for site, fields in plain["replies"].items()}
            cards = {site: CardRecord.model_validate(card) for site, card in plain.get("cards", {}).items()}
            return cls(replies, dict(plain["left_out"]), tuple(plain["external"]), cards)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ContractError) as error:
            raise StorageError(
                "cannot be read", where=str(path), remedy="Remove it: the sites are asked again"
            ) from error

    def cases(self, arm: str, threshold: float) -> Iterator[ScoredCase]:
        """As many cases as were counted, each at the middle of its bin; none of them is a patient by name."""
        for site, reply in sorted(self.replies.items()):
            split = "external" if site in self.external else "internal"
            counts = ScoreCounts.of(reply.positives, reply.negatives)
            yield from counted_cases(arm, site, split, counts, threshold)


def counted_cases(
    arm: str, site: str, split: str, counts: ScoreCounts, threshold: float
) -> Iterator[ScoredCase]:
    """As many cases as a site counted, each at the middle of its bin; none of them is a patient by name."""
    number = 0
    for label, bins in ((1, counts.positives), (0, counts.negatives)):
        for place, count in sorted(bins.items()):
            for _ in range(count):
                number += 1
                name = f"{site}-{split}-{number}"
                score = (place + 0.5) / BINS
                yield ScoredCase(arm, name, name, site, split, label, score, threshold, binned=True)


def _reply(fields: Mapping[str, object]) -> EvaluateReply:
    """A reply as it was kept; contract 2 had the same fields."""
    same = fields.get("contract") in (2, keys.CONTRACT_VERSION)
    return EvaluateReply.from_fields({**fields, "contract": keys.CONTRACT_VERSION} if same else fields)


def score_at_sites(
    result: ArmResult, study: StudyConfig, asked: StudyText, cards: Mapping[str, SiteCard], sites: Sites
) -> SiteTests:
    """Ask every site that has labelled test patients to score an arm's model.

    Args:
        result: the finished arm.
        study: the arm's study.
        asked: the study as configured, as it travels.
        cards: the sites that are there.
        sites: how they are reached.
    """
    # An arm's weights as they are built here: the manifest is the one that the sites build.
    manifest = Manifest.of(state_of(build_classifier(study)))
    flats = manifest.pack(result.weights)
    orders = [
        EvaluateOrder(
            package=keys.package_version(),
            study_digest=asked.digest,
            study=asked.text,
            arm=result.arm,
            stage=keys.FINETUNE,
            round=result.best_round,
            site=site,
            seed=study.seed,
            manifest_digest=manifest.digest,
            split=keys.TEST,
            arrays=flats,
        )
        for site, card in sorted(cards.items())
        if card.positives.get(keys.TEST, 0) + card.negatives.get(keys.TEST, 0) > 0
    ]
    replies, left_out = collect(orders, cards, sites, study.federation.round_deadline_s)
    external = tuple(site for site, card in sorted(cards.items()) if not card.patients.get(keys.TRAIN, 0))
    announced = {site: CardRecord.of(card) for site, card in sorted(cards.items())}
    return SiteTests(replies, left_out, external, announced)
