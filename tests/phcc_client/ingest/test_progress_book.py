"""Who is finished: only what was made from just this, and is still there as it was left."""

from __future__ import annotations

import os
from pathlib import Path

from phcc_client.ingest.progress_book import ProgressBook, digest_of, listing

PATIENT = "P-0000000000000001"


def _book(tmp_path: Path) -> ProgressBook:
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "a.nii.gz").write_bytes(b"abc")
    return ProgressBook(tmp_path / "private", tmp_path / "site")


def test_finished_until_anything_changes(tmp_path: Path) -> None:
    book = _book(tmp_path)
    assert not book.is_finished(PATIENT, "f")
    book.finish(PATIENT, "f", ["a.nii.gz"])
    assert book.is_finished(PATIENT, "f")
    assert not book.is_finished(PATIENT, "g")
    os.utime(tmp_path / "site" / "a.nii.gz", ns=(1, 1))
    assert not book.is_finished(PATIENT, "f")


def test_an_output_that_is_gone_or_a_damaged_book_means_not_finished(tmp_path: Path) -> None:
    book = _book(tmp_path)
    book.finish(PATIENT, "f", ["a.nii.gz"])
    (file,) = (tmp_path / "private" / "finished-patients").iterdir()
    whole = file.read_text()
    for damaged in ("", "{", "[]", "null", '{"fingerprint": "f"}', '{"fingerprint": "f", "outputs": [1]}'):
        file.write_text(damaged)
        assert not book.is_finished(PATIENT, "f")
    file.write_text(whole)
    (tmp_path / "site" / "a.nii.gz").unlink()
    assert not book.is_finished(PATIENT, "f")


def test_the_whole_is_finished_until_the_next_begins(tmp_path: Path) -> None:
    book = _book(tmp_path)
    assert book.whole() is None
    book.finish_whole("f")
    assert book.whole() == "f"
    book.unfinish()
    assert book.whole() is None


def test_a_listing_is_in_order_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2", "b/10", "a"):
        (tmp_path / name).write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    names = [str(Path(name).relative_to(tmp_path)) for name, _ in listing(tmp_path)]
    assert names == ["a", "b/10", "b/2"]
    assert digest_of(list(listing(tmp_path))) == digest_of(list(listing(tmp_path)))
