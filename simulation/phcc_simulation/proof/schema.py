"""What ``combined.json`` holds: every figure over the seeds of a study, in one frozen model."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from phcc_server.report.schema import EXTERNAL, TEST_SPLITS, Limits, Part

FORMAT = 1
"""Raised when a key changes its name or meaning."""

HOLDS: Final = "holds"
ON_AVERAGE: Final = "holds on average only"
NOT: Final = "does not hold"
NOT_RUN: Final = "not run"
NOT_DEFINED: Final = "not defined"
Verdict = Literal["holds", "holds on average only", "does not hold", "not run", "not defined"]


class SeedFacts(Part):
    """One seed: what it was, so that it can be run again and recognised.

    Attributes:
        phantom_seed: of the synthetic patients; null for other data.
        study, splits, phantom, scores: SHA-256.
        package: version of this project by which it was trained; null where nothing was trained.
        seconds: of training, all arms together.
    """

    seed: int
    phantom_seed: int | None
    folder: str
    arms: tuple[str, ...]
    patients: int
    study: str
    splits: str | None
    phantom: str | None
    scores: str
    package: str | None
    seconds: float


class Figure(Part):
    """A mean over seeds, and how sure it is; null with the reason where it is not defined.

    Attributes:
        ci: percentile interval of the two-stage bootstrap.
        seeds: those that it is the mean of.
        each: the figure of every one of them.
        sd: of `each`; null with one seed.
        share_above_zero: of the replicates.
        n, n_pos: cases and positive cases, all seeds together.
    """

    value: float | None
    ci: Limits = None
    seeds: tuple[int, ...] = ()
    each: tuple[float, ...] = ()
    sd: float | None = None
    share_above_zero: float | None = None
    n: int = 0
    n_pos: int = 0
    reason: str | None = None


class ArmFigure(Part):
    """The mean AUC of an arm in a split."""

    arm: str
    split: str
    auc: Figure


class DifferenceFigure(Part):
    """AUC of arm `a` less that of arm `b`, on the same cases of the same seeds."""

    a: str
    b: str
    split: str
    delta: Figure


class Work(Part):
    """What a federated arm costs, mean over seeds.

    Attributes:
        rounds, local_epochs: of pre-training and of fine-tuning.
        bytes_up, bytes_down: from and to one site in all rounds, mean over sites.
        seconds: of its rounds, on the machine that ran them.
    """

    arm: str
    rounds: tuple[int, int]
    local_epochs: tuple[int, int]
    bytes_up: float
    bytes_down: float
    seconds: float


class Claim(Part):
    """Something that is claimed of the method, and whether these runs bear it out.

    Attributes:
        found: null where its arms were not run.
        ci: interval of `found`; null where there is none.
        spread: lowest and highest seed, where there is no interval.
        each: every seed's figure.
        percent: whether `found` is a share.
        note: which arms were meant, or why nothing can be said.
    """

    claim: str
    wanted: str
    verdict: Verdict
    found: float | None = None
    ci: Limits = None
    spread: Limits = None
    each: tuple[float, ...] = ()
    percent: bool = False
    note: str = ""


class Combined(Part):
    """All seeds of one study together.

    Attributes:
        same_patients: whether seeds share patients: then these are taken for different ones, and intervals are
            too narrow, but for figures of a split whose patients are the same in every seed.
        same_test: whether the patients of `split` are; they are then drawn once for all seeds.
        test: what the internal test is, where the data themselves say it.
        split: the patients on which claims are judged.
        bootstrap: how intervals were made, in words.
        best_possible_auc: of synthetic data, by what a score may see.
        works: what each federated arm costs.
        left_out: folders of seeds that are not finished.
        combined_with: versions of what worked this out.
    """

    format: int = FORMAT
    study: str
    synthetic: bool
    same_patients: bool = False
    same_test: bool = False
    test: str = ""
    confidence: float
    replicates: int
    bootstrap: str
    split: str
    seeds: tuple[SeedFacts, ...]
    arms: tuple[ArmFigure, ...]
    differences: tuple[DifferenceFigure, ...]
    claims: tuple[Claim, ...]
    works: tuple[Work, ...] = ()
    best_possible_auc: dict[str, float] = Field({})
    left_out: tuple[str, ...] = ()
    combined_with: dict[str, str] = Field({})

    @property
    def tests(self) -> tuple[str, ...]:
        """The test splits that there are: without an external centre the internal one alone."""
        return TEST_SPLITS if self.split == EXTERNAL else (self.split,)

    def auc(self, arm: str, split: str) -> Figure | None:
        """The figure of an arm in a split; None where it was not run."""
        return next((one.auc for one in self.arms if (one.arm, one.split) == (arm, split)), None)

    def delta(self, a: str, b: str, split: str) -> Figure | None:
        """The difference of two arms; None where one was not run."""
        found = (one.delta for one in self.differences if (one.a, one.b, one.split) == (a, b, split))
        return next(found, None)

    @property
    def names(self) -> tuple[str, ...]:
        """Arms, each once, in the order of the study."""
        return tuple(dict.fromkeys(one.arm for one in self.arms))
