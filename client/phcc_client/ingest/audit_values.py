"""What an audit looks for: the values that identify, each in the spellings in which it may have got away.

What is compared is folded: lower case, accents off (``Ü`` is ``u``, ``ß`` is ``ss``). A name with an umlaut is
looked for as ``muller`` and as ``mueller``, so that either spelling finds either.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword

SHORTEST = 3
"""Shorter values are not looked for: they would be found in everything."""
LONG = 6
"""From here on a value is looked for everywhere, within words and within images too."""
LONGEST = 64
"""Of a longer value the last characters are looked for."""


_UID_DIGITS = 10
_IN_TEXTS = "\t\n\f\r\x1b"
"""Control characters that DICOM lets stand in a text."""


class Kind(StrEnum):
    """What a value is, and so what must stand around it for a hit to be one."""

    WORD = "word"
    NUMBER = "number"
    DATE = "date"
    UID = "uid"


@dataclass(frozen=True)
class Sought:
    """One spelling of one value.

    Attributes:
        folded: the spelling, folded.
        kind: what it is.
        attribute: where it was read (``PatientName``).
        spelling: as it would be written, for files that are not text.
    """

    folded: str
    kind: Kind
    attribute: str
    spelling: str

    @property
    def hint(self) -> str:
        """Enough to recognise it for who knows it, too little to identify anybody."""
        return f"{self.spelling[:1]}… ({len(self.spelling)} characters)"


@dataclass(frozen=True)
class Identity:
    """All that is looked for, and what is not.

    Attributes:
        sought: sorted, each spelling once.
        values: how many values were given.
        too_short: attribute -> how many values have nothing of three characters or more.
        left_out: attribute -> how many values identify nobody (times of day, ``UNKNOWN``, empty, bytes that a
            damaged header holds in a text's place).
    """

    sought: tuple[Sought, ...]
    values: int
    too_short: Mapping[str, int]
    left_out: Mapping[str, int]


def sought_of(values: Iterable[tuple[str, str]]) -> Identity:
    """What to look for.

    Args:
        values: (attribute, value as it was read) of all patients; the attribute is DICOM's keyword, or a
            column of the hospital's table.
    """
    found: dict[tuple[str, Kind], Sought] = {}
    short: dict[str, int] = {}
    nothing: dict[str, int] = {}
    seen = sorted(set(values))
    for attribute, value in seen:
        own = [part for part in spellings(attribute, value) if part[0].strip()]
        long_enough = [(text, kind) for text, kind in own if weight(text) >= SHORTEST]
        if not long_enough:
            book = short if own else nothing
            book[attribute] = book.get(attribute, 0) + 1
        for text, kind in long_enough:
            for folded in _folds(text[-LONGEST:]):
                if len(folded) >= SHORTEST or weight(text) >= SHORTEST:
                    found.setdefault((folded, kind), Sought(folded, kind, attribute, text[-LONGEST:]))
    every = (found[key] for key in sorted(found))
    return Identity(tuple(every), len(seen), short, nothing)


def values_of(identity: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    """(attribute, value) of an examination's identity."""
    for attribute in sorted(identity):
        for value in sorted(identity[attribute]):
            yield attribute, value


def spellings(attribute: str, value: str) -> list[tuple[str, Kind]]:
    """The parts and spellings of one value that are looked for one by one.

    Args:
        attribute: DICOM's keyword, or any other name.
        value: as it was read.
    """
    text = unicodedata.normalize("NFC", value.replace("\0", " ")).strip()
    if any(ord(letter) < 32 and letter not in _IN_TEXTS for letter in text):
        return []  # what a damaged header holds in a name's place is no name
    vr = vr_of(attribute)
    named = vr == "PN" or (not vr and _NAMES.search(attribute) is not None)
    if vr == "TM" or text.casefold() in (_NOBODY if named else _NOTHING):
        return []
    day = day_of(text) if vr in ("DA", "DT", "") else None
    if day is not None:
        return [(spelling, Kind.DATE) for spelling in dates(day)]
    if vr in ("DA", "DT"):
        return []
    if vr == "UI" or (re.fullmatch(r"\d+(\.\d+){4,}", text)):
        # What DICOM itself registers (classes, transfer syntaxes) is the same everywhere; a few digits, as
        # careless programs write them, are nobody's.
        nobody = text.startswith("1.2.840.10008.") or sum(map(str.isdigit, text)) < _UID_DIGITS
        return [] if nobody else [(text, Kind.UID)]
    if _is_number(text):
        return [(text, Kind.NUMBER)]
    if named:
        return [(part, Kind.NUMBER if part.isdigit() else Kind.WORD) for part in name_parts(text)]
    return _text_parts(attribute, text)


@lru_cache(maxsize=4096)
def vr_of(attribute: str) -> str:
    """DICOM's kind of value by keyword; empty for a name that is not DICOM's."""
    tag = tag_for_keyword(attribute)
    return "" if tag is None else str(dictionary_VR(tag)).split(" ")[0]


def name_parts(text: str) -> list[str]:
    """The parts of a person's name (PS3.5, 6.2.1) that say who it is: no titles, each once.

    ``MÜLLER-LÜDENSCHEIDT^ANNA^^Dr.`` has four: the double name, its two halves, and Anna.
    """
    parts: dict[str, None] = {}
    for part in re.split(r"[\^=\s,;/\\|_]+", text):
        halves = re.split(r"[-'’.]+", part) if re.search(r"\w[-'’.]\w", part) else []
        joined = "".join(halves)
        for piece in (part.strip(".-'’()\""), joined, *(half for half in halves if len(half) >= SHORTEST)):
            if piece and piece.casefold() not in _TITLES:
                parts.setdefault(piece)
    return list(parts)


def day_of(text: str) -> date | None:
    """The day that a DICOM date or date with time, or a date of a table, names."""
    match = re.match(r"(\d{4})[-./]?(\d\d)[-./]?(\d\d)(?!\d{1,3}$)", text) or None
    order = (1, 2, 3)
    if match is None:
        match = re.match(r"(\d{1,2})[-./](\d{1,2})[-./](\d{4})\b", text)
        order = (3, 2, 1)
    if match is None:
        return None
    try:
        day = date(*(int(match.group(k)) for k in order))
    except ValueError:
        return None
    return day if day.year > 1 else None


def dates(day: date) -> list[str]:
    """Spellings of a day: compact, ISO, with points, slashes and dashes, both orders, with the month's name."""
    year, month, number = f"{day.year:04}", f"{day.month:02}", f"{day.day:02}"
    joined = {sign.join((year, month, number)) for sign in ("", "-", ".", "/", "_", " ")}
    joined |= {sign.join((number, month, year)) for sign in ("", "-", ".", "/", "_", ". ")}
    joined |= {sign.join((month, number, year)) for sign in ("-", ".", "/")}
    joined |= {sign.join((str(day.day), str(day.month), year)) for sign in ("-", ".", "/", ". ")}
    joined |= {sign.join((str(day.month), str(day.day), year)) for sign in ("-", "/")}
    name = _MONTHS[day.month - 1]
    for called in (name, name[:3]):
        joined |= {f"{day.day} {called} {year}", f"{called} {day.day}, {year}", f"{number}-{called}-{year}"}
        joined |= {f"{day.day}. {called} {year}"}
    return sorted(joined)


def fold(text: str) -> str:
    """Lower case without accents, as values and files are compared."""
    if text.isascii():
        return text.lower()
    return "".join(map(fold_letter, text))


@lru_cache(maxsize=8192)
def fold_letter(letter: str) -> str:
    """One letter folded; empty for a combining accent, or several letters."""
    if letter.isascii():
        return letter.lower()
    plain = unicodedata.normalize("NFKD", letter.translate(_STROKES).casefold())
    return "".join(c for c in plain if not unicodedata.combining(c)).translate(_STROKES)


def _folds(text: str) -> set[str]:
    """A spelling folded in each way: accents off, or written out, or written out in the value and off here."""
    plain = fold(text)
    if text.isascii() and not _VOWEL_E.search(plain):
        return {plain}
    forms = {plain, fold(unicodedata.normalize("NFC", text).casefold().translate(_WRITTEN_OUT))}
    forms.add(_VOWEL_E.sub(r"\1", plain))
    return {form for form in forms if len(form) >= min(SHORTEST, len(plain))}


def weight(text: str) -> int:
    """A spelling's length; a character of Chinese or Japanese says as much as three letters."""
    if text.isascii():
        return len("".join(text.split()))
    return sum(3 if ord(c) > 0x2E80 else 1 for c in text if not c.isspace())


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", text, re.IGNORECASE) is not None


def _text_parts(attribute: str, text: str) -> list[tuple[str, Kind]]:
    """Of free text: the whole, its lines, and of what is more than a description its words and numbers."""
    described = is_description(attribute)
    parts: dict[tuple[str, Kind], None] = {}
    if not described:
        for line in (text, *re.split(r"[\r\n\\^|;,]+", text)):
            parts.setdefault((line.strip(), Kind.WORD))
        squeezed = re.sub(r"[\W_]+", "", text)
        if len(text) <= 20 and len(squeezed) >= LONG:
            parts.setdefault((squeezed, Kind.NUMBER if squeezed.isdigit() else Kind.WORD))
    for word in () if is_private(attribute) else re.split(r"[\W_]+", text):
        if len(word) >= LONG or weight(word) > len(word):
            parts.setdefault((word, Kind.NUMBER if word.isdigit() else Kind.WORD))
    return list(parts)


def is_description(attribute: str) -> bool:
    """Whether an attribute describes images or examinations: its words are looked for, not the whole."""
    return attribute.endswith(("Description", "DescriptionCodeSequence")) or attribute in _DESCRIPTIONS


def is_private(attribute: str) -> bool:
    """Whether a name is a private tag's, as far as the name shows."""
    return (
        "rivate" in attribute or re.search(r"[0-9a-fA-F]{4}[,x]\s?[0-9a-fA-Fx]{2,4}", attribute) is not None
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split("|"))


_DESCRIPTIONS = frozenset(
    {
        "ProtocolName", "ContrastBolusAgent", "SequenceName", "PulseSequenceName", "BodyPartExamined",
        "RequestedContrastAgent", "CodeMeaning", "DerivationDescription", "FilterType", "AcquisitionType",
    }
)  # fmt: skip
_VOWEL_E = re.compile(r"([aou])e")
_NAMES = re.compile(r"name|nom\b|apellido|physician|arzt", re.IGNORECASE)
_NOBODY = _words("|anonymous|anonymized|anonymised|anonym|unknown|unbekannt|none|n/a|removed")
_NOTHING = _NOBODY | _words(
    "null|na|yes|no|true|false|"
    "not available|not applicable|no value|value|unspecified|default|-|--|---|.|?|xxx"
)
_TITLES = _words(
    "dr|med|prof|mr|mrs|ms|miss|herr|frau|hr|fr|von|van|der|den|de|la|le|del|di|da|dos|el|jr|sr|phd|md|mme|mlle|"
    "m|sra|don|dona|anonymous|anonymized|anonymised|unknown|none"
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_STROKES = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ħ": "h", "ı": "i", "œ": "oe", "æ": "ae",
                          "Ø": "o", "Ł": "l", "Đ": "d", "Ð": "d", "Ħ": "h", "Œ": "oe", "Æ": "ae", "þ": "th",
                          "Þ": "th"})  # fmt: skip
_WRITTEN_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
