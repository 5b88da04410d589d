"""Chains that are opened by their end only, and what of them is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.chain import Chain, read_held_records, read_records, verify_chain
from phcc_model.errors import StorageError

NAMES = ("the record", "Restore it")


def add(path: Path, text: str, *, end_only: bool = True) -> None:
    Chain(path, *NAMES, end_only=end_only).append({"text": text})


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.sampled_from([0, 1, 65_400, 65_536, 200_000]), min_size=1, max_size=5))
def test_a_chain_opened_by_its_end_is_the_chain_opened_whole(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("chain")
    for length in lengths:
        add(folder / "end", "é" * length)
        add(folder / "whole", "é" * length, end_only=False)
    assert (folder / "end").read_bytes() == (folder / "whole").read_bytes()
    assert verify_chain(folder / "end") == ()
    assert [len(record["text"]) for record in read_held_records(folder / "end", *NAMES)] == lengths


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_an_end_that_does_not_fit_is_looked_into(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "chain"
    for text in "abc":
        add(path, text)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StorageError, match="the record does not hold"):
        add(path, "d")
    with pytest.raises(StorageError, match="the record does not hold"):
        read_held_records(path, *NAMES)
    assert len(read_records(path)) < 3


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n", b"x\n", b"null\n", b"[]\n", b'{"seal": 1}\n'])
def test_a_file_of_something_else_is_no_chain(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "chain"
    add(path, "a")
    path.write_bytes(content)
    with pytest.raises(StorageError):
        add(path, "b")
