"""Every error that this project raises on purpose.

    PhccError                     one readable line: where, what is wrong, what to do
    ├── ConfigError               a study file, a key, a value, an override
    ├── DataError                 something about images, boxes, labels or splits
    │   ├── CaseError             one case cannot be used: it is set aside and counted, never fatal
    │   ├── DatasetError          a whole data set cannot be used (missing, empty, no annotation)
    │   └── SplitError            a split that would leak a patient, or that cannot be made
    ├── ContractError             what crosses between coordinator and hospital
    │   ├── VersionMismatch       the other side runs another contract or package: says what to install
    │   └── ReplyRefused          a reply that is not folded in: wrong names, shape, dtype, NaN, counts
    ├── TrainingError             the loss is not finite, a site has nothing to train on
    ├── PolicyError               this hospital has not agreed to it
    ├── RoundError                a round cannot be completed: below quorum, no reply in time
    └── StorageError              disk full, not writable, a checkpoint that is damaged

Foreign errors (OSError, JSONDecodeError, SimpleITK's RuntimeError...) are mapped to these at the boundary
where they arise; the command line prints ``str(error)`` and keeps the traceback for ``--debug``.
"""

from __future__ import annotations


class PhccError(Exception):
    """One readable line for a person who did not write this program.

    Args:
        what: what is wrong, as a sentence without its full stop.
        where: the file, key, case, site or round that it is about.
        remedy: what to do about it, as an imperative sentence without its full stop.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}. {self.remedy}." if self.remedy else f"{line}."

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross Ray's worker boundary; keyword-only arguments need help to be rebuilt.
        return _rebuild, (type(self), self.what, self.where, self.remedy)


def _rebuild(kind: type[PhccError], what: str, where: str | None, remedy: str | None) -> PhccError:
    return kind(what, where=where, remedy=remedy)


class ConfigError(PhccError):
    """A study file, one of its keys, or an override is wrong."""


class DataError(PhccError):
    """Something about images, boxes, labels or splits is wrong."""


class CaseError(DataError):
    """One case cannot be used; it is set aside and counted."""


class DatasetError(DataError):
    """A whole data set cannot be used."""


class SplitError(DataError):
    """A split would leak a patient, or cannot be made."""


class ContractError(PhccError):
    """What crosses between coordinator and hospital does not hold."""


class VersionMismatch(ContractError):
    """The other side runs another contract, package or study."""


class ReplyRefused(ContractError):
    """A reply is set aside and not folded in."""


class TrainingError(PhccError):
    """Training cannot go on: loss not finite, nothing to train on."""


class PolicyError(PhccError):
    """This hospital has not agreed to what is asked of it."""


class RoundError(PhccError):
    """A round cannot be completed."""


class StorageError(PhccError):
    """Disk full, not writable, or a stored file is damaged."""
