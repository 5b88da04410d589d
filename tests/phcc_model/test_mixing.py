"""FedEMA's mixture against the paper's formulas, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.mixing import autoscaled, divergence, mixed

VALUES = hnp.arrays(np.float32, 6, elements=st.floats(-100, 100, width=32))
SETTINGS = settings(max_examples=60, deadline=None)


def state(encoder: np.ndarray, decoder: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "encoder.a": encoder[:2],
        "encoder.b": encoder[2:].reshape(2, 2),
        "decoder.a": decoder,
        "encoder.count": np.array(int(abs(encoder[0]))),
    }


@SETTINGS
@given(VALUES, VALUES, VALUES, VALUES)
def test_the_length_is_that_over_the_encoders_weights_only(one, other, decoder, far) -> None:
    wanted = float(np.linalg.norm(one.astype(float) - other.astype(float)))
    assert divergence(state(one, decoder), state(other, far)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@SETTINGS
@given(VALUES, VALUES, st.floats(0.0, 1.0))
@example(np.float32([-51, 0, 0, 0, 0, 0]), np.float32([71, 0, 0, 0, 0, 0]), 0.41498270690829375)
def test_the_mixture_lies_between_and_its_ends_are_the_two(given_w, own_w, mu) -> None:
    ours, theirs = state(own_w, own_w), state(given_w, given_w)
    found = mixed(theirs, ours, mu)
    for name in ("encoder.a", "encoder.b", "decoder.a"):
        wanted = mu * ours[name].astype(float) + (1 - mu) * theirs[name].astype(float)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6, atol=1e-6)
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(mixed(theirs, ours, 1.0)[name], ours[name])
        np.testing.assert_array_equal(mixed(theirs, ours, 0.0)[name], theirs[name])
    assert found["encoder.count"] == theirs["encoder.count"]


@SETTINGS
@given(st.floats(0.0, 1.0), st.floats(1e-6, 1e6))
def test_the_autoscaler_makes_the_share_tau_where_it_is_set(tau, distance) -> None:
    scale = autoscaled(tau, distance)
    assert scale is not None
    assert scale * distance == pytest.approx(tau)


def test_without_a_distance_there_is_no_scale() -> None:
    assert autoscaled(0.7, 0.0) is None
