"""All spellings looked for at once (Aho and Corasick, 1975), in texts and in what is none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ahocorasick_rs import AhoCorasick, BytesAhoCorasick

from phcc_client.ingest.audit_files import Piece
from phcc_client.ingest.audit_text import Place, counts, is_our_own, read_text
from phcc_client.ingest.audit_values import Kind, Sought

_TAIL = 24
"""Of a long value the end is looked for; the rest is compared where that is found. It bounds the memory."""
_DIGITS, _LETTERS = b"0123456789", b"abcdefghijklmnopqrstuvwxyz"
_DATES = re.compile(r"\d{8}|\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}")


class Search:
    """A search for many values.

    Args:
        sought: the spellings.
        bits: how much a value must say to be looked for in what is not text (see `_bits_of`).
    """

    def __init__(self, sought: Sequence[Sought], bits: float) -> None:
        self._bits = bits
        by_text: dict[str, list[Sought]] = {}
        for one in sought:
            by_text.setdefault(one.folded, []).append(one)
        self._words = list(by_text.values())
        self._texts = AhoCorasick(list(by_text)) if by_text else None
        by_tail: dict[bytes, dict[bytes, Sought]] = {}
        self.too_weak = 0
        for one in sought:
            patterns = _patterns(one)
            strong = [pattern for pattern in patterns if _bits_of(pattern) >= bits]
            self.too_weak += bool(patterns) and not strong
            for pattern in strong:
                by_tail.setdefault(pattern[-_TAIL:], {}).setdefault(pattern, one)
        self._tails = [list(wholes.items()) for wholes in by_tail.values()]
        self._bytes = BytesAhoCorasick(list(by_tail)) if by_tail else None

    def hits(self, piece: Piece, place: Place) -> Iterator[tuple[Sought, int, bool]]:
        """What is found in a piece of a file.

        Args:
            piece: of a file.
            place: what kind of text the file is.

        Yields:
            The value, the byte at which it begins, and whether it is only a word of the program's own.
        """
        if piece.kind == "binary":
            yield from self._in_bytes(piece)
        else:
            yield from self._in_text(piece, place)

    def _in_text(self, piece: Piece, place: Place) -> Iterator[tuple[Sought, int, bool]]:
        if self._texts is None or not piece.data:
            return
        if piece.kind == "field":
            place = Place("field")
        elif piece.inside and piece.inside not in ("gzip", "its name"):
            place = Place("prose")
        place = replace(place, first=piece.first)
        folded = read_text(piece.data, piece.encoding)
        for number, start, end in self._texts.find_matches_as_indexes(folded.text, overlapping=True):
            offset = folded.offset(start)
            if not piece.low <= offset < piece.high:
                continue
            for one in self._words[number]:
                if counts(one, folded.text, start, end, place):
                    ours = one.kind is Kind.WORD and is_our_own(folded.text, start, end, place)
                    yield one, piece.offset + offset, ours

    def _in_bytes(self, piece: Piece) -> Iterator[tuple[Sought, int, bool]]:
        if self._bytes is None:
            return
        data = piece.data.lower()
        for number, _, end in self._bytes.find_matches_as_indexes(data, overlapping=True):
            for whole, one in self._tails[number]:
                start = end - len(whole)
                if not piece.low <= start < piece.high or not data.startswith(whole, max(start, 0)):
                    continue
                if not piece.narrow or _bits_of(whole, narrow=True) >= self._bits:
                    yield one, piece.offset + start, False


def _patterns(sought: Sought) -> set[bytes]:
    """A spelling in the encodings in which it may stand among bytes; ASCII letters small."""
    if sought.kind is Kind.DATE and not _DATES.fullmatch(sought.spelling):
        return set()
    texts = {sought.folded, sought.spelling, sought.spelling.lower(), sought.spelling.upper()}
    wide = sought.kind is Kind.WORD
    found = set()
    for text in {text.lower() if text.isascii() else text for text in texts}:
        encodings = ("utf-8", "latin-1")[: 1 if text.isascii() else 2] + ("utf-16-le", "utf-16-be") * wide
        for encoding in encodings:
            with contextlib.suppress(UnicodeEncodeError):
                found.add(text.encode(encoding).lower())
    return found


def _bits_of(pattern: bytes, *, narrow: bool = False) -> float:
    """How much a pattern says, in bits: how rarely chance writes it.

    A byte of packed data takes 256 values, and a letter is looked for in two of them. Where voxels are one byte
    each, neighbours are alike: a digit is one of ten, a letter one of 26. A pattern that repeats itself says
    little.
    """
    digit, letter, other = (3.3, 4.7, 4.7) if narrow else (8.0, 7.0, 8.0)
    digits = len(pattern) - len(pattern.translate(None, _DIGITS))
    letters = len(pattern) - len(pattern.translate(None, _LETTERS))
    others = len(pattern) - digits - letters - pattern.count(0)
    different = len(set(pattern)) - (0 in pattern)
    return min(digits * digit + letters * letter + others * other, 16.0 * different)
