"""A site's files as pieces to search: everything as it stands on the disk, and what is packed in it unpacked."""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from isal import isal_zlib
from nibabel.nifti1 import header_dtype as nifti1_header
from nibabel.nifti2 import header_dtype as nifti2_header

WINDOW = 4 << 20
MARGIN = 4096
"""How far two windows reach into one another on either side: more than any value is long."""
_PEEK = 1 << 16
_LARGEST_EXTENSION = 64 << 20
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{120,}={0,2}")
_INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)  # isal's stub declares an instance
_ONE_BYTE_TYPES = (2, 256, 128, 2304)


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        data: the bytes.
        offset: of the first one, in the file, or in what was unpacked from it.
        low, high: what begins in data[low:high] counts here; the rest counts with the neighbours.
        kind: ``text``, ``field`` (a text that is one value), or ``binary``.
        inside: what it was unpacked from; empty for the file itself.
        narrow: voxels of one byte, in which a few values make up the whole.
        encoding: of a text.
        first: whether it is the beginning.
    """

    data: bytes
    offset: int
    low: int
    high: int
    kind: str
    inside: str = ""
    narrow: bool = False
    encoding: str = "utf-8"
    first: bool = True


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


class Damaged(Exception):
    """Something packed that cannot be unpacked, so that what is in it cannot be searched."""


class _Inflating:
    """What a gzip file holds, all its members, read in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unpack = isal_zlib.decompressobj(wbits=31)
        self._packed = b""
        self.trailing = b""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end.

        Raises:
            Damaged: it is cut short, or no gzip.
        """
        while True:
            if self._unpack.eof:
                rest = (self._unpack.unused_data or b"") + self._file.read(_PEEK)
                if not rest.startswith(b"\x1f\x8b"):
                    self.trailing = rest
                    return b""
                self._unpack, self._packed = isal_zlib.decompressobj(wbits=31), rest
            packed = self._packed or self._file.read(1 << 20)
            if not packed:
                raise Damaged("a gzip file that is cut short")
            try:
                data: bytes = self._unpack.decompress(packed, size)
            except (_INFLATE_ERROR, EOFError) as error:
                raise Damaged("a gzip file that is damaged") from error
            self._packed = self._unpack.unconsumed_tail
            if data:
                return data


class _Peeked:
    """A stream of which a beginning was looked at."""

    def __init__(self, stream: _Reads, size: int = _PEEK) -> None:
        self._stream = stream
        self.begin = read_fully(stream, size)
        self._left = self.begin

    def read(self, size: int, /) -> bytes:
        if self._left:
            data, self._left = self._left[:size], self._left[size:]
            return data
        return self._stream.read(size)


def read_fully(stream: _Reads, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    parts = []
    while size > 0:
        data = stream.read(size)
        if not data:
            break
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def pieces(path: Path) -> Iterator[Piece]:
    """All that there is to search in a file.

    Raises:
        Damaged: something in it cannot be unpacked; what could be was given out before.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        begin = file.read(_PEEK)
        file.seek(0)
        if begin.startswith(b"\x1f\x8b"):
            yield from _windows(file, "binary")
            yield from _gzip(file, begin)
        elif begin.startswith(b"\x89PNG\r\n\x1a\n"):
            yield from _windows(file, "binary")
            file.seek(8)
            yield from _png(file)
        else:
            yield from _plain(_Peeked(file), "")


def _plain(stream: _Peeked, inside: str) -> Iterator[Piece]:
    header = _nifti(stream.begin)
    encoding = _encoding(stream.begin)
    if header is not None:
        yield from _image(stream, inside, *header)
    elif encoding is not None:
        yield from _texts(_windows(stream, "text", inside, encoding=encoding))
    else:
        yield from _windows(stream, "binary", inside)


def _windows(
    stream: _Reads,
    kind: str,
    inside: str = "",
    *,
    narrow: bool = False,
    encoding: str = "utf-8",
    start: int = 0,
) -> Iterator[Piece]:
    """A stream in windows that reach into one another; every byte counts in exactly one."""
    data, offset, first = b"", start, True
    while True:
        more = read_fully(stream, WINDOW)
        data += more
        last = len(more) < WINDOW
        if data:
            low, high = 0 if first else MARGIN, len(data) if last else len(data) - MARGIN
            yield Piece(data, offset, low, high, kind, inside, narrow, encoding, first)
        if last:
            return
        offset += len(data) - 2 * MARGIN
        data, first = data[-2 * MARGIN :], False


