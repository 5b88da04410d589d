"""Free text made fit for a report: whoever is named in it goes, and so does every word that is not known.

Two sieves, one behind the other. The first takes out what identifies this patient, in every spelling that the
audit knows. The second lets only words through that the program itself uses or that describe scanners,
sequences and bodies: a name that stands in a series description and nowhere else (a physician's, another
patient's) is no such word. Too much goes rather than too little; what went is shown as ``…``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from phcc_client.ingest.audit_values import (
    SHORTEST,
    Kind,
    fold,
    fold_letter,
    is_description,
    is_private,
    spellings,
    vr_of,
)
from phcc_client.ingest.audit_vocabulary import is_ours

GONE = "…"
_LONG_NUMBER = re.compile(r"(?<![\d.])\d{5,}(?![\d])|\d+(?:\.\d+){3,}|\d{1,4}([-/.])\d{1,2}\1\d{2,4}(?!\d)")
_WORD = re.compile(r"[^\W_]+")
_SHORT_CODE = re.compile(r"[a-z]{1,3}\d{1,3}[a-z]{0,2}|b\d{1,4}|\d{1,4}[a-z]{0,3}|[a-z]{1,2}\d[a-z]{1,3}")


def scrub(text: str, identity: Mapping[str, Collection[str]]) -> str:
    """A text without anything that could identify.

    Args:
        text: a description, or a sentence of the program in which one is quoted.
        identity: attribute -> values that identify this patient.

    Returns:
        The text with ``…`` where something went; scrubbing it again changes nothing.
    """
    folded, starts = _folded(text)
    kept = [True] * len(text)
    for pattern in _patterns(tuple((name, frozenset(identity[name])) for name in sorted(identity))):
        for match in pattern.finditer(folded):
            _strike(kept, starts, match.start(), match.end())
    for match in _LONG_NUMBER.finditer(folded):
        _strike(kept, starts, match.start(), match.end())
    for match in _WORD.finditer(folded):
        word = match.group()
        if len(word) > 2 and not (word.isdigit() or is_ours(word) or _SHORT_CODE.fullmatch(word)):
            _strike(kept, starts, match.start(), match.end())
    shown = "".join(letter if keep else GONE for letter, keep in zip(text, kept, strict=True))
    return re.sub(rf"{GONE}(?:[\s^_,.;/-]*{GONE})*", GONE, shown).strip()


def _folded(text: str) -> tuple[str, list[int]]:
    """The text folded, and for each of its characters the one of `text` that it came from."""
    letters: list[str] = []
    starts: list[int] = []
    for at, letter in enumerate(text):
        for part in fold_letter(letter):
            letters.append(part)
            starts.append(at)
    return "".join(letters), starts


def _strike(kept: list[bool], starts: list[int], start: int, end: int) -> None:
    for at in range(starts[start], starts[end - 1] + 1):
        kept[at] = False


@lru_cache(maxsize=16)
def _patterns(identity: tuple[tuple[str, frozenset[str]], ...]) -> tuple[re.Pattern[str], ...]:
    """What to strike: long values within words too, short ones as words of their own."""
    anywhere: set[str] = set()
    as_words: set[str] = set()
    for attribute, values in identity:
        if is_description(attribute) or is_private(attribute):
            continue  # what they describe is wanted; a name in them is no word that is known
        named = vr_of(attribute) == "PN" or attribute.endswith("ID") or "name" in attribute.lower()
        for value in values:
            for part, kind in spellings(attribute, value):
                if kind is Kind.UID:
                    continue  # whole families of them are struck by _LONG_NUMBER
                for form in {fold(part), fold(part.casefold().replace("ü", "ue").replace("ö", "oe"))}:
                    if len(form) < (2 if named else SHORTEST) or (not named and _all_ours(form)):
                        continue
                    long_word = kind is not Kind.WORD or len(form) >= 5
                    (anywhere if long_word and len(form) >= 4 else as_words).add(form)
    found = []
    if anywhere:
        found.append(re.compile("|".join(map(_loose, sorted(anywhere, key=len, reverse=True)))))
    if as_words:
        either = "|".join(map(_loose, sorted(as_words, key=len, reverse=True)))
        found.append(re.compile(rf"(?<![^\W_])(?:{either})(?![^\W_])"))
    return tuple(found)


def _loose(form: str) -> str:
    """A pattern in which any signs, or none, may stand where a sign or a blank stands in the value."""
    parts = [re.escape(part) for part in re.split(r"[\W_]+", form) if part]
    return r"[\W_]{0,3}".join(parts) or re.escape(form)


def _all_ours(form: str) -> bool:
    words = _WORD.findall(form)
    return all(is_ours(word) for word in words if not word.isdigit()) and not any(w.isdigit() for w in words)
