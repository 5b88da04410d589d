"""Sample weights: exact gradient, exact bound, uniform as the special case, and a gain on held-out cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from strategies import seeds
from torch import Tensor

from phcc_model.config import WeightingSettings
from phcc_model.errors import StorageError
from phcc_model.weighting import (
    SampleWeighting,
    bounded,
    decorrelation,
    decorrelation_gradient,
    fourier_features,
    standardised,
)

DIM = 48
NOW = WeightingSettings(uniform_fraction=0.0)


def _features(n: int, seed: int) -> Tensor:
    """Features of rank 4 plus noise: redundant, as an encoder's are."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
    return torch.randn(n, 4, generator=source) @ mix + 0.5 * torch.randn(n, DIM, generator=source)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 9), r=st.integers(2, 6), k=st.integers(1, 3), seed=seeds)
def test_the_gradient_is_that_of_autograd(n: int, r: int, k: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    h = fourier_features(torch.randn(n, r, generator=source, dtype=torch.float64), k, source)
    weights = torch.rand(n, generator=source, dtype=torch.float64).softmax(0).requires_grad_()
    torch.autograd.backward(decorrelation(weights, h))
    assert weights.grad is not None
    torch.testing.assert_close(decorrelation_gradient(weights.detach(), h), weights.grad)


def test_decorrelation_is_the_mean_squared_covariance_off_the_diagonal() -> None:
    source = torch.Generator().manual_seed(1)
    h = fourier_features(torch.randn(50, 4, generator=source, dtype=torch.float64), 2, source)
    uniform = torch.full((50,), 1 / 50, dtype=torch.float64)
    expected = 0.0
    for draw in h:
        cov = np.cov(draw.numpy().T, bias=True)
        expected += float((cov[~np.eye(4, dtype=bool)] ** 2).mean())
    assert float(decorrelation(uniform, h)) == pytest.approx(expected)


def test_fourier_features_have_the_gaussian_kernel_as_their_product() -> None:
    source = torch.Generator().manual_seed(2)
    x = torch.tensor([[0.0], [0.7]], dtype=torch.float64)
    h = fourier_features(x, 200_000, source)[:, :, 0]
    assert float((h[:, 0] * h[:, 1]).mean()) == pytest.approx(np.exp(-(0.7**2) / 2), abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    logits=arrays.arrays(np.float64, st.integers(1, 12), elements=st.floats(-500, 500)),
    maximum=st.floats(1.0, 6.0),
)
def test_bounded_weights_sum_to_one_under_the_bound_in_the_order_of_the_logits(
    logits: NDArray[np.float64], maximum: float
) -> None:
    weights = bounded(torch.from_numpy(logits), maximum).numpy()
    bound = maximum / len(logits)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert weights.max() <= bound * (1.0 + 1e-9)
    assert weights.min() >= 0.0
    assert (np.diff(weights[np.argsort(logits)]) >= -1e-12).all()
    softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    free = (weights < bound * (1.0 - 1e-9)) & (softmax > 1e-9)
    if free.any():
        ratio = weights[free] / softmax[free]
        assert ratio.max() == pytest.approx(ratio.min(), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 33), seed=seeds)
def test_uniform_weights_are_exactly_one_over_n(n: int, seed: int) -> None:
    one_over_n = torch.full((n,), 1.0 / n)
    uniform = SampleWeighting(WeightingSettings(mode="uniform"), DIM, 0).weigh(_features(n, seed))
    early = SampleWeighting(WeightingSettings(uniform_fraction=0.1), DIM, 0).weigh(_features(n, seed), 0.05)
    tight = SampleWeighting(NOW.model_copy(update={"maximum": 1.0}), DIM, 0).weigh(_features(n, seed))
    for result in (uniform, early, tight):
        assert torch.equal(result.weights_b, one_over_n)
        assert result.effective_fraction == pytest.approx(1.0)
        assert result.decorrelation == pytest.approx(result.decorrelation_uniform)


@pytest.mark.parametrize("n", [16, 32])
def test_the_defaults_decorrelate_held_out_cosines_and_keep_half_of_the_sample(n: int) -> None:
    weighting = SampleWeighting(NOW, DIM, 3)
    results = [weighting.weigh(_features(n, seed)) for seed in range(12)]
    assert all(r.effective_fraction > 0.5 for r in results)
    assert sum(r.decorrelation for r in results) < 0.9 * sum(r.decorrelation_uniform for r in results)
    assert all(float(r.weights_b.sum()) == pytest.approx(1.0, abs=1e-6) for r in results)
    assert any(r.effective_fraction < 0.97 for r in results)


