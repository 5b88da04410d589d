from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from phcc_client.imaging import digest_book
from phcc_client.imaging.digest_book import DigestBook
from phcc_model.errors import CaseError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.nii"
    path.write_text("one")
    return path


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once: a test does not wait for two seconds."""
    monkeypatch.setattr(digest_book, "_SETTLED_NS", -1_000_000_000)


def never(*_: object) -> NoReturn:
    raise AssertionError("the file was read again")


@pytest.mark.usefixtures("at_rest")
def test_files_are_digested_once_until_they_change(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = DigestBook(tmp_path / "book.json")
    first = book.digest(source)
    book.save()
    again = DigestBook(tmp_path / "book.json")
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", never)
        assert again.digest(source) == first
    source.write_text("two")
    os.utime(source, ns=(0, 12345))
    assert again.digest(source) != first
    with pytest.raises(CaseError, match="cannot be read"):
        again.digest(tmp_path / "none.nii")


@pytest.mark.usefixtures("at_rest")
def test_a_time_that_was_set_back_deceives_nobody(source: Path, tmp_path: Path) -> None:
    book = DigestBook(tmp_path / "book.json")
    first, state = book.digest(source), source.stat()
    book.save()
    source.write_text("two")
    os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert DigestBook(tmp_path / "book.json").digest(source) != first


def test_what_changed_just_before_the_book_was_saved_is_read_once_more(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = DigestBook(tmp_path / "book.json")
    book.digest(source)
    book.save()
    fresh = DigestBook(tmp_path / "book.json")
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", never)
        with pytest.raises(AssertionError, match="read again"):
            fresh.digest(source)
    # A later save of other files must not make an old guess a certainty.
    (tmp_path / "b").write_text("b")
    fresh.digest(tmp_path / "b")
    fresh.save()
    assert list(json.loads((tmp_path / "book.json").read_text())) == [str(tmp_path / "b")]


def test_a_file_that_changes_while_it_is_read_has_no_digest(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = hashlib.file_digest

    def and_somebody_writes(file: Any, name: str) -> Any:
        source.write_text("longer than before")
        return read(file, name)

    monkeypatch.setattr("hashlib.file_digest", and_somebody_writes)
    with pytest.raises(CaseError, match="changes while it is read"):
        DigestBook(tmp_path / "book.json").digest(source)


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CaseError, match="is no file"):
            DigestBook(tmp_path / "book.json").digest(path)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"a": 3}', '{"a": [3, 1, 1, 5]}', '{"a": [3, "1", 1, "5"]}', "[" * 100_000, "\xff"],
)
def test_a_damaged_book_is_an_empty_one(source: Path, tmp_path: Path, content: str) -> None:
    text = content.replace('"a"', json.dumps(str(source)))
    (tmp_path / "book.json").write_bytes(text.encode("latin-1"))
    book = DigestBook(tmp_path / "book.json")
    assert len(book.digest(source)) == 64
    book.save()
    assert str(source) in json.loads((tmp_path / "book.json").read_text())


@pytest.mark.usefixtures("at_rest")
def test_two_books_do_not_forget_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    one, two = DigestBook(tmp_path / "book.json"), DigestBook(tmp_path / "book.json")
    one.digest(tmp_path / "a")
    two.digest(tmp_path / "b")
    one.save()
    two.save()
    assert len(json.loads((tmp_path / "book.json").read_text())) == 2


SAVES = """
import sys
from pathlib import Path
from phcc_client.imaging import digest_book
digest_book._SETTLED_NS = -1_000_000_000
folder, mine = Path(sys.argv[1]), sys.argv[2]
for i in range(40):
    source = folder / f"{mine}{i}"
    source.write_text(source.name)
    book = digest_book.DigestBook(folder / "book.json")
    book.digest(source)
    book.save()
"""


def test_two_processes_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", SAVES, str(tmp_path), mine]) for mine in "xy"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert len(json.loads((tmp_path / "book.json").read_text())) == 80
    assert not list(tmp_path.glob(".*.part"))
