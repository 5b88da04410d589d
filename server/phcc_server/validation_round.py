"""One round of validation: every site scores the new weights on its own validation patients.

What comes back is a loss and counts of scores per bin: enough for a pooled loss, an AUC and a threshold, and
no patient's score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import EvaluateOrder, EvaluateReply, SiteCard
from phcc_model.errors import ReplyRefused
from phcc_model.study_file import StudyText
from phcc_model.threshold import ScoreHistogram
from phcc_server.aggregation import pooled_loss
from phcc_server.ledger import ScoreCounts, ValidationRecord
from phcc_server.reception import check_evaluation
from phcc_server.rounds import Evaluate
from phcc_server.sites import NoReply, Sites

NO_THRESHOLD = 0.5
"""Where no validation patients of both classes are there to fix one."""


def validate_round(
    step: Evaluate,
    arm: str,
    study: StudyConfig,
    asked: StudyText,
    manifest: Manifest,
    flats: dict[str, Array],
    cards: Mapping[str, SiteCard],
    sites: Sites,
) -> ValidationRecord:
    """Let the sites that have validation patients score these weights, and pool what they say.

    A site whose answer does not hold is left out, and named: its counts are missing from `cases`.
    """
    orders = [
        EvaluateOrder(
            package=keys.package_version(),
            study_digest=asked.digest,
            study=asked.text,
            arm=arm,
            stage=step.stage,
            round=step.round,
            site=site,
            seed=study.seed,
            manifest_digest=manifest.digest,
            split=keys.VALIDATION,
            arrays=flats,
        )
        for site in sorted(cards)
        if _can_validate(cards[site], step.stage)
    ]
    replies, left_out = collect(orders, cards, sites, study.federation.round_deadline_s)
    return _pooled(replies, left_out)


def collect(
    orders: Sequence[EvaluateOrder], cards: Mapping[str, SiteCard], sites: Sites, deadline_s: float
) -> tuple[dict[str, EvaluateReply], dict[str, str]]:
    """What the sites answer, by site, and why those are left out that do not, or whose answer does not hold."""
    replies: dict[str, EvaluateReply] = {}
    left_out: dict[str, str] = {}
    for order, reply in sites.evaluate(orders, deadline_s):
        if isinstance(reply, NoReply):
            left_out[order.site] = f"{reply.status}: {reply.reason}"
            continue
        try:
            replies[order.site] = check_evaluation(reply, order, cards[order.site])
        except ReplyRefused as error:
            left_out[order.site] = f"refused: {error.what}"
    return replies, left_out


def _pooled(replies: Mapping[str, EvaluateReply], left_out: dict[str, str]) -> ValidationRecord:
    counts = {
        site: ScoreCounts.of(reply.positives, reply.negatives)
        for site, reply in replies.items()
        if reply.positives
    }
    histogram = sum((one.histogram for one in counts.values()), ScoreHistogram.empty())
    both = histogram.positives > 0 and histogram.negatives > 0
    return ValidationRecord(
        loss=pooled_loss((reply.loss, reply.cases) for reply in replies.values()),
        auc=histogram.auc if both and math.isfinite(histogram.auc) else None,
        threshold=histogram.youden() if both else None,
        cases=sum(reply.cases for reply in replies.values()),
        left_out=left_out,
        counts=counts,
    )


def _can_validate(card: SiteCard, stage: str) -> bool:
    if stage == keys.PRETRAIN:
        return card.patients.get(keys.VALIDATION, 0) > 0
    return card.positives.get(keys.VALIDATION, 0) + card.negatives.get(keys.VALIDATION, 0) > 0
