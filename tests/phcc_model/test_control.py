"""SCAFFOLD's control variate at a site: option II as published, where the optimiser is the published one."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from phcc_model.training.control import Control
from phcc_model.training.progress import Place
from phcc_model.training.steps import Recipe, RoundOptimiser

VECTOR = hnp.arrays(np.float32, 3, elements=st.floats(-1, 1, width=32))


@settings(max_examples=60, deadline=None)
@given(VECTOR, VECTOR, VECTOR, st.lists(VECTOR, min_size=1, max_size=5), st.floats(0.01, 0.5))
def test_for_sgd_it_is_option_ii(start, own, mean, targets, eta) -> None:
    """K steps of rate eta down |w - t|^2 / 2 for a target t each: c_i - c + (x - y) / (K eta), to rounding."""
    weights = nn.Parameter(torch.from_numpy(start.copy()))
    control = Control({"w": mean - own})
    raw = []
    for target in targets:
        weights.grad = weights.detach() - torch.from_numpy(target)
        raw.append(weights.grad.numpy().copy())
        control.correct({"w": weights})
        np.testing.assert_allclose(weights.grad.numpy(), raw[-1] - own + mean, atol=1e-6)
        with torch.no_grad():
            weights -= eta * weights.grad
    published = own.astype(float) - mean + (start - weights.detach().numpy()) / (len(targets) * eta)
    np.testing.assert_allclose(control.mean()["w"], published, atol=1e-4)
    np.testing.assert_allclose(control.mean()["w"], np.mean(raw, axis=0), atol=1e-6)


def test_the_correction_is_added_before_the_clipping_and_reaches_trained_weights_only() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    control = Control({"weight": np.full((1, 2), 30.0, np.float32), "bias": np.ones(1, np.float32)})
    optimiser = RoundOptimiser(
        layer, Recipe(1e-3, 0.0, 0.0, 1), Place(0, "finetune", 0, "north"), steps=1, control=control
    )
    optimiser.step(layer(torch.tensor([[40.0, 40.0]])).sum(), epoch=0)
    assert layer.weight.grad is not None
    torch.testing.assert_close(
        layer.weight.grad, torch.full((1, 2), 0.5**0.5)
    )  # 70 each, clipped to length 1
    assert set(control.mean()) == {"weight"}
    np.testing.assert_array_equal(control.mean()["weight"], [[40.0, 40.0]])


def test_what_is_given_is_not_written_into() -> None:
    given_correction = np.ones(2, np.float32)
    control = Control({"w": given_correction})
    weights = nn.Parameter(torch.zeros(2))
    for _ in range(2):
        weights.grad = torch.ones(2)
        control.correct({"w": weights})
    np.testing.assert_array_equal(given_correction, [1.0, 1.0])
    np.testing.assert_array_equal(control.mean()["w"], [1.0, 1.0])
