"""The last check before anything leaves the hospital.

Only weights' changes (where the study says SCAFFOLD, those of control variates too), counts and the measures that
the contract names may leave. A message that holds anything else is not sent, whatever code made it; an error
leaves as one word and one line without names or paths, and its detail stays in the hospital's own log.
"""

from __future__ import annotations

import dataclasses
import math
import re

from phcc_model.contract import codec, control, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateReply, Failure, SiteCard, TrainReply, Working
from phcc_model.contract.ranges import check_ranges
from phcc_model.contract.wire import Message
from phcc_model.errors import (
    ConfigError,
    ContractError,
    DataError,
    PhccError,
    PolicyError,
    StorageError,
    TrainingError,
    VersionMismatch,
)

OUTGOING = (SiteCard, TrainReply, EvaluateReply, Working, Failure)

_CODES: tuple[tuple[type[PhccError], str], ...] = (
    (VersionMismatch, "version"),
    (ContractError, "contract"),
    (ConfigError, "config"),
    (DataError, "data"),
    (StorageError, "storage"),
    (TrainingError, "training"),
    (PolicyError, "policy"),
)
_LINES = {
    "version": "this site runs another version of the package, the contract or the study",
    "contract": "the order does not fit the contract",
    "config": "the study's configuration is not valid at this site",
    "data": "this site's data cannot serve this order",
    "storage": "this site cannot write or read its disk",
    "training": "training failed at this site",
    "policy": "this hospital has not agreed to it",
    "internal": "an unexpected error at this site",
}
_KIND = re.compile(r"[A-Za-z]{1,40}")


def may_leave(message: Message, manifest: Manifest | None = None, *, controlled: bool = False) -> Message:
    """The message itself, if it holds nothing but what was agreed.

    Args:
        message: what is about to be sent.
        manifest: the manifest of the state, for a `TrainReply`.
        controlled: whether the study is one whose control variates leave beside the weights (SCAFFOLD).

    Raises:
        ContractError: the message holds something that must not leave; names it.
    """
    if type(message) not in OUTGOING:
        raise ContractError(f"a {type(message).__name__} must not leave this site")
    # Types and vocabularies: an unknown measure is refused here.
    for name, value in message.to_fields().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ContractError("the measure is not finite", where=name)
    if isinstance(message, SiteCard):
        check_ranges(message.seen)
    if isinstance(message, TrainReply):
        if manifest is None:
            raise ContractError("the change cannot be checked without a manifest", where="TrainReply")
        arrays = message.arrays
        if controlled:
            control.decode(arrays, message.encoding, manifest.size)
            arrays = control.without_control(arrays)
        codec.decode_change(arrays, message.encoding, manifest)
    elif message.arrays:
        raise ContractError(f"a {type(message).__name__} must not carry arrays")
    return message


def suppressed(card: SiteCard, minimum: int) -> SiteCard:
    """A site's card without counts of so few patients that one of them might be recognised.

    A count of 0 may leave, and one of `minimum` or more. What lies between is announced as nothing at all:

    - a split with too few patients is announced as empty;
    - a split with too few positive or too few negative patients is announced as unlabelled (both 0, for one
      count would give the other away); it can still serve pre-training, which asks for no label;
    - a reason for which too few patients were set aside is not named. No total is announced from which it could
      be worked out;
    - what training images look like is not said where the training patients are not announced. That enough
      patients stand behind each range was seen to when it was made (`facts.ranges_of`).

    The coordinator orders no work on what is announced as empty, and `must_be_announced` refuses it here, so
    no reply can tell afterwards what the card kept back. How many patients are unlabelled is no finding about
    anyone, and is not suppressed.

    Args:
        card: with the true counts.
        minimum: patients; 1 or less suppresses nothing.
    """
    patients, cases = dict(card.patients), dict(card.cases)
    positives, negatives = dict(card.positives), dict(card.negatives)
    for split in patients:
        if _too_few(patients[split], minimum):
            patients[split] = cases[split] = 0
        classes = (positives.get(split, 0), negatives.get(split, 0))
        if not patients[split] or any(_too_few(count, minimum) for count in classes):
            positives[split] = negatives[split] = 0
    return dataclasses.replace(
        card,
        patients=patients,
        cases=cases,
        positives=positives,
        negatives=negatives,
        aside={
            reason: count for reason, count in card.aside.items() if count and not _too_few(count, minimum)
        },
        seen=dict(card.seen) if patients.get(keys.TRAIN) else {},
    )


def must_be_announced(card: SiteCard, split: str, stage: str) -> None:
    """Check that work on a split was offered to the coordinator.

    Args:
        card: what this site announced, after `suppressed`.
        split: to be trained on or scored.
        stage: the second needs labels, the first does not.

    Raises:
        PolicyError: the card announces it as empty: there are too few patients to be counted.
    """
    count = card.patients.get(split, 0)
    if stage == keys.FINETUNE:
        count = card.positives.get(split, 0) + card.negatives.get(split, 0)
    if not count:
        raise _too_few_error(split)


def must_have_enough(message: Message, minimum: int) -> Message:
    """The message itself, if none of its counts is so small that a patient might be recognised.

    The bins of an evaluation hold single cases, as they must for a curve to be drawn; it is their sums that
    may not be small, for a sum says how many of this hospital's patients have the disease.

    Args:
        message: what is about to be sent.
        minimum: patients; 1 or less lets everything pass.

    Raises:
        PolicyError: a count of patients, of positive or of negative cases is above 0 and below the minimum.
    """
    counts: tuple[int, ...] = ()
    where = ""
    if isinstance(message, SiteCard):
        where = message.site
        split = (*message.patients.values(), *message.positives.values(), *message.negatives.values())
        counts = (*split, *message.aside.values())
    elif isinstance(message, TrainReply):
        where, counts = keys.TRAIN, (message.patients,)
    elif isinstance(message, EvaluateReply):
        where, counts = message.split, (message.patients, sum(message.positives), sum(message.negatives))
    if any(_too_few(count, minimum) for count in counts):
        raise _too_few_error(where)
    return message


def _too_few(count: int, minimum: int) -> bool:
    return 0 < count < minimum


def _too_few_error(where: str) -> PolicyError:
    return PolicyError(
        "too few patients to be counted",
        where=where,
        remedy="minimum_count in client.yaml says how many are enough at this hospital",
    )


def failure_of(error: BaseException, site: str) -> Failure:
    """What the coordinator is told about an error: a word and a line of ours, never the error's own text.

    An exception's text may hold a path, and a path may hold a patient's name.
    """
    code = next((word for kind, word in _CODES if isinstance(error, kind)), "internal")
    kind = type(error).__name__
    detail = f" ({kind})" if code == "internal" and _KIND.fullmatch(kind) else ""
    line = f"{_LINES[code]}{detail}; its own log says more"
    return Failure(package=keys.package_version(), site=site, code=code, line=line)
