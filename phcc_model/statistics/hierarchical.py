"""What several runs of one study say together: runs differ by seed (data, first weights), patients within runs.

A difference between two arms varies because other patients might have been drawn, and because another seed might
have been. Both are drawn anew: first runs, then patients within each run drawn (a two-stage bootstrap: Davison &
Hinkley 1997, section 3.8). Arms are compared on the same runs and the same patients throughout.

Where all runs are judged on one set of patients, runs and patients are crossed, not nested: who is hard in one
run is hard in the next. Then patients are drawn once for all runs (Owen, Annals of Applied Statistics 2007;
1:386-411).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phcc_model.errors import DataError
from phcc_model.statistics.bootstrap import auc_replicates
from phcc_model.statistics.roc import auc


@dataclass(frozen=True)
class RunScores:
    """One run's patients, and one or two arms' scores for them.

    Attributes:
        label_n: 0 or 1.
        score_n: of the arm.
        other_n: of the arm that it is compared with; None: no comparison.
        patient_n: the patient of each case; None: each case is a patient.
    """

    label_n: ArrayLike
    score_n: ArrayLike
    other_n: ArrayLike | None = None
    patient_n: Sequence[str] | None = None


@dataclass(frozen=True)
class OverRuns:
    """A mean over runs, and how sure it is.

    Attributes:
        mean: AUC, or AUC less the other arm's.
        low, high: percentile interval.
        runs: how many there are.
        each: the figure of every run, in order.
        sd: their standard deviation; None with one run.
        share_above_zero: of the replicates.
    """

    mean: float
    low: float
    high: float
    runs: int
    each: tuple[float, ...]
    sd: float | None
    share_above_zero: float


def over_runs(
    runs: Sequence[RunScores],
    *,
    generator: np.random.Generator,
    replicates: int = 2000,
    confidence: float = 0.95,
    same_patients: bool = False,
) -> OverRuns:
    """The mean AUC (or difference of two) over runs, with a bootstrap interval over both runs and patients.

    With one run only its patients vary, and the interval says nothing about seeds.

    Args:
        runs: one entry for each seed.
        generator: of the draws.
        replicates: samples drawn.
        confidence: of the interval.
        same_patients: every run is judged on the same patients, under the same names.

    Raises:
        DataError: there is no run, one has an AUC that is not defined, or `same_patients` is not so.
    """
    if not runs:
        raise DataError("there is no run", where="scores")
    each = np.array([_difference(run) for run in runs])
    if same_patients:
        _must_be_the_same(runs)
        # Patients are numbered by name: one seed draws the same patients in every run.
        seed = int(generator.integers(2**63))
        drawn_rb = np.stack([_drawn(run, replicates, np.random.default_rng(seed)) for run in runs])
    else:
        drawn_rb = np.stack([_drawn(run, replicates, generator) for run in runs])
    which_br = generator.integers(len(runs), size=(replicates, len(runs)))
    if same_patients:
        column_br = np.broadcast_to(np.arange(replicates)[:, None], which_br.shape)
    else:
        # Which of a run's own replicates is met is drawn again: a run that is drawn twice brings other patients.
        column_br = generator.integers(replicates, size=which_br.shape)
    values_b = drawn_rb[which_br, column_br].mean(axis=1)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values_b, (tail, 1.0 - tail))
    return OverRuns(
        mean=float(each.mean()),
        low=float(low),
        high=float(high),
        runs=len(runs),
        each=tuple(each.tolist()),
        sd=float(each.std(ddof=1)) if len(each) > 1 else None,
        share_above_zero=float((values_b > 0).mean()),
    )


def _difference(run: RunScores) -> float:
    of_arm = auc(run.label_n, run.score_n)
    of_other = 0.0 if run.other_n is None else auc(run.label_n, run.other_n)
    if of_arm is None or of_other is None:
        raise DataError("a run has patients of one class only", where="scores")
    return of_arm - of_other


def _must_be_the_same(runs: Sequence[RunScores]) -> None:
    found = {tuple(sorted(zip(_names(run), np.asarray(run.label_n).tolist(), strict=True))) for run in runs}
    if len(found) > 1:
        raise DataError("the runs are not judged on the same patients with the same labels", where="scores")


def _names(run: RunScores) -> Sequence[str]:
    cases = len(np.asarray(run.label_n))
    return run.patient_n if run.patient_n is not None else [f"{i:09d}" for i in range(cases)]


def _drawn(run: RunScores, replicates: int, generator: np.random.Generator) -> NDArray[np.float64]:
    scores = (run.score_n,) if run.other_n is None else (run.score_n, run.other_n)
    values = auc_replicates(run.label_n, scores, run.patient_n, generator=generator, replicates=replicates)
    difference: NDArray[np.float64] = values[0] if run.other_n is None else values[0] - values[1]
    return difference