def _texts(windows: Iterator[Piece]) -> Iterator[Piece]:
    """Texts in which what is in base64 is unpacked and given out by itself; by chance it says anything."""
    for piece in windows:
        data = bytearray(piece.data)
        for match in _BASE64.finditer(piece.data):
            data[match.start() : match.end()] = b" " * len(match.group())
            at = piece.offset + match.start()
            yield Piece(match.group(), at, 0, len(match.group()), "binary", piece.inside, narrow=True)
            whole = match.group().rstrip(b"=")
            unpacked = binascii.a2b_base64(whole[: len(whole) // 4 * 4])
            if _encoding(unpacked) is not None:
                yield Piece(unpacked, at, 0, len(unpacked), "text", "base64")
            else:
                yield Piece(unpacked, at, 0, len(unpacked), "binary", "base64")
                if unpacked.startswith(b"\x89PNG\r\n\x1a\n"):
                    yield from _png_texts(unpacked, at)
        yield Piece(
            bytes(data), piece.offset, piece.low, piece.high, "text", piece.inside,
            encoding=piece.encoding, first=piece.first,
        )  # fmt: skip


def _gzip(file: BinaryIO, begin: bytes) -> Iterator[Piece]:
    """The header of a gzip file (it may hold a file's name), its content, and what stands after it."""
    texts = _gzip_texts(begin)
    if texts:
        yield Piece(texts, 10, 0, len(texts), "text", "the gzip header")
    file.seek(0)
    inflating = _Inflating(file)
    yield from _plain(_Peeked(inflating), "gzip")
    if inflating.trailing:
        yield Piece(inflating.trailing, 0, 0, len(inflating.trailing), "text", "behind the gzip data")


def _gzip_texts(begin: bytes) -> bytes:
    """The extra field, the file's name and the comment in a gzip header (RFC 1952, 2.3)."""
    flags, at = begin[3] if len(begin) > 3 else 0, 10
    if flags & 4 and len(begin) > 12:
        at += 2 + int(struct.unpack("<H", begin[10:12])[0])
    for flag in (8, 16):
        if flags & flag:
            end = begin.find(b"\0", at)
            at = len(begin) if end < 0 else end + 1
    return begin[10:at]


def _png(file: BinaryIO) -> Iterator[Piece]:
    """The texts of a PNG; of its pixels, what is on the disk was given out."""
    at = 8
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise Damaged("a PNG file that is cut short")
        size, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            file.seek(size + 4, 1)
        else:
            content = file.read(min(size, WINDOW))
            yield from _chunk(kind, content, at)
            file.seek(size - len(content) + 4, 1)
        at += size + 12
        if kind == b"IEND":
            rest = file.read(WINDOW)
            if rest:
                yield Piece(rest, at, 0, len(rest), "text", "behind the PNG's end")
            return


def _png_texts(data: bytes, offset: int) -> Iterator[Piece]:
    """The texts of a PNG in memory, as far as it is whole."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind != b"IDAT":
            yield from _chunk(kind, data[at + 8 : at + 8 + size], offset)
        at += size + 12


def _chunk(kind: bytes, content: bytes, at: int) -> Iterator[Piece]:
    if kind in (b"IHDR", b"PLTE", b"IEND", b"tRNS"):
        return
    name = f"the PNG's {kind.decode('latin-1')} chunk"
    yield Piece(content, at, 0, len(content), "text", name)
    for start in (m.end() for m in re.finditer(b"\0", content[:400])):
        try:
            unpacked = isal_zlib.decompressobj().decompress(content[start:], WINDOW)
        except (_INFLATE_ERROR, EOFError):
            continue
        if unpacked:
            yield Piece(unpacked, at, 0, len(unpacked), "text", name)


def _nifti(begin: bytes) -> tuple[object, str, int] | None:
    """The layout of a NIfTI header, its byte order, and where the voxels begin; None for any other file."""
    for order in ("<", ">"):
        if (
            len(begin) >= 352
            and struct.unpack(f"{order}i", begin[:4])[0] == 348
            and begin[344:347] in (b"n+1", b"ni1")
        ):
            return nifti1_header, order, int(struct.unpack(f"{order}f", begin[108:112])[0])
        if (
            len(begin) >= 544
            and struct.unpack(f"{order}i", begin[:4])[0] == 540
            and begin[4:7] in (b"n+2", b"ni2")
        ):
            return nifti2_header, order, int(struct.unpack(f"{order}q", begin[168:176])[0])
    return None


def _image(stream: _Peeked, inside: str, layout: object, order: str, voxels: int) -> Iterator[Piece]:
    """A NIfTI file: the texts in its header one by one, its extensions, its voxels."""
    fields = layout.fields  # type: ignore[attr-defined]
    for name in layout.names:  # type: ignore[attr-defined]
        kind, at = fields[name][:2]
        text = stream.begin[at : at + kind.itemsize]
        if kind.kind == "S" and name != "magic" and text.strip(b"\0 "):
            yield Piece(text, at, 0, len(text), "field", f"{inside} the header's {name}".strip())
    size = layout.itemsize  # type: ignore[attr-defined]
    code = struct.unpack(f"{order}h", stream.begin[12:14] if size == 540 else stream.begin[70:72])[0]
    yield Piece(stream.begin[:size], 0, 0, size, "binary", inside)
    read_fully(stream, size)
    extensions = read_fully(stream, max(0, min(voxels - size, _LARGEST_EXTENSION)))
    if extensions.strip(b"\0"):
        yield Piece(extensions, size, 0, len(extensions), "text", f"{inside} a header's extension".strip())
    yield from _windows(
        stream, "binary", inside, narrow=code in _ONE_BYTE_TYPES, start=size + len(extensions)
    )


def _encoding(begin: bytes) -> str | None:
    """The encoding of a text; None where it is none."""
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")) and len(begin) % 2 == 0:
        return "utf-16-le" if begin[0] == 0xFF else "utf-16-be"
    odd = len(begin) - len(
        begin.translate(None, bytes(range(9)) + bytes(range(14, 27)) + bytes(range(28, 32)))
    )
    return "utf-8" if odd * 100 <= len(begin) else None
