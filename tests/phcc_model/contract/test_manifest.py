from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.contract.manifest import DTYPES, LOCAL_OFFSET, Entry, Manifest
from phcc_model.errors import ContractError

SETTINGS = settings(max_examples=60, deadline=None)
arrays = st.sampled_from(DTYPES).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
states = st.dictionaries(st.text(min_size=1, max_size=8), arrays, max_size=8)


def small_state() -> dict[str, np.ndarray]:
    return {
        "stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "norm.weight": np.ones(4, dtype=np.float32),
        "norm.batches": np.array(7),
        "head.bias": np.array([0.5], dtype=np.float32),
    }


@SETTINGS
@given(state=states, data=st.data())
def test_pack_and_unpack_are_inverse_and_local_arrays_stay(state, data) -> None:
    stays = data.draw(st.sets(st.sampled_from(sorted(state)))) if state else set()
    manifest = Manifest.of(state, stays.__contains__)
    flats = manifest.pack(state)
    assert all(flat.ndim == 1 and flat.dtype.name == kind for kind, flat in flats.items())
    assert {kind: flat.size for kind, flat in flats.items()} == manifest.sizes
    back = manifest.unpack(flats)
    assert set(back) == set(state) - stays
    for name, array in back.items():
        assert array.shape == state[name].shape
        assert array.dtype == state[name].dtype
        np.testing.assert_array_equal(array, state[name])


@SETTINGS
@given(state=states)
def test_the_order_of_a_state_does_not_matter_and_json_returns_the_same(state) -> None:
    manifest = Manifest.of(state)
    turned = dict(reversed(state.items()))
    assert Manifest.of(turned) == manifest
    for kind, flat in Manifest.of(turned).pack(turned).items():
        np.testing.assert_array_equal(flat, manifest.pack(state)[kind])
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest == manifest.digest


def test_layout_of_a_small_state() -> None:
    manifest = Manifest.of(small_state(), lambda name: name == "norm.weight")
    assert manifest.entries == (
        Entry("head.bias", (1,), "float32", False, 0),
        Entry("norm.batches", (), "int64", False, 0),
        Entry("norm.weight", (4,), "float32", True, LOCAL_OFFSET),
        Entry("stem.weight", (2, 3), "float32", False, 1),
    )
    assert manifest.sizes == {"float32": 7, "int64": 1}
    assert manifest.size == 7
    assert manifest.nbytes == 7 * 4 + 8
    np.testing.assert_array_equal(manifest.pack(small_state())["float32"], [0.5, 0, 1, 2, 3, 4, 5])


def test_a_state_without_its_local_arrays_is_packed_too() -> None:
    manifest = Manifest.of(small_state(), lambda name: name == "norm.weight")
    state = small_state()
    whole = manifest.pack(state)
    del state["norm.weight"]
    np.testing.assert_array_equal(manifest.pack(state)["float32"], whole["float32"])


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"stem.weight": state["stem.weight"].T},
        lambda state: state | {"head.bias": state["head.bias"].astype(np.float64)},
        lambda state: state | {"extra": state["head.bias"]},
        lambda state: {name: array for name, array in state.items() if name != "norm.batches"},
    ],
)
def test_another_state_has_another_digest_and_is_not_packed(change) -> None:
    manifest = Manifest.of(small_state())
    state = change(small_state())
    with pytest.raises(ContractError, match=r"stem\.weight|head\.bias|extra|norm\.batches"):
        manifest.pack(state)
    if all(array.dtype.name in DTYPES for array in state.values()):
        assert Manifest.of(state).digest != manifest.digest


def test_what_is_local_is_part_of_the_digest() -> None:
    assert Manifest.of(small_state()).digest != Manifest.of(small_state(), lambda name: "norm" in name).digest


@pytest.mark.parametrize(
    ("flats", "reason"),
    [
        ({}, "float32: array is missing"),
        (
            {"float32": np.zeros(11, np.float32), "int64": np.zeros(1, np.int64), "u": np.zeros(1)},
            "u: array not",
        ),
        ({"float32": np.zeros(1, np.float32), "int64": np.zeros(1, np.int64)}, r"float32: shape is \(1,\)"),
        ({"float32": np.zeros((11, 1), np.float32), "int64": np.zeros(1, np.int64)}, "float32: shape"),
        ({"float32": np.zeros(11), "int64": np.zeros(1, np.int64)}, "float32: dtype is float64"),
        ({"float32": np.zeros(11, ">f4"), "int64": np.zeros(1, np.int64)}, "float32: dtype is >f4"),
    ],
)
def test_wrong_flat_arrays_are_named(flats, reason) -> None:
    with pytest.raises(ContractError, match=reason):
        Manifest.of(small_state()).unpack(flats)


@pytest.mark.parametrize("kind", ["float64", "float16", "complex64", "object"])
def test_dtypes_that_cannot_travel_are_refused_by_name(kind) -> None:
    with pytest.raises(ContractError, match=rf"w: dtype {kind}"):
        Manifest.of({"w": np.zeros(2, dtype=kind)})


def test_a_manifest_with_gaps_overlaps_or_disorder_is_refused() -> None:
    a, b = Entry("a", (2,), "float32", False, 0), Entry("b", (2,), "float32", False, 2)
    Manifest((a, b))
    for entries in [
        (b, a),
        (a, a),
        (a, Entry("b", (2,), "float32", False, 3)),
        (a, Entry("b", (2,), "float32", False, 1)),
        (Entry("a", (2,), "float32", True, 0),),
        (Entry("a", (-2,), "float32", False, 0),),
    ]:
        with pytest.raises(ContractError):
            Manifest(entries)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "[7]",
        '{"a":1}',
        '[{"name":"a"}]',
        '[{"dtype":"x","local":0,"name":"a","offset":0,"shape":[1]}]',
    ],
)
def test_text_that_is_no_manifest_is_refused(text) -> None:
    with pytest.raises(ContractError):
        Manifest.from_json(text)


def test_from_json_does_not_take_true_for_one() -> None:
    plain = json.loads(Manifest.of({"a": np.zeros(1, np.float32)}).to_json())
    plain[0]["shape"] = [True]
    with pytest.raises(ContractError, match="not a manifest"):
        Manifest.from_json(json.dumps(plain))
