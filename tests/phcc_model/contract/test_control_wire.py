"""SCAFFOLD's arrays on the wire: as agreed, back as they went, and refused where they do not hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from phcc_model.contract import control, keys
from phcc_model.errors import ContractError

GOLDEN = Path(__file__).parents[2] / "data" / "contract" / "control.json"
DELTA = np.array([0.0, 1.0, -0.25, 7.5], np.float32)


def listed(arrays: dict[str, np.ndarray]) -> dict[str, list[object]]:
    return {name: [a.dtype.str, list(a.shape), a.tolist()] for name, a in arrays.items()}


def test_they_are_those_that_were_agreed() -> None:
    now = {
        "order": listed(control.order_arrays(DELTA, 4)),
        "reply": {encoding: listed(control.encode(DELTA, encoding)) for encoding in keys.ENCODINGS},
    }
    assert now == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        "what travels under SCAFFOLD has changed: raise CONTRACT_VERSION, and write this file anew"
    )


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_a_change_comes_back_beside_that_of_the_weights(encoding: str) -> None:
    arrays = control.encode(DELTA, encoding)
    assert all(control.is_control(name) for name in arrays)
    both = arrays | {keys.CHANGE: np.zeros(9, np.float32), "replace.int64": np.array([1])}
    np.testing.assert_allclose(control.decode(both, encoding, 4), DELTA, atol=0.02)
    assert set(control.without_control(both)) == {keys.CHANGE, "replace.int64"}


def test_an_order_comes_back() -> None:
    mean, last = control.read_order(control.order_arrays(DELTA, 4) | {keys.FLOAT: DELTA}, 4)
    np.testing.assert_array_equal(mean, DELTA)
    assert last == 4


@pytest.mark.parametrize(
    ("arrays", "where"),
    [
        ({}, "control"),
        ({"control.change": DELTA[:3]}, r"control\.change"),
        ({"control.change": DELTA.astype(np.float64)}, r"control\.change"),
        ({"control.change": DELTA * np.float32("nan")}, r"control\.change"),
        ({"control.change": DELTA, "control.gradients": DELTA}, r"control\.gradients"),
    ],
)
def test_what_does_not_hold_is_refused_and_named(arrays: dict[str, np.ndarray], where: str) -> None:
    with pytest.raises(ContractError, match=where):
        control.decode(arrays, keys.FP32, 4)


def test_a_mean_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ContractError, match="not finite"):
        control.read_order(control.order_arrays(np.full(4, np.inf, np.float32), 4), 4)
