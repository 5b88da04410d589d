from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.errors import ContractError

SETTINGS = settings(max_examples=150, deadline=None)
LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
deltas = hnp.arrays(
    np.float32,
    st.integers(0, 700),
    elements=st.floats(-codec.LARGEST, codec.LARGEST, width=32) | st.floats(-1.0, 1.0, width=32),
    fill=st.just(0.0),
)


def there_and_back(delta: np.ndarray, encoding: str) -> np.ndarray:
    return codec.decode(codec.encode(delta, encoding), encoding, delta.size)


@SETTINGS
@given(delta=deltas)
def test_fp32_is_exact(delta) -> None:
    np.testing.assert_array_equal(there_and_back(delta, "fp32"), delta)


@SETTINGS
@given(delta=deltas)
@example(np.array([codec.LARGEST, -codec.LARGEST, SMALLEST], np.float32))
@example(np.array([SMALLEST], np.float32))
@example(np.array([70000.0, 65520.0], np.float32))  # beyond the largest half
def test_fp16_keeps_its_bound_whatever_the_range(delta) -> None:
    coded = codec.encode(delta, "fp16")
    back = codec.decode(coded, "fp16", delta.size).astype(np.float64)
    x = delta.astype(np.float64)
    scale = float(coded[keys.SCALES][0])
    assert np.isfinite(coded[keys.CHANGE]).all()
    assert np.frexp(scale)[0] == 0.5, "the scale is a power of two"
    # A result below float32's normal range is rounded once more, to a multiple of the smallest subnormal.
    bound = np.abs(x) * 2.0**-11 + scale * 2.0**-25 + SMALLEST / 2
    assert (np.abs(back - x) <= bound).all()


@SETTINGS
@given(delta=deltas)
@example(np.full(300, codec.LARGEST, np.float32))
@example(np.array([SMALLEST], np.float32))
def test_int8_keeps_its_bound_in_every_block(delta) -> None:
    back = there_and_back(delta, "int8").astype(np.float64)
    tiny = float(np.finfo(np.float32).tiny)
    for start in range(0, delta.size, codec.BLOCK):
        x = delta[start : start + codec.BLOCK].astype(np.float64)
        step = max(np.abs(x).max() / 127, tiny)
        assert (np.abs(back[start : start + codec.BLOCK] - x) <= 0.5 * step * (1 + 2.0**-15)).all()


@SETTINGS
@given(delta=deltas, encoding=st.sampled_from(keys.ENCODINGS))
def test_layout_is_what_encode_gives_and_signs_turn_with_the_change(delta, encoding) -> None:
    coded = codec.encode(delta, encoding)
    assert {name: (a.dtype.name, a.size) for name, a in coded.items()} == codec.layout(encoding, delta.size)
    np.testing.assert_array_equal(there_and_back(-delta, encoding), -there_and_back(delta, encoding))


@pytest.mark.parametrize(
    ("encoding", "share", "error"), [("fp32", 1.0, 0.0), ("fp16", 0.5001, 5e-4), ("int8", 0.26, 0.01)]
)
def test_bytes_and_error_on_a_change_of_many_chunks(encoding, share, error) -> None:
    rng = np.random.default_rng(0)
    size = 3 * codec.CHUNK + 77
    delta = (rng.standard_normal(size) * rng.choice([1e-5, 1e-3], size)).astype(np.float32)
    coded = codec.encode(delta, encoding)
    assert sum(array.nbytes for array in coded.values()) <= share * delta.nbytes
    back = codec.decode(coded, encoding, size)
    assert np.linalg.norm(back - delta) <= error * np.linalg.norm(delta)


def test_fp16_with_its_scale_keeps_small_changes_that_a_plain_half_loses() -> None:
    delta = np.random.default_rng(1).standard_normal(4096).astype(np.float32) * np.float32(1e-8)
    plain = delta.astype(np.float16).astype(np.float32)
    assert np.linalg.norm(plain - delta) > 0.5 * np.linalg.norm(delta)
    assert np.linalg.norm(there_and_back(delta, "fp16") - delta) < 5e-4 * np.linalg.norm(delta)


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, codec.CHUNK + 3])
def test_what_is_not_finite_is_refused_at_both_ends(encoding, bad, place) -> None:
    delta = np.zeros(codec.CHUNK + 5, np.float32)
    coded = codec.encode(delta, encoding)
    target = keys.SCALES if encoding == "int8" else keys.CHANGE
    coded = {name: array.copy() for name, array in coded.items()}
    coded[target][min(place, coded[target].size - 1)] = bad
    with pytest.raises(ContractError, match="not finite"):
        codec.decode(coded, encoding, delta.size)
    delta[place] = bad
    with pytest.raises(ContractError, match="not finite"):
        codec.encode(delta, encoding)


