from __future__ import annotations

import errno
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from phcc_client.imaging.cache import (
    DigestBook,
    case_key,
    entry_path,
    load,
    preparation_digest,
    store,
    write_atomically,
)
from phcc_client.imaging.case import Box, PhaseImage, PreparedCase, RawCase
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError, StorageError


def prepared(seed: int = 0) -> PreparedCase:
    rng = np.random.default_rng(seed)
    return PreparedCase(
        rng.standard_normal((2, 4, 6, 8)).astype(np.float16),
        np.array([True, False]),
        (rng.random((4, 6, 8)) < 0.3).astype(np.uint8),
    )


@pytest.fixture
def raw(tmp_path: Path) -> RawCase:
    images: dict[Phase, PhaseImage] = {}
    phases: tuple[Phase, ...] = ("arterial", "delayed", "hepatobiliary")
    for phase in phases:
        path = tmp_path / f"{phase}.nii"
        path.write_text(phase)
        images[phase] = PhaseImage(phase, path, (3.0, 1.0, 1.0), Box((0, 0, 0), (2, 2, 2)))
    return RawCase("c", "p", images)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    key = "ab" * 32
    assert load(tmp_path, key) is None
    store(tmp_path, key, prepared())
    for verify in (False, True):
        found = load(tmp_path, key, verify=verify)
        assert found is not None
        for name in ("volumes_pdhw", "present_p", "lesion_dhw"):
            assert np.array_equal(getattr(found, name), getattr(prepared(), name))
            assert getattr(found, name).dtype == getattr(prepared(), name).dtype
    assert [p for p in tmp_path.rglob("*") if p.suffix == ".part"] == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "replaced"])
def test_a_damaged_entry_is_no_entry(tmp_path: Path, damage: str) -> None:
    key = "ab" * 32
    store(tmp_path, key, prepared())
    path = entry_path(tmp_path, key)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-10]
    elif damage == "flipped":
        content[-500] ^= 1
    elif damage == "emptied":
        content = bytearray()
    else:
        content = bytearray(b"something else")
    path.write_bytes(bytes(content))
    assert load(tmp_path, key, verify=True) is None


def test_a_key_is_what_the_crop_is_made_from(raw: RawCase, tmp_path: Path) -> None:
    settings = DataSettings(phases=("arterial", "delayed"))
    book = DigestBook(tmp_path / "book.json")
    key = case_key(raw, settings, book)
    assert case_key(replace(raw, case="other", patient="q", label=1, afp=3.0), settings, book) == key
    elsewhere = settings.model_copy(
        update={"path": "/elsewhere", "label": "stage", "required_phases": ("arterial",)}
    )
    assert case_key(raw, elsewhere, book) == key
    for change in (
        {"clip": 2.0},
        {"smoothing_voxels": 0.0},
        {"phases": ("arterial",)},
        {"normalisation": "none"},
    ):
        assert case_key(raw, settings.model_copy(update=change), book) != key
    images = dict(raw.images)
    images["delayed"] = replace(images["delayed"], box=Box((0, 0, 0), (2, 2, 3)))
    assert case_key(replace(raw, images=images), settings, book) != key
    images["delayed"] = replace(raw.images["delayed"], spacing_mm_dhw=(3.0, 1.0, 1.1))
    assert case_key(replace(raw, images=images), settings, book) != key
    # A phase that is not of the study does not matter, unless the lesion's place is known from it.
    without: dict[Phase, PhaseImage] = {p: image for p, image in raw.images.items() if p != "hepatobiliary"}
    assert case_key(replace(raw, images=without), settings, book) == key
    path = raw.images["arterial"].path
    assert path is not None
    path.write_text("changed!")
    assert case_key(raw, settings, DigestBook(tmp_path / "none.json")) != key


def test_a_renamed_file_has_the_same_key(raw: RawCase, tmp_path: Path) -> None:
    settings = DataSettings(phases=("arterial",))
    key = case_key(raw, settings, DigestBook(tmp_path / "a.json"))
    path = raw.images["arterial"].path
    assert path is not None
    moved = path.rename(tmp_path / "moved.nii")
    images = dict(raw.images) | {"arterial": replace(raw.images["arterial"], path=moved)}
    assert case_key(replace(raw, images=images), settings, DigestBook(tmp_path / "b.json")) == key


def test_arrays_in_memory_are_addressed_by_content() -> None:
    settings = DataSettings(phases=("image",))
    book = DigestBook(Path("nowhere"))

    def key(array: Any) -> str:
        return case_key(
            RawCase("c", "p", {"image": PhaseImage("image", None, array_dhw=array)}), settings, book
        )

    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert key(array) == key(array.copy()) == key(np.asfortranarray(array))
    assert len({key(array), key(array.reshape(4, 3, 2)), key(array.astype(np.int8)), key(array + 1)}) == 4


def test_the_settings_digest_follows_what_alters_a_voxel() -> None:
    assert preparation_digest(DataSettings()) == preparation_digest(
        DataSettings(path="/x", source="nifti-csv")
    )
    assert preparation_digest(DataSettings()) != preparation_digest(DataSettings(clip=1.0))


def test_files_are_digested_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.nii"
    source.write_text("one")
    book = DigestBook(tmp_path / "book.json")
    first = book.digest(source)
    book.save()
    again = DigestBook(tmp_path / "book.json")

    def never(*_: object) -> NoReturn:
        raise AssertionError("the file was read again")

    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", never)
        assert again.digest(source) == first
    source.write_text("two")
    os.utime(source, ns=(0, 12345))
    assert again.digest(source) != first
    with pytest.raises(CaseError, match="cannot be read"):
        again.digest(tmp_path / "none.nii")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3}'])
def test_a_damaged_book_is_an_empty_one(tmp_path: Path, content: str) -> None:
    source = tmp_path / "a"
    source.write_text("one")
    (tmp_path / "book.json").write_text(content.replace('"a"', json.dumps(str(source))))
    book = DigestBook(tmp_path / "book.json")
    assert len(book.digest(source)) == 64
    book.save()
    assert str(source) in json.loads((tmp_path / "book.json").read_text())


def test_two_books_do_not_forget_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one, two = DigestBook(tmp_path / "book.json"), DigestBook(tmp_path / "book.json")
    one.digest(tmp_path / "a")
    two.digest(tmp_path / "b")
    one.save()
    two.save()
    assert len(json.loads((tmp_path / "book.json").read_text())) == 2


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "written")],
)
def test_a_disk_that_is_full_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"before")

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=what) as caught:
        write_atomically(path, b"after")
    assert caught.value.remedy
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "x", b"")

    def full(**_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StorageError, match="the disk is full"):
        store(tmp_path, "ab" * 32, prepared())
