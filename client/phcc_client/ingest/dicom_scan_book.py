"""What an earlier scan found, in one SQLite file: the second scan of a hospital's export takes seconds.

It holds headers as they were read, names included, and lies beside the key, never in the site's folder. A
missing, damaged or older book is an empty one: it saves time and decides nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from phcc_client.ingest.dicom_files import Kind, Scan, Scanned
from phcc_client.ingest.dicom_header import Header
from phcc_client.ingest.dicom_values import Values, shared
from phcc_model.errors import StorageError

_VERSION = 4
"""Raised whenever more, or something else, is read of a header."""
_TABLES = """
    CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, json TEXT);
    CREATE TABLE IF NOT EXISTS files (
        path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, kind TEXT, why TEXT,
        common INTEGER, identity INTEGER, own TEXT
    );
"""


class ScanBook:
    """The book of one source.

    Args:
        path: the book's own file, in the folder of the site that nobody else may read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self) -> dict[str, Scanned]:
        """What was found last time, by path; nothing where there is no book that can be read."""
        if not self._path.is_file():
            return {}
        try:
            with contextlib.closing(self._open()) as book:
                if book.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    return {}
                return dict(_read(book))
        except (sqlite3.Error, ValueError, KeyError, TypeError):
            return {}

    def remember(self, scan: Scan) -> None:
        """Replace the book by what was found now.

        Raises:
            StorageError: the disk is full or not writable; the scan itself stands.
        """
        aside = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)
            aside.touch(mode=0o600)
            with contextlib.closing(sqlite3.connect(aside)) as book:
                book.execute("PRAGMA journal_mode = OFF")
                book.executescript(_TABLES)
                _write(book, scan)
                book.execute(f"PRAGMA user_version = {_VERSION}")
                book.commit()
            aside.replace(self._path)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise StorageError(
                f"cannot be written ({error})",
                where=str(self._path),
                remedy="Make room on the disk and check the folder's permissions",
            ) from error

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)


def _write(book: sqlite3.Connection, scan: Scan) -> None:
    """Headers of one series are the same but for a few values: what is the same is kept once."""
    ids: dict[bytes, int] = {}

    def keep(value: object) -> int:
        plain = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).digest()
        if digest not in ids:
            ids[digest] = len(ids) + 1
            safe = plain if plain.isprintable() else json.dumps(value, sort_keys=True)
            book.execute("INSERT INTO texts VALUES (?, ?, ?)", (ids[digest], digest, safe))
        return ids[digest]

    for file in scan.files:
        header = file.header
        row: tuple[int | None, int | None, str | None] = (None, None, None)
        if header is not None:
            rest = [header.frames, header.length, header.begins, header.held]
            common = [header.file, header.syntax, header.pixels, header.segments, header.series]
            row = (keep(common), keep(header.identity), json.dumps(rest))
        values = (_safe(file.path), file.size, file.mtime_ns, file.kind, file.why, *row)
        book.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _read(book: sqlite3.Connection) -> Iterator[tuple[str, Scanned]]:
    texts = {number: json.loads(plain) for number, plain in book.execute("SELECT id, json FROM texts")}
    commons: dict[int, Values] = {}
    identities: dict[int, dict[str, tuple[str, ...]]] = {}
    for path, size, mtime_ns, kind, why, common, identity, own in book.execute("SELECT * FROM files"):
        header = None
        if common is not None:
            said, syntax, pixels, segments, series = texts[common]
            frames, length, begins, held = json.loads(own)
            if identity not in identities:
                identities[identity] = _tuples(texts[identity])
            header = Header(
                file=commons.setdefault(common, _tuples(said)),
                frames=tuple(_tuples(frame) for frame in frames),
                identity=identities[identity],
                syntax=syntax,
                pixels=pixels,
                length=length,
                begins=begins,
                held=held,
                segments=tuple((number, label, category) for number, label, category in segments),
                series=tuple(series),
            )
        name = _unsafe(path)
        yield name, Scanned(name, size, mtime_ns, _kind(kind), why, header)


def _kind(value: str) -> Kind:
    kinds: dict[str, Kind] = {k: k for k in ("image", "drawing", "other", "skipped", "unreadable")}
    return kinds[value]


def _tuples(values: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: shared(values[name]) for name in values}


def _safe(path: str) -> bytes:
    """A file's name may be no valid text; SQLite's text must be."""
    return path.encode("utf-8", "surrogateescape")


def _unsafe(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
