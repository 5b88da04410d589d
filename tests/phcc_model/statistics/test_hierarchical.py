"""Several runs together: intervals cover what varies between runs as well as between patients."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.errors import DataError
from phcc_model.statistics import RunScores, auc, bootstrap_auc, bootstrap_difference, over_runs


def run(seed: int, patients: int = 120, effect: float = 1.0, other: float | None = None) -> RunScores:
    rng = np.random.default_rng(seed)
    label = np.arange(patients) % 2
    shared = rng.standard_normal(patients)
    score = effect * label + shared
    return RunScores(label, score, None if other is None else other * label + shared)


def test_one_run_gives_the_bootstrap_of_its_patients() -> None:
    one = run(0, other=0.5)
    found = over_runs([one], generator=np.random.default_rng(1), replicates=4000)
    plain = bootstrap_difference(
        one.label_n, one.score_n, np.asarray(one.other_n), generator=np.random.default_rng(2), replicates=4000
    )
    assert plain.low is not None
    assert plain.high is not None
    assert found.low == pytest.approx(plain.low, abs=0.01)
    assert found.high == pytest.approx(plain.high, abs=0.01)
    assert (found.runs, found.sd) == (1, None)


def test_runs_that_differ_make_the_interval_wider_than_their_patients_do() -> None:
    alike = [run(seed, 2000, 1.0) for seed in range(5)]
    differing = [run(seed, 2000, effect) for seed, effect in enumerate((0.2, 0.6, 1.0, 1.4, 1.8))]
    narrow, wide = (over_runs(runs, generator=np.random.default_rng(0)) for runs in (alike, differing))
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low)
    # The mean of five runs, each itself known well: its bootstrap error is that of the runs' mean.
    assert wide.sd is not None
    assert (wide.high - wide.low) / (2 * 1.96) == pytest.approx(
        wide.sd * np.sqrt(4 / 5) / np.sqrt(5), rel=0.15
    )


def test_more_patients_and_runs_make_it_narrower() -> None:
    widths = [
        (found := over_runs([run(s, n) for s in range(k)], generator=np.random.default_rng(0))).high
        - found.low
        for n, k in ((60, 3), (240, 3), (240, 12))
    ]
    assert widths[0] > 1.5 * widths[1] > 1.5 * 1.2 * widths[2]


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    """Runs drawn with effects of sd .3 about 1: the mean AUC over all runs is known by simulation."""
    rng = np.random.default_rng(7)
    truth = np.mean([auc(*_parts(run(10_000 + s, 400, 1 + 0.3 * rng.standard_normal()))) for s in range(800)])
    hits = 0
    for trial in range(120):
        runs = [run(100 * trial + s, 100, 1 + 0.3 * rng.standard_normal()) for s in range(8)]
        found = over_runs(runs, generator=np.random.default_rng(trial), replicates=400)
        hits += int(found.low <= truth <= found.high)
    assert 0.88 <= hits / 120 <= 1.0


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), runs=st.integers(1, 4))
def test_an_arm_differs_from_itself_by_nothing(seed: int, runs: int) -> None:
    same = [RunScores(r.label_n, r.score_n, r.score_n) for r in (run(seed + s, 40) for s in range(runs))]
    found = over_runs(same, generator=np.random.default_rng(0), replicates=50)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    single = over_runs([run(seed)], generator=np.random.default_rng(0), replicates=50)
    assert single.each == (auc(*_parts(run(seed))),)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), order=st.randoms())
def test_runs_on_the_same_patients_that_score_alike_vary_as_one_run_does(
    seed: int, order: random.Random
) -> None:
    """Nothing is gained by scoring the same patients five times, in whatever order they stand."""
    one = run(seed, 60)
    label, score = _parts(one), np.asarray(one.score_n)
    names = [f"p{i:03d}" for i in range(60)]
    runs = []
    for _ in range(5):
        at = list(range(60))
        order.shuffle(at)
        runs.append(RunScores(label[0][at], score[at], patient_n=[names[i] for i in at]))
    kept = {"replicates": 200, "same_patients": True}
    many = over_runs(runs, generator=np.random.default_rng(1), **kept)
    single = over_runs(runs[:1], generator=np.random.default_rng(1), **kept)
    assert (many.low, many.high) == pytest.approx((single.low, single.high), abs=1e-12)
    nested = over_runs(runs, generator=np.random.default_rng(1), replicates=200)
    assert nested.high - nested.low < 0.75 * (many.high - many.low)


def test_the_same_patients_must_be_the_same() -> None:
    one = run(0, 40)
    other = RunScores(1 - np.asarray(one.label_n), one.score_n)
    with pytest.raises(DataError, match="not judged on the same patients"):
        over_runs([one, other], generator=np.random.default_rng(0), same_patients=True)


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(DataError, match="there is no run"):
        over_runs([], generator=np.random.default_rng(0))
    with pytest.raises(DataError, match="one class"):
        over_runs([RunScores([1, 1], [0.1, 0.2])], generator=np.random.default_rng(0))
    assert bootstrap_auc([1, 1], [0.1, 0.2], generator=np.random.default_rng(0)).low is None


def _parts(one: RunScores) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(one.label_n), np.asarray(one.score_n)
