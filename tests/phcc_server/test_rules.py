"""Each rule of aggregation against its published formula, worked out by hand in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.build import first_weights
from phcc_model.config import FederationSettings, StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Manifest
from phcc_server import aggregation
from phcc_server.rules import FIRST, SECOND, FedAvg, FedOpt, rule_of, server_rule

SIZE = 6
DELTAS = hnp.arrays(np.float32, (4, SIZE), elements=st.floats(-0.5, 0.5, width=32))


def rule(algorithm: str, **values: object) -> FedOpt:
    made = server_rule(FederationSettings(algorithm=algorithm, **values))
    assert isinstance(made, FedOpt)
    return made


def published(
    algorithm: str, deltas: np.ndarray, eta: float, betas: tuple[float, float], tau: float
) -> np.ndarray:
    """Algorithm 2 of Reddi et al., coordinate by coordinate, from weights of zero."""
    weights = np.zeros(deltas.shape[1])
    for at in range(deltas.shape[1]):
        m, v = 0.0, tau**2
        for delta in deltas[:, at].astype(float):
            m = betas[0] * m + (1 - betas[0]) * delta
            if algorithm == "fedadam":
                v = betas[1] * v + (1 - betas[1]) * delta**2
            else:
                assume(abs(v - delta**2) > 1e-5 * v)  # else rounding decides the sign, and either is right
                v = v - (1 - betas[1]) * delta**2 * np.sign(v - delta**2)
            weights[at] += eta * m / (v**0.5 + tau)
    return weights


def walked(made: FedOpt, deltas: np.ndarray) -> np.ndarray:
    weights, state = np.zeros(deltas.shape[1], np.float32), made.start(deltas.shape[1])
    for delta in deltas:
        weights, state = made.apply(weights, delta.copy(), state)
    return weights


@settings(max_examples=60, deadline=None)
@given(
    algorithm=st.sampled_from(["fedadam", "fedyogi"]),
    deltas=DELTAS,
    eta=st.floats(1e-3, 0.3),
    betas=st.tuples(st.floats(0.0, 0.95), st.floats(0.1, 0.99)),
    tau=st.floats(1e-3, 0.1),
)
def test_some_rounds_are_those_of_the_published_algorithm(algorithm, deltas, eta, betas, tau) -> None:
    made = rule(algorithm, server_learning_rate=eta, server_betas=betas, server_tau=tau)
    wanted = published(algorithm, deltas, eta, betas, tau)
    slack = 1e-6 * eta / tau  # m is rounded to 1e-8, and divided by tau
    np.testing.assert_allclose(walked(made, deltas), wanted, rtol=1e-3, atol=slack)


def test_one_step_by_hand() -> None:
    """D = 0.1: m = 0.01, v = 0.99 1e-6 + 0.01 0.01 = 1.0099e-4, step 0.01 0.01 / (sqrt(v) + 1e-3)."""
    delta = np.array([0.1, -0.1], np.float32)
    for algorithm, second in (("fedadam", 0.99e-6 + 1e-4), ("fedyogi", 1e-6 + 1e-4)):
        made = rule(algorithm, server_betas=(0.9, 0.99), server_tau=1e-3)
        new, state = made.apply(np.ones(2, np.float32), delta.copy(), made.start(2))
        step = 0.01 * 0.01 / (second**0.5 + 1e-3)
        np.testing.assert_allclose(new, [1.0 + step, 1.0 - step], rtol=1e-6)
        np.testing.assert_allclose(state[FIRST], [0.01, -0.01], rtol=1e-6)
        np.testing.assert_allclose(state[SECOND], [second] * 2, rtol=1e-6)


def test_yogi_forgets_a_large_change_more_slowly_than_adam() -> None:
    """That is what it is for: after one long change and short ones, Adam's second moment has shrunk by more."""
    deltas = np.array([[1.0], [1e-3], [1e-3], [1e-3]], np.float32)
    seconds = {}
    for algorithm in ("fedadam", "fedyogi"):
        made, state = rule(algorithm), rule(algorithm).start(1)
        for delta in deltas:
            _, state = made.apply(np.zeros(1, np.float32), delta.copy(), state)
        seconds[algorithm] = float(state[SECOND][0])
    assert seconds["fedadam"] < 0.98 * seconds["fedyogi"]


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi"])
def test_nothing_given_is_written_into_and_chunks_do_not_show(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    size = 2 * aggregation.CHUNK + 5
    base, delta = rng.standard_normal((2, size), dtype=np.float32)
    made = rule(algorithm)
    state = made.start(size)
    kept = (base.copy(), {name: array.copy() for name, array in state.items()})
    new, after = made.apply(base, delta.copy(), state)
    np.testing.assert_array_equal(base, kept[0])
    for name, array in state.items():
        np.testing.assert_array_equal(array, kept[1][name])
    part = slice(aggregation.CHUNK - 3, aggregation.CHUNK + 3)
    small, small_after = made.apply(base[part], delta[part].copy(), made.start(6))
    np.testing.assert_array_equal(new[part], small)
    for name, array in after.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array[part], small_after[name])


