"""Nothing from a site is believed: every reply is held against its order, the site's card and the manifest.

What does not hold is refused with one precise reason, the round goes on where the quorum allows. Each check
is order-free: what happens to a site's reply does not depend on whose reply came first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from dataclasses import replace

from phcc_model.config import StudyConfig
from phcc_model.contract import control, keys
from phcc_model.contract.codec import Change, decode_change, norm
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_model.contract.ranges import check_ranges
from phcc_model.errors import ContractError, ReplyRefused
from phcc_model.threshold import BINS

LARGEST_COUNT = 10_000_000
"""More patients, cases or steps than this are a mistake or an attack."""
LONGEST_CHANGE = 1e9
"""A change of this length is no training; far below what could make a weighted sum overflow."""
JUDGES = 3
"""Replies from which a round's own median length is taken; of two, either could be the odd one."""

_ANSWERED = ("contract", "package", "study_digest", "arm", "stage", "round", "site", "manifest_digest")


def check_card(card: SiteCard, order: CardOrder, taken: Collection[str] = ()) -> SiteCard:
    """Whether a site's announcement makes sense.

    Args:
        card: what the site sent.
        order: what it was asked.
        taken: names of the sites that have announced themselves already.

    Raises:
        ReplyRefused: versions or study differ, the name is taken, or counts contradict each other.
    """
    _same(card, order, ("contract", "package", "study_digest"), card.site)
    if card.site in taken:
        raise ReplyRefused(
            "another site has this name already",
            where=card.site,
            remedy="Give each hospital a name of its own",
        )
    for split in keys.SPLITS:
        patients, cases = card.patients.get(split, 0), card.cases.get(split, 0)
        positives, negatives = card.positives.get(split, 0), card.negatives.get(split, 0)
        _within(f"patients.{split}", patients, 0, LARGEST_COUNT, card.site)
        _within(f"cases.{split}", cases, patients, LARGEST_COUNT if patients else 0, card.site)
        _within(f"positives.{split}", positives, 0, patients, card.site)
        _within(f"negatives.{split}", negatives, 0, patients - positives, card.site)
    for reason, count in card.aside.items():
        _within(f"aside.{reason}", count, 0, LARGEST_COUNT, card.site)
    try:
        check_ranges(card.seen)
    except ContractError as error:
        raise ReplyRefused(f"{error.where} {error.what}", where=card.site) from error
    if card.seen and not card.patients.get(keys.TRAIN, 0):
        raise ReplyRefused("tells of training images, and has no training patients", where=card.site)
    return card


def check_reply(
    reply: TrainReply, order: TrainOrder, card: SiteCard, manifest: Manifest, study: StudyConfig
) -> Change:
    """Whether a site's training may be folded in, and its decoded change.

    Args:
        reply: what the site sent.
        order: what it was asked.
        card: how it announced itself.
        manifest: of the model's state.
        study: the study.

    Raises:
        ReplyRefused: names what does not hold.
    """
    site = order.site
    _same(reply, order, (*_ANSWERED, "encoding"), site)
    _check_training_counts(reply, card, study)
    _within("steps", reply.steps, 1, LARGEST_COUNT, site)
    _finite("seconds", reply.seconds, site, least=0.0)
    for name, value in reply.metrics.items():
        if name not in keys.METRICS:
            raise ReplyRefused(f"metric {name[:40]!r} is not in the contract", where=site)
        _finite(f"metrics.{name}", value, site)
    try:
        change = _change(reply, order, manifest, study)
    except ContractError as error:
        raise ReplyRefused(f"{error.where}: {error.what}", where=site) from error
    if not change.norm <= LONGEST_CHANGE:
        raise ReplyRefused(f"the change is {change.norm:.3g} long, which no training gives", where=site)
    if change.control is not None and not (length := norm(change.control)) <= LONGEST_CHANGE:
        raise ReplyRefused(f"the control's change is {length:.3g} long, which no training gives", where=site)
    return change