@pytest.mark.parametrize("encoding", ["fp16", "int8"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, LARGEST])
def test_a_scale_that_no_encoder_writes_is_refused(encoding, scale) -> None:
    coded = codec.encode(np.array([1.0, -2.0], np.float32), encoding)
    coded[keys.SCALES][0] = scale
    with pytest.raises(ContractError, match=r"scale|not finite"):
        codec.decode(coded, encoding, 2)


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_wrong_arrays_are_refused_and_never_broadcast(encoding) -> None:
    coded = codec.encode(np.ones(300, np.float32), encoding)
    good = coded[keys.CHANGE]
    for bad in [good[:1], good[:-1], good.reshape(2, -1), good.astype(np.float64), good[0]]:
        with pytest.raises(ContractError, match=r"change: (shape|dtype)"):
            codec.decode(coded | {keys.CHANGE: np.asarray(bad)}, encoding, 300)
    with pytest.raises(ContractError, match="more: array not expected"):
        codec.decode(coded | {"more": good}, encoding, 300)
    with pytest.raises(ContractError, match="change: array is missing"):
        codec.decode({name: a for name, a in coded.items() if name != keys.CHANGE}, encoding, 300)


def test_unknown_encodings_and_wrong_changes_are_refused() -> None:
    with pytest.raises(ContractError, match="bf16"):
        codec.encode(np.zeros(1, np.float32), "bf16")
    with pytest.raises(ContractError, match="float64"):
        codec.encode(np.zeros(1), "fp32")
    with pytest.raises(ContractError, match="1-D"):
        codec.encode(np.zeros((1, 1), np.float32), "fp32")


@pytest.mark.parametrize("encoding", keys.ENCODINGS)
def test_a_whole_change_with_counters_goes_there_and_back(encoding) -> None:
    before = {
        "w": np.linspace(-1, 1, 600, dtype=np.float32),
        "seen": np.array(3),
        "flag": np.array([True, False]),
    }
    after = {"w": before["w"] + np.float32(0.25), "seen": np.array(9), "flag": np.array([True, True])}
    manifest = Manifest.of(before)
    change = codec.change_of(manifest.pack(before), manifest.pack(after))
    arrays = codec.encode_change(change, encoding)
    assert set(arrays) == set(codec.layout(encoding, 600)) | {"replace.int64", "replace.bool"}
    back = codec.decode_change(arrays, encoding, manifest)
    np.testing.assert_allclose(back.delta, 0.25, rtol=2e-3)
    np.testing.assert_array_equal(back.replaced["int64"], [9])
    np.testing.assert_array_equal(back.replaced["bool"], [True, True])
    for name in ("replace.int64", "replace.bool"):
        with pytest.raises(ContractError, match=rf"{name}: array is missing"):
            codec.decode_change({n: a for n, a in arrays.items() if n != name}, encoding, manifest)


@pytest.mark.parametrize("value", [LARGEST, -LARGEST])
def test_what_rounding_would_carry_to_infinity_is_refused_by_name_or_sent_whole(value) -> None:
    delta = np.array([0.0, value], np.float32)
    np.testing.assert_array_equal(there_and_back(delta, "fp32"), delta)
    for encoding in ("fp16", "int8"):
        with pytest.raises(ContractError, match=f"too large for {encoding}"):
            codec.encode(delta, encoding)


def test_norm_is_the_euclidean_length_over_chunks() -> None:
    delta = np.random.default_rng(2).standard_normal(2 * codec.CHUNK + 9).astype(np.float32)
    assert codec.Change(delta).norm == pytest.approx(np.linalg.norm(delta.astype(np.float64)), rel=1e-12)
    assert codec.norm(np.full(4, LARGEST, np.float32)) == pytest.approx(2 * LARGEST)
