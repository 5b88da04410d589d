"""An array read without a copy: all that numpy itself would read of what may come, and nothing else."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from phcc_model.contract.npy import KIND, VERSION, read_npy
from phcc_model.errors import ContractError


def written(array: np.ndarray[Any, Any], version: tuple[int, int] = VERSION) -> bytes:
    held = io.BytesIO()
    np.lib.format.write_array(held, array, version=version)
    return held.getvalue()


HONEST = written(np.arange(3, dtype=np.float32))


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int8, np.uint8, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_what_numpy_wrote_is_read_as_numpy_reads_it(array: np.ndarray[Any, Any]) -> None:
    data = written(np.ascontiguousarray(array).reshape(array.shape))
    expected, found = np.load(io.BytesIO(data), allow_pickle=False), read_npy(data, KIND, "w")
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()
    assert not found.flags.writeable


@given(st.data())
def test_a_spoilt_array_is_refused_or_is_what_numpy_reads(data: st.DataObject) -> None:
    spoilt = bytearray(HONEST)
    for at in data.draw(st.lists(st.integers(0, len(spoilt) - 1), min_size=1, max_size=3)):
        spoilt[at] = data.draw(st.integers(0, 255))
    try:
        found = read_npy(bytes(spoilt), KIND, "w")
    except ContractError:
        return
    assert found.tobytes() == np.load(io.BytesIO(bytes(spoilt)), allow_pickle=False).tobytes()


FORTRAN = written(np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)))
OBJECTS = written(np.zeros(2, dtype=np.float64)).replace(b"'<f8'", b"'|O' ")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        HONEST + b"\0",
        HONEST[:-1],
        HONEST[:-12],
        HONEST[:9],
        HONEST.replace(b"(3,)", b"(2,)"),
        HONEST.replace(b"(3,), ", b"(-3,),"),
        HONEST.replace(b"(3,), }    ", b"(-3, -1), }"),
        HONEST.replace(b"'<f4'", b"'<f9'"),
        HONEST.replace(b"'<f4'", b"'|V0'"),
        written(np.zeros(3, np.float32), version=(2, 0)),
        FORTRAN,
        OBJECTS,
    ],
)
def test_what_is_no_array_of_a_message_is_refused(data: bytes) -> None:
    assert data != HONEST
    with pytest.raises(ContractError, match=r"^change: the bytes are no array\.$"):
        read_npy(data, KIND, "change")


def test_another_format_is_refused() -> None:
    with pytest.raises(ContractError, match=r"^change: the bytes are no array\.$"):
        read_npy(HONEST, "torch.tensor", "change")


def test_values_at_odd_addresses_are_laid_out() -> None:
    head, values = HONEST[:-12], HONEST[-12:]
    length = int.from_bytes(head[8:10], "little")
    odd = head[:8] + (length - 1).to_bytes(2, "little") + head[10:-2] + b"\n" + values
    found = read_npy(odd, KIND, "w")
    np.testing.assert_array_equal(found, [0, 1, 2])
    assert found.flags.aligned
    assert not found.flags.writeable


def test_reading_copies_no_values() -> None:
    data = written(np.zeros(1_000_000, np.float32))
    tracemalloc.start()
    found = read_npy(data, KIND, "w")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.nbytes == 4_000_000
    assert peak < 100_000