def test_no_change_of_the_sites_is_none_of_the_model() -> None:
    for algorithm in ("fedadam", "fedyogi"):
        assert not walked(rule(algorithm), np.zeros((3, SIZE), np.float32)).any()


def test_running_statistics_are_averaged_and_weights_are_stepped() -> None:
    study = StudyConfig(federation={"algorithm": "fedadam"})
    state = first_weights(study, keys.FINETUNE)
    manifest = Manifest.of(state)
    made = rule_of(study, keys.FINETUNE, manifest)
    base = manifest.pack(state)[keys.FLOAT]
    new, _ = made.apply(base, np.full(manifest.size, 0.25, np.float32), made.start(manifest.size))
    moved = {name: array - state[name] for name, array in manifest.unpack({keys.FLOAT: new}).items()}
    running = {name for name, by in moved.items() if np.allclose(by, 0.25, atol=1e-6)}
    assert running == {"norm.mean_tc", "norm.variance_tc", "norm.mass_t1"}
    stepped = [
        float(np.abs(by - by.reshape(-1)[0]).max()) for name, by in moved.items() if name not in running
    ]
    assert max(stepped) < 1e-5
    assert 0.0 < float(moved["out.bias"][0]) < 0.1


# ---- SCAFFOLD


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_mean_control_is_that_over_all_sites_that_have_taken_part(data: st.DataObject) -> None:
    """Whoever takes part in which round: c is the weighted mean of what the sites hold, so corrections cancel."""
    weights = {site: float(data.draw(st.integers(1, 300))) for site in "ABCD"}
    made = server_rule(FederationSettings(algorithm="scaffold"))
    state, held = made.start(3), dict.fromkeys(weights, np.zeros(3))
    seen: dict[str, int] = {}
    for number in range(data.draw(st.integers(1, 6))):
        there = data.draw(st.sets(st.sampled_from(sorted(weights)), min_size=1))
        folded = aggregation.Aggregate(3)
        for site in sorted(there):
            assert int(made.along(state, site)[keys.CONTROL_ROUND][0]) == seen.get(site, -1)
            change = data.draw(hnp.arrays(np.float32, 3, elements=st.floats(-1, 1, width=32)))
            held[site] = held[site] + change
            seen[site] = number
            folded.fold(change, weights[site])
        state = made.controlled(state, folded.mean(), {site: weights[site] for site in there}, number)
        wanted = sum(weights[site] * held[site] for site in seen) / sum(weights[site] for site in seen)
        np.testing.assert_allclose(made.along(state, "A")[keys.CONTROL], wanted, atol=1e-5)


def test_with_equal_weights_and_all_sites_known_it_is_the_published_step() -> None:
    """c = c + |S| / N mean over S: here 1 of 4 sites, whose control variate changed by 8."""
    made = server_rule(FederationSettings(algorithm="scaffold", weighting="equal"))
    everyone = dict.fromkeys("ABCD", 1.0)
    state = made.controlled(made.start(1), np.ones(1, np.float32), everyone, 0)
    state = made.controlled(state, np.full(1, 8.0, np.float32), {"B": 1.0}, 1)
    np.testing.assert_allclose(state[keys.CONTROL], [1.0 + 8.0 / 4])
    assert [int(made.along(state, site)[keys.CONTROL_ROUND][0]) for site in "ABE"] == [0, 1, -1]


def test_scaffolds_weights_are_fedavgs() -> None:
    made = server_rule(FederationSettings(algorithm="scaffold"))
    base, delta = np.ones(2, np.float32), np.array([0.5, -2.0], np.float32)
    new, _ = made.apply(base, delta.copy(), made.start(2))
    np.testing.assert_array_equal(new, [1.5, -1.0])


def test_fedprox_and_fedavg_keep_nothing() -> None:
    for algorithm in ("fedavg", "fedprox"):
        made = server_rule(FederationSettings(algorithm=algorithm))
        assert isinstance(made, FedAvg)
        assert made.start(SIZE) == {}