def test_held_out_figures_are_those_of_the_weights_returned() -> None:
    weighting = SampleWeighting(NOW, DIM, 3)
    x = _features(24, 1)
    result = weighting.weigh(x)
    # Other cosines than those of the log: the gain must hold on any draw.
    h = fourier_features(standardised(x.double()), 200, torch.Generator().manual_seed(99))
    uniform = torch.full((24,), 1 / 24, dtype=torch.float64)
    gain = float(decorrelation(result.weights_b.double(), h) / decorrelation(uniform, h))
    assert gain < 0.95
    assert result.decorrelation / result.decorrelation_uniform == pytest.approx(gain, abs=0.15)


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0, 1e4])
def test_no_sample_takes_all_whatever_the_penalty(penalty: float) -> None:
    weighting = SampleWeighting(NOW.model_copy(update={"penalty": penalty, "maximum": 3.0}), DIM, 0)
    for seed in range(3):
        weights = weighting.weigh(_features(16, seed)).weights_b
        assert float(weights.max()) <= 3.0 / 16 * (1 + 1e-5)
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_larger_penalty_is_nearer_to_uniform() -> None:
    fractions = [
        SampleWeighting(NOW.model_copy(update={"penalty": p}), DIM, 0)
        .weigh(_features(32, 1))
        .effective_fraction
        for p in (0.3, 1.0, 3.0, 100.0)
    ]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.999


def test_it_goes_on_from_its_state_as_if_never_stopped() -> None:
    whole, first, second = (SampleWeighting(NOW, DIM, 5) for _ in range(3))
    batches = [_features(n, seed) for seed, n in enumerate((16, 16, 7, 16))]
    expected = [whole.weigh(x).weights_b for x in batches]
    for x in batches[:3]:
        first.weigh(x)
    state = {name: array.copy() for name, array in first.state().items()}
    second.load(state)
    assert torch.equal(second.weigh(batches[3]).weights_b, expected[3])
    assert not torch.equal(SampleWeighting(NOW, DIM, 6).weigh(batches[0]).weights_b, expected[0])
    assert not torch.equal(SampleWeighting(NOW, DIM, 5).weigh(batches[3]).weights_b, expected[3])


def test_cosines_are_drawn_anew_for_each_batch() -> None:
    first, second = (SampleWeighting(NOW, DIM, 5) for _ in range(2))
    second.load(second.state() | {"batches": np.array([1.0])})
    a, b = first.weigh(_features(16, 0)), second.weigh(_features(16, 0))
    assert not torch.equal(a.weights_b, b.weights_b)
    assert a.decorrelation_uniform != b.decorrelation_uniform


def test_the_memory_is_a_running_mean() -> None:
    weighting = SampleWeighting(NOW.model_copy(update={"feature_dims": DIM, "memory": 0.75}), DIM, 0)
    a, b, short = _features(8, 1).double(), _features(8, 2).double(), _features(3, 3).double()
    weighting.weigh(a)
    weighting.weigh(b)
    weighting.weigh(short)
    state = weighting.state()
    expected = 0.75 * a + 0.25 * b
    expected[:3] = 0.75 * expected[:3] + 0.25 * short
    np.testing.assert_allclose(state["features"], expected.numpy(), rtol=1e-12)
    assert state["weights"].sum() == pytest.approx(1.0)


def test_a_state_that_does_not_belong_here_is_refused_and_changes_nothing() -> None:
    weighting = SampleWeighting(NOW, DIM, 0)
    weighting.weigh(_features(8, 0))
    good = weighting.state()
    damaged = [
        {name: array for name, array in good.items() if name != "weights"},
        good | {"features": good["features"][:, :-1]},
        good | {"weights": good["weights"][:-1]},
        good | {"features": good["features"] * np.nan},
    ]
    for state in damaged:
        with pytest.raises(StorageError, match="memory of the sample weighting"):
            weighting.load(state)
    for name, array in weighting.state().items():
        np.testing.assert_array_equal(array, good[name])


def test_constant_features_leave_finite_weights() -> None:
    result = SampleWeighting(NOW, DIM, 0).weigh(torch.full((16, DIM), 3.7))
    assert torch.isfinite(result.weights_b).all()
    assert float(result.weights_b.sum()) == pytest.approx(1.0, abs=1e-6)
