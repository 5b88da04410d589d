from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.config import FederationSettings
from phcc_server import aggregation
from phcc_server.aggregation import Aggregate, pooled_loss, site_weight
from phcc_server.rules import FedAvg, server_rule

SETTINGS = settings(max_examples=50, deadline=None)


@st.composite
def rounds_of_changes(draw) -> tuple[np.ndarray, list[float]]:
    """Changes of k sites, [k, size], and their weights."""
    sites, size = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    changes = draw(hnp.arrays(np.float32, (sites, size), elements=st.floats(-1e3, 1e3, width=32)))
    return changes, draw(st.lists(st.integers(1, 500).map(float), min_size=sites, max_size=sites))


def folded(changes: np.ndarray, weights: list[float], order: list[int] | None = None) -> np.ndarray:
    aggregate = Aggregate(changes.shape[1])
    for at in order or range(len(weights)):
        aggregate.fold(changes[at], weights[at])
    return aggregate.mean()


def tolerance(changes: np.ndarray) -> float:
    return 1e-6 * max(float(np.abs(changes).max()), 1e-30)


@SETTINGS
@given(given_round=rounds_of_changes())
def test_it_is_the_weighted_mean(given_round) -> None:
    changes, weights = given_round
    expected = np.average(changes.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(folded(changes, weights), expected, rtol=0, atol=tolerance(changes))


@SETTINGS
@given(given_round=rounds_of_changes(), data=st.data())
def test_the_order_of_the_sites_matters_to_no_more_than_a_millionth(given_round, data) -> None:
    changes, weights = given_round
    order = data.draw(st.permutations(range(len(weights))))
    np.testing.assert_allclose(
        folded(changes, weights, order), folded(changes, weights), rtol=0, atol=tolerance(changes)
    )


@SETTINGS
@given(given_round=rounds_of_changes(), factor=st.floats(0.25, 16.0))
def test_only_the_ratio_of_weights_counts_and_equal_changes_stay_themselves(given_round, factor) -> None:
    changes, weights = given_round
    scaled = [weight * factor for weight in weights]
    np.testing.assert_allclose(
        folded(changes, scaled), folded(changes, weights), rtol=0, atol=tolerance(changes)
    )
    same = np.broadcast_to(changes[0], changes.shape)
    np.testing.assert_allclose(folded(same, weights), changes[0], rtol=0, atol=tolerance(changes))


def test_it_is_right_across_chunks_and_leaves_what_it_folds() -> None:
    size = 2 * aggregation.CHUNK + 13
    rng = np.random.default_rng(0)
    changes = rng.standard_normal((3, size), dtype=np.float32)
    kept = changes.copy()
    expected = np.average(changes.astype(np.float64), axis=0, weights=[1, 2, 5])
    np.testing.assert_allclose(folded(changes, [1.0, 2.0, 5.0]), expected, atol=1e-6)
    np.testing.assert_array_equal(changes, kept)


@pytest.mark.parametrize("sites", [10, 100])
def test_memory_is_two_models_whatever_the_number_of_sites(sites) -> None:
    size = 2_000_000
    rng = np.random.default_rng(0)
    base = rng.standard_normal(size, dtype=np.float32)
    rule = FedAvg()
    tracemalloc.start()
    try:
        aggregate = Aggregate(size)
        for at in range(sites):
            reply = np.full(size, np.float32(at % 7), dtype=np.float32)  # arrives, is folded, is dropped
            aggregate.fold(reply, 1.0 + at % 3)
            del reply
        new, _ = rule.apply(base, aggregate.mean(), rule.start(size))
        peak = tracemalloc.get_traced_memory()[1] / base.nbytes
    finally:
        tracemalloc.stop()
    assert new.shape == base.shape
    assert 1.9 < peak < 2.2, f"{peak:.2f} models"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower's own imports
def test_it_is_faster_than_holding_all_replies_and_summing_them_as_flower_does() -> None:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    size, weights = 1_000_000, [10, 20, 30, 40, 50, 60, 70, 80]
    changes = np.random.default_rng(0).standard_normal((len(weights), size), dtype=np.float32)
    replies = [
        RecordDict({"a": ArrayRecord({"w": Array(change)}), "m": MetricRecord({"n": weight})})
        for change, weight in zip(changes, weights, strict=True)
    ]
    ours, theirs = [], []
    for _ in range(4):  # interleaved: other work on this machine slows both
        start = time.perf_counter()
        mean = folded(changes, [float(w) for w in weights])
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        record = aggregate_arrayrecords(replies, "n")
        theirs.append(time.perf_counter() - start)
    np.testing.assert_allclose(mean, record["w"].numpy(), atol=2e-6)
    assert min(theirs) / min(ours) > 1.5


@pytest.mark.parametrize(
    ("delta", "weight"),
    [
        (np.zeros(1, np.float32), 1.0),  # would be broadcast in silence
        (np.zeros((4, 1), np.float32), 1.0),
        (np.zeros(4), 1.0),
        (np.zeros(4, np.float32), 0.0),
        (np.zeros(4, np.float32), -1.0),
        (np.zeros(4, np.float32), float("nan")),
        (np.zeros(4, np.float32), float("inf")),
    ],
)
def test_what_cannot_be_folded_is_an_error_and_changes_nothing(delta, weight) -> None:
    aggregate = Aggregate(4)
    aggregate.fold(np.ones(4, np.float32), 2.0)
    with pytest.raises(ValueError, match=r"fold|weight"):
        aggregate.fold(delta, weight)
    assert aggregate.count == 1
    np.testing.assert_array_equal(aggregate.mean(), np.ones(4, np.float32))


def test_nothing_has_no_mean_and_a_mean_is_taken_once() -> None:
    aggregate = Aggregate(2)
    with pytest.raises(ValueError, match="nothing"):
        aggregate.mean()
    aggregate.fold(np.ones(2, np.float32), 1.0)
    aggregate.mean()
    with pytest.raises(ValueError, match="nothing"):
        aggregate.mean()


def test_of_counters_the_largest_is_kept_in_any_order() -> None:
    replies = [np.array([3, 9]), np.array([5, 1]), np.array([4, 4])]
    for order in itertools.permutations(replies):
        aggregate = Aggregate(1)
        for counters in order:
            aggregate.fold(np.ones(1, np.float32), 1.0, {"int64": counters})
        np.testing.assert_array_equal(aggregate.replaced["int64"], [5, 9])
    np.testing.assert_array_equal(replies[0], [3, 9])


@pytest.mark.parametrize(
    ("weighting", "expected"), [("patients", [30.0, 500.0]), ("equal", [1.0, 1.0]), ("capped", [30.0, 200.0])]
)
def test_weights_of_sites(weighting, expected) -> None:
    federation = FederationSettings(weighting=weighting, cap=200)
    assert [site_weight(federation, patients) for patients in (30, 500)] == expected
    with pytest.raises(ValueError, match="without patients"):
        site_weight(federation, 0)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_fedavg_adds_the_mean_change_and_leaves_the_base(algorithm) -> None:
    rule = server_rule(FederationSettings(algorithm=algorithm))
    base = np.array([1.0, 2.0], np.float32)
    new, state = rule.apply(base, np.array([0.5, -2.0], np.float32), rule.start(2))
    np.testing.assert_array_equal(new, [1.5, 0.0])
    np.testing.assert_array_equal(base, [1.0, 2.0])
    assert state == {}


def test_pooled_loss_is_the_mean_over_cases() -> None:
    assert pooled_loss([(1.0, 30), (2.0, 10)]) == pytest.approx(1.25)
    assert pooled_loss([(0.1, 3), (0.2, 5), (0.7, 11)]) == pooled_loss([(0.7, 11), (0.1, 3), (0.2, 5)])
    assert pooled_loss([]) is None
