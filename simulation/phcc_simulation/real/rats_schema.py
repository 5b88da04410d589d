"""What ``rats.json`` holds: every figure of the rats' study, in one frozen model."""

from __future__ import annotations

from typing import Any, Final

from phcc_server.report.schema import Limits, Part

HEAD: Final = "head"
FEDERATED: Final = "head, federated"
BASELINE: Final = "logistic regression"


class CentreFacts(Part):
    """A centre: how many scans, of how many animals, and to how many scans an inhibitor was given."""

    centre: str
    scans: int
    animals: int
    inhibited: int
    studies: tuple[str, ...]


class ArmAtCentre(Part):
    """One way to score the scans of a centre that it was not trained on.

    Attributes:
        seeds: AUC by seed; one figure where nothing is drawn.
        auc: of the scores' mean over seeds, with its interval over animals; null with the reason.
        against: `auc` less that of the logistic regression, with its interval; null for itself.
    """

    arm: str
    seeds: tuple[float, ...]
    auc: float | None
    ci: Limits
    method: str | None
    reason: str | None
    against: float | None = None
    against_ci: Limits = None
    warnings: tuple[str, ...] = ()

    @property
    def mean(self) -> float | None:
        """Of the seeds."""
        return sum(self.seeds) / len(self.seeds) if self.seeds else None


class HeldOut(Part):
    """One centre held out.

    Attributes:
        facts: of the centre.
        chosen: index of the settings among the candidates, by the training centres' animals alone.
        choice: of each candidate, what it was chosen by: mean AUC and log loss.
        arms: in order.
    """

    facts: CentreFacts
    chosen: int
    choice: tuple[tuple[float, float], ...]
    arms: tuple[ArmAtCentre, ...]


class RatsResult(Part):
    """The study, whole.

    Attributes:
        data: SHA-256 over the names and contents of all archives.
        study: SHA-256 over the data's, candidates, seeds, tokens and substances: what was run.
        scores: SHA-256 of ``scores.csv``.
        aside: scans that could not be used, and why.
    """

    data: str
    study: str
    scores: str
    versions: dict[str, str]
    seeds: tuple[int, ...]
    minutes: tuple[int, ...]
    inhibitors: tuple[str, ...]
    others: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...]
    confidence: float
    held_out: tuple[HeldOut, ...]
    aside: tuple[tuple[str, str], ...]
    seconds: float
