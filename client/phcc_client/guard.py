"""The last check before anything leaves the hospital.

Only weights' changes, counts and the measures that the contract names may leave. A message that holds anything
else is not sent, whatever code made it; an error leaves as one word and one line without names or paths, and
its detail stays in the hospital's own log.
"""

from __future__ import annotations

import math
import re

from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import EvaluateReply, Failure, SiteCard, TrainReply
from phcc_model.contract.wire import Message
from phcc_model.errors import (
    ConfigError,
    ContractError,
    DataError,
    PhccError,
    StorageError,
    TrainingError,
    VersionMismatch,
)

OUTGOING = (SiteCard, TrainReply, EvaluateReply, Failure)

_CODES: tuple[tuple[type[PhccError], str], ...] = (
    (VersionMismatch, "version"),
    (ContractError, "contract"),
    (ConfigError, "config"),
    (DataError, "data"),
    (StorageError, "storage"),
    (TrainingError, "training"),
)
_LINES = {
    "version": "this site runs another version of the package, the contract or the study",
    "contract": "the order does not fit the contract",
    "config": "the study's configuration is not valid at this site",
    "data": "this site's data cannot serve this order",
    "storage": "this site cannot write or read its disk",
    "training": "training failed at this site",
    "internal": "an unexpected error at this site",
}
_KIND = re.compile(r"[A-Za-z]{1,40}")


def may_leave(message: Message, manifest: Manifest | None = None) -> Message:
    """The message itself, if it holds nothing but what was agreed.

    Args:
        message: what is about to be sent.
        manifest: the manifest of the state, for a `TrainReply`.

    Raises:
        ContractError: the message holds something that must not leave; names it.
    """
    if type(message) not in OUTGOING:
        raise ContractError(f"a {type(message).__name__} must not leave this site")
    # Types and vocabularies: an unknown measure is refused here.
    for name, value in message.to_fields().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ContractError("the measure is not finite", where=name)
    if isinstance(message, TrainReply):
        if manifest is None:
            raise ContractError("the change cannot be checked without a manifest", where="TrainReply")
        codec.decode_change(message.arrays, message.encoding, manifest)
    elif message.arrays:
        raise ContractError(f"a {type(message).__name__} must not carry arrays")
    return message


def failure_of(error: BaseException, site: str) -> Failure:
    """What the coordinator is told about an error: a word and a line of ours, never the error's own text.

    An exception's text may hold a path, and a path may hold a patient's name.
    """
    code = next((word for kind, word in _CODES if isinstance(error, kind)), "internal")
    kind = type(error).__name__
    detail = f" ({kind})" if code == "internal" and _KIND.fullmatch(kind) else ""
    line = f"{_LINES[code]}{detail}; its own log says more"
    return Failure(package=keys.package_version(), site=site, code=code, line=line)
