"""The operating threshold from counts that a site may send: scores per bin and class, never one score.

A site bins the scores of its validation patients; the coordinator adds the counts of all sites and fixes one
threshold (Youden), which is frozen before any test patient is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phcc_model.errors import DatasetError

BINS = 200
"""Bins of equal width on [0, 1]; part of what all sites agree on, so it is not configurable."""

_EDGES = np.arange(BINS + 1) / BINS


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """How many patients of each class scored in each bin; sites' histograms add up.

    Laws (tested): ``a + b == b + a``, ``(a + b) + c == a + (b + c)``, ``a + ScoreHistogram.empty() == a``;
    the histogram of all patients is the sum of the histograms of any partition of them.

    Attributes:
        positive_k: int64, positives per bin; bin k holds scores in [k / BINS, (k + 1) / BINS), the last bin
            also the score 1.
        negative_k: int64, negatives per bin.
    """

    positive_k: NDArray[np.int64]
    negative_k: NDArray[np.int64]

    def __post_init__(self) -> None:
        for counts_k in (self.positive_k, self.negative_k):
            if counts_k.shape != (BINS,) or counts_k.dtype != np.int64 or (counts_k < 0).any():
                raise ValueError(f"counts must be {BINS} non-negative 64-bit integers per class")

    @staticmethod
    def empty() -> ScoreHistogram:
        """No patient at all: the neutral element of the sum."""
        return ScoreHistogram(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))

    @staticmethod
    def from_scores(score_n: ArrayLike, label_n: ArrayLike) -> ScoreHistogram:
        """Count scores by bin and class.

        Args:
            score_n: probabilities in [0, 1].
            label_n: 1 proliferative, 0 not.

        Raises:
            ValueError: a score that is not a probability, a label that is neither 0 nor 1, or lengths differ.
        """
        score, label = np.asarray(score_n, np.float64), np.asarray(label_n)
        if score.ndim != 1 or score.shape != label.shape:
            raise ValueError("scores and labels must be two lists of one length")
        if not ((score >= 0.0) & (score <= 1.0)).all():
            raise ValueError("a score lies outside [0, 1] or is not a number")
        if not np.isin(label, (0, 1)).all():
            raise ValueError("labels must be 0 or 1: leave unknown labels out")
        # Compared with the very edges a threshold is taken from, so that binning and deciding never disagree.
        bin_n = np.minimum(np.searchsorted(_EDGES, score, side="right") - 1, BINS - 1)
        positive_k = np.bincount(bin_n[label == 1], minlength=BINS).astype(np.int64)
        negative_k = np.bincount(bin_n[label == 0], minlength=BINS).astype(np.int64)
        return ScoreHistogram(positive_k, negative_k)

    @staticmethod
    def from_array(counts_ck: NDArray[np.int64]) -> ScoreHistogram:
        """Rebuild from `to_array` (row 0 negatives, row 1 positives)."""
        if counts_ck.shape != (2, BINS):
            raise ValueError(f"a score histogram is an array of 2 x {BINS}, not {counts_ck.shape}")
        return ScoreHistogram(counts_ck[1], counts_ck[0])

    def to_array(self) -> NDArray[np.int64]:
        """The counts as int64 [2, BINS]: row 0 negatives, row 1 positives."""
        return np.stack([self.negative_k, self.positive_k])

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.positive_k + other.positive_k, self.negative_k + other.negative_k)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScoreHistogram) and bool((self.to_array() == other.to_array()).all())

    def __hash__(self) -> int:
        return hash(self.to_array().tobytes())

    @property
    def positives(self) -> int:
        """Patients with the positive label."""
        return int(self.positive_k.sum())

    @property
    def negatives(self) -> int:
        """Patients with the negative label."""
        return int(self.negative_k.sum())

    @property
    def auc(self) -> float:
        """Area under the ROC curve, pairs within one bin counted as ties; NaN without both classes."""
        pairs = self.positives * self.negatives
        if not pairs:
            return float("nan")
        below_k = np.cumsum(self.negative_k) - self.negative_k
        return float((self.positive_k * (below_k + 0.5 * self.negative_k)).sum() / pairs)

    @property
    def auc_error(self) -> float:
        """Largest distance of `auc` from the AUC of the scores themselves: half the pairs within one bin."""
        pairs = self.positives * self.negatives
        return float(0.5 * (self.positive_k * self.negative_k).sum() / pairs) if pairs else float("nan")

    def youden(self) -> float:
        """The threshold t with the best sensitivity + specificity - 1 if ``score >= t`` is called positive.

        Youden, Cancer 1950. Only edges of bins are thresholds. Where several are equally good, the middle of
        the first run of neighbours is taken: the point farthest from the patients who decided it.

        Raises:
            DatasetError: one of the classes has no patient, so that no threshold is better than another.
        """
        if not self.positives or not self.negatives:
            raise DatasetError(
                f"{self.positives} positive and {self.negatives} negative patients fix no threshold",
                where="operating threshold",
                remedy="give the validation split patients of both classes (data.split.validation)",
            )
        # Cross-multiplied integers: ties are exact, whatever the class sizes.
        missed_k = np.concatenate([[0], np.cumsum(self.positive_k)])
        cleared_k = np.concatenate([[0], np.cumsum(self.negative_k)])
        gain_k = cleared_k * self.positives - missed_k * self.negatives
        first = int(gain_k.argmax())
        differs = np.flatnonzero(gain_k[first:] != gain_k[first])
        last = first + int(differs[0]) - 1 if differs.size else BINS
        return float(_EDGES[(first + last) // 2])
