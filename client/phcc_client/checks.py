"""One thing that was checked about a machine."""

from __future__ import annotations

from typing import Literal, NamedTuple

Verdict = Literal["ok", "warning", "failed"]


class Check(NamedTuple):
    """What came of a check.

    Attributes:
        name: what was looked at.
        verdict: whether it will do.
        found: what is there.
        remedy: what to do about it, as an imperative sentence without its full stop; empty where all is well.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(name: str, found: str, remedy: str = "") -> Check:
    """It will do."""
    return Check(name, "ok", found, remedy)


def warning(name: str, found: str, remedy: str) -> Check:
    """It will do, but not well."""
    return Check(name, "warning", found, remedy)


def failed(name: str, found: str, remedy: str) -> Check:
    """It will not do."""
    return Check(name, "failed", found, remedy)