def _change(reply: TrainReply, order: TrainOrder, manifest: Manifest, study: StudyConfig) -> Change:
    """The change of the weights, and that of the control variate where the study has any."""
    if not study.federation.controlled:
        return decode_change(reply.arrays, order.encoding, manifest)
    change = decode_change(control.without_control(reply.arrays), order.encoding, manifest)
    return replace(change, control=control.decode(reply.arrays, order.encoding, manifest.size))


def check_evaluation(reply: EvaluateReply, order: EvaluateOrder, card: SiteCard) -> EvaluateReply:
    """Whether a site's evaluation may be counted.

    Raises:
        ReplyRefused: names what does not hold.
    """
    site = order.site
    _same(reply, order, (*_ANSWERED, "split"), site)
    _within("patients", reply.patients, 1, card.patients.get(order.split, 0), site)
    _within("cases", reply.cases, reply.patients, card.cases.get(order.split, 0), site)
    _finite("loss", reply.loss, site, least=0.0)
    _finite("seconds", reply.seconds, site, least=0.0)
    bins = len(reply.positives)
    if len(reply.negatives) != bins or bins not in (0, BINS):
        raise ReplyRefused(f"histograms have {bins} and {len(reply.negatives)} bins, not {BINS}", where=site)
    for count in (*reply.positives, *reply.negatives):
        _within("a histogram's count", count, 0, reply.cases, site)
    if bins and sum(reply.positives) + sum(reply.negatives) != reply.cases:
        raise ReplyRefused(f"the histograms do not hold the {reply.cases} cases", where=site)
    return reply


def too_long(
    norms: Mapping[str, float], largest_change: float, previous: float | None = None
) -> tuple[str, ...]:
    """Sites whose change is so much longer than the others' that it is set aside.

    The measure is the median length of the round's changes; with fewer than three of them, the median of the
    previous round, and where that is not known either, nobody is set aside. So all replies of a round must be
    there before any is folded: the verdict on a site never depends on who came first.

    Args:
        norms: Euclidean length of each site's change.
        largest_change: how many times the median is too long.
        previous: the median length of the changes that the previous round of this stage folded in.

    Returns:
        Names, in order.
    """
    median = median_norm(norms) if len(norms) >= JUDGES else previous
    if not median:
        return ()
    return tuple(sorted(site for site, norm in norms.items() if not norm <= largest_change * median))


def median_norm(norms: Mapping[str, float]) -> float | None:
    """The median length of a round's changes; None where there is none."""
    return statistics.median(norms.values()) if norms else None


def _check_training_counts(reply: TrainReply, card: SiteCard, study: StudyConfig) -> None:
    """The weight of a site is a count that it announced at the start, not one that it makes up now."""
    positives, negatives = card.positives.get(keys.TRAIN, 0), card.negatives.get(keys.TRAIN, 0)
    finetuning = reply.stage == keys.FINETUNE
    announced = positives + negatives if finetuning else card.patients.get(keys.TRAIN, 0)
    # Part of the labels, or one phase only, may leave out patients; nothing may add any.
    fewer = (finetuning and study.finetune.label_fraction < 1.0) or reply.arm.startswith("phase:")
    _within("patients", reply.patients, 1 if fewer else max(announced, 1), announced, reply.site)
    _within("cases", reply.cases, reply.patients, card.cases.get(keys.TRAIN, 0), reply.site)


def _same(reply: object, order: object, names: Collection[str], site: str) -> None:
    for name in names:
        ordered, answered = getattr(order, name), getattr(reply, name)
        if type(ordered) is not type(answered) or ordered != answered:
            raise ReplyRefused(
                f"{name} is {str(answered)[:80]!r}, ordered was {str(ordered)[:80]!r}", where=site
            )


def _within(name: str, value: int, least: int, most: int, site: str) -> None:
    if type(value) is not int or not least <= value <= most:
        wanted = str(most) if least == most else f"{least} to {most}"
        raise ReplyRefused(f"{name} is {str(value)[:40]}, must be {wanted}", where=site)


def _finite(name: str, value: float, site: str, least: float = -math.inf) -> None:
    if type(value) is not float or not math.isfinite(value) or value < least:
        raise ReplyRefused(f"{name} is {str(value)[:40]}, must be a finite number", where=site)
