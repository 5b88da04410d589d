"""What a description says: which phase, or which other sequence, when after the injection, which part of a Dixon.

What is kept of a description are words of the vocabulary and numbers, never the description itself: a person may
have typed a name into it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal, TypeVar

from phcc_client.imaging.phases import recognise
from phcc_client.ingest import phase_vocabulary as vocabulary
from phcc_model.config import Phase

Agent = Literal["hepatobiliary", "late hepatobiliary", "extracellular", ""]
Component = Literal["water", "fat", "in or out of phase", ""]
Meaning = TypeVar("Meaning")

_LETTERS = str.maketrans(
    {"ł": "l", "Ł": "L", "ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "’": "'", "′": "'", "″": "''"}
)
_BETWEEN = r"[\W_]*"
_BEFORE = r"(?:(?:fase|phase|faza|temps|tps)[\W_]+)?"
_MASK = "~"
_LONGEST = 256


@dataclass(frozen=True)
class Words:
    """What one text says.

    Attributes:
        phases: (phase, the word that says it), in the order of the text, each phase once.
        weak: the words that name the phase have other meanings too.
        other: what other sequence is named; empty where none is.
        other_word: the word that names it.
        weak_other: a sequence that is named by a word which has other meanings too.
        component: of a Dixon acquisition.
        after_contrast: says that contrast agent was given.
        dynamic: says that it belongs to a dynamic series.
        seconds: after the injection, as said.
        time_word: as it stands there ("20 min").
        time_sure: the time cannot be the length of a breath-hold.
        moment: of the arterial phase.
        family: the first T1 sequence that is named.
        coronal: coronal or sagittal.
        agent: the contrast agent that is named.
    """

    phases: tuple[tuple[Phase, str], ...] = ()
    weak: bool = False
    other: str = ""
    other_word: str = ""
    weak_other: str = ""
    component: Component = ""
    after_contrast: bool = False
    dynamic: bool = False
    seconds: float | None = None
    time_word: str = ""
    time_sure: bool = False
    moment: Literal["early", "late", ""] = ""
    family: str = ""
    coronal: bool = False
    agent: Agent = ""


def folded(text: str) -> str:
    """Lower case without accents, words that are written together in camel case taken apart.

    What stands behind 256 characters is left out: DICOM allows 64.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", text[:_LONGEST].translate(_LETTERS))
    plain = unicodedata.normalize("NFKD", apart)
    return "".join(c for c in plain if not unicodedata.combining(c)).lower()


class _Finder(Generic[Meaning]):
    """Finds a vocabulary's words as words; of two at one place the longer one."""

    def __init__(self, words: Iterable[tuple[str, Meaning]], before: str = "") -> None:
        ordered = sorted(
            {(folded(word), meaning) for word, meaning in words}, key=lambda w: (-len(w[0]), w[0])
        )
        self._meanings = [meaning for _, meaning in ordered]
        self._pattern = re.compile("|".join(f"({_as_pattern(word, before)})" for word, _ in ordered))

    def find(self, text: str) -> list[tuple[Meaning, str, int]]:
        """(meaning, the word as it stands there, where) in the order of the text."""
        return [
            (self._meanings[(match.lastindex or 1) - 1], " ".join(match.group().split()), match.start())
            for match in self._pattern.finditer(text)
        ]

    def hidden(self, text: str) -> str:
        """The text with its words blotted out, so that no part of them is read again."""
        return self._pattern.sub(lambda match: _MASK * len(match.group()), text)


def _as_pattern(word: str, before: str) -> str:
    body = "".join(
        _BETWEEN if c == " " else r"[a-z]*" if c == "*" else re.escape(c) for c in word.rstrip("*")
    ) + (r"[a-z]*" if word.endswith("*") else "")
    if not word.isascii():
        return body
    left = rf"(?<![a-z]){before}" if word[0].isalnum() else ""
    right = r"(?![a-z+])" if word[-1].isalpha() or word.endswith("*") else r"(?!\d)"
    if word.endswith("+"):
        right = ""
    if word.endswith("-"):  # "C-": a hyphen that joins ("C-pre", "C-arm") is another word
        right = r"(?![\w+])"
    return left + body + right


def _finder(table: Mapping[Meaning, Iterable[str]], before: str = "") -> _Finder[Meaning]:
    return _Finder(((word, meaning) for meaning, words in table.items() for word in words), before)


_PHASES = _finder(vocabulary.PHASE_WORDS, _BEFORE)
_WEAK_PHASES = _finder(vocabulary.WEAK_PHASE_WORDS, _BEFORE)
_OTHERS = _finder(vocabulary.OTHER_WORDS)
_WEAK_OTHERS = _finder(vocabulary.WEAK_OTHER_WORDS)
_AFTER = _finder({True: vocabulary.AFTER_CONTRAST})
_DYNAMIC = _finder({True: vocabulary.DYNAMIC})
_BREATH = _finder({True: vocabulary.BREATH})
_PLANES = _finder({True: vocabulary.CORONAL_SAGITTAL})
_TECHNICAL = _finder({True: vocabulary.TECHNICAL})
_AGENTS: _Finder[Agent] = _finder(
    {
        "hepatobiliary": vocabulary.HEPATOBILIARY_AGENTS,
        "late hepatobiliary": vocabulary.LATE_HEPATOBILIARY_AGENTS,
        "extracellular": vocabulary.EXTRACELLULAR_AGENTS,
    }
)
_HOURS = r"(?:h|hr|hrs|hours?|std|stunden?|heures?|ore|horas?|uur|godz)(?![a-z])"
_MINUTES = r"(?:min|mins|minut[a-z]*|mn|分钟|分)(?![a-z])"
_SECONDS = r"(?:s|sec|secs|seconds?|sek|sekunden|seg|segundos|secondes?|秒)(?![a-z])"
_UNITS: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(rf"(?<![\d.,:])(\d)[ _-]*{_HOURS}"), 3600.0),
    (re.compile(rf"(?<![\d.,:])(\d{{1,2}}(?:[.,]\d)?)[ _-]*{_MINUTES}"), 60.0),
    (re.compile(r"(?<![\d.,:'])(\d{1,2}) ?'(?!')"), 60.0),
    (re.compile(rf"(?<![\d.,:])(\d{{2,3}})[ _-]*{_SECONDS}"), 1.0),
    (re.compile(r"(?<![\d.,:])(\d{2,3}) ?(?:''|\")"), 1.0),
)
_DIXON = re.compile(r"dixon|flex|\bideal\b|wfs|(?<![a-z])wfi(?![a-z])|^(?:water|fat|in ?phase|out ?phase) ?:")
_SUBTRACTION = re.compile(rf"{_MASK}\s*[-–]\s*{_MASK}")
_COMPONENTS: tuple[tuple[Component, re.Pattern[str]], ...] = (
    ("in or out of phase", re.compile(r"(?<![a-z])(?:in|ip|opp|op|out|oop|inph|opph)(?![a-z])")),
    (
        "fat",
        re.compile(r"(?<![a-z])(?:f|fat|fett|graisse|grasa|grasso)(?![a-z])(?![\W_]*(?:s[au]|fs|free|less))"),
    ),
    ("water", re.compile(r"(?<![a-z])(?:w|water|wasser|eau|agua|acqua|woda|wo)(?![a-z])(?![\W_]*ex)")),
)


@lru_cache(maxsize=4096)
def read_words(text: str) -> Words:
    """What a text says of its series.

    Args:
        text: SeriesDescription or ProtocolName, as written.
    """
    whole = folded(text)
    rest = _AGENTS.hidden(whole)
    named = _PHASES.find(rest)
    rest = _PHASES.hidden(rest)
    subtraction = _is_subtraction([phase for phase, _, _ in named], rest)
    seconds, time_word, short = _time(rest)
    after = bool(_AFTER.find(rest))
    rest = _AFTER.hidden(rest)
    others = _OTHERS.find(rest)
    component = _component(whole, _OTHERS.hidden(rest))
    weak = not named
    if weak:
        named = _weak(rest) or _short_name(whole)
    elif len({phase for phase, _, _ in named}) > 1:  # a list of the phases: its weaker words belong to it
        named = sorted([*named, *_WEAK_PHASES.find(rest)], key=lambda found: found[2])
    other, other_word = others[0][:2] if others else ("a subtraction", "minus") if subtraction else ("", "")
    weak_others = _WEAK_OTHERS.find(rest)
    return Words(
        phases=_each_once(named),
        weak=bool(named) and weak,
        other=other,
        other_word=other_word,
        weak_other=weak_others[0][0] if weak_others else "",
        component=component,
        after_contrast=after,
        dynamic=bool(_DYNAMIC.find(rest)),
        seconds=seconds,
        time_word=time_word,
        time_sure=not short or after or not _BREATH.find(whole),
        moment=_moment([word for phase, word, _ in named if phase == "arterial"]),
        family=_family(whole),
        coronal=bool(_PLANES.find(whole)),
        agent=next((agent for agent, _, _ in _AGENTS.find(whole)), ""),
    )


def agent_named(text: str) -> Agent:
    """The kind of contrast agent that ContrastBolusAgent names; empty where it is empty or unknown."""
    return next((agent for agent, _, _ in _AGENTS.find(folded(text))), "")


def _family(text: str) -> str:
    """The most telling name of the sequence; a Dixon variant of it is another one."""
    name = next((family for family in vocabulary.FAMILIES if family in text), "")
    return f"{name} dixon" if name not in ("", "dixon") and "dixon" in text else name


def _weak(text: str) -> list[tuple[Phase, str, int]]:
    """Weak words; "del" is an article beside any other ("fase simple del hígado")."""
    found = _WEAK_PHASES.find(text)
    return [f for f in found if f[1] != "del"] or found


def _each_once(named: list[tuple[Phase, str, int]]) -> tuple[tuple[Phase, str], ...]:
    first: dict[Phase, str] = {}
    for phase, word, _ in named:
        first.setdefault(phase, word)
    return tuple(first.items())


def _is_subtraction(phases: list[Phase], hidden: str) -> bool:
    """Two names joined by a minus, of which the second is before contrast ("arterial - pre")."""
    return len(phases) == 2 and phases[1] == "pre-contrast" != phases[0] and bool(_SUBTRACTION.search(hidden))


def _time(text: str) -> tuple[float | None, str, bool]:
    """(seconds, as written, said in seconds), of the first unit that stands there; hours before minutes."""
    for pattern, unit in _UNITS:
        match = pattern.search(text)
        if match is not None:
            return float(match[1].replace(",", ".")) * unit, " ".join(match.group().split("_")), unit == 1.0
    return None, "", False


def _component(whole: str, rest: str) -> Component:
    if _DIXON.search(whole) is None:
        return ""
    return next((component for component, pattern in _COMPONENTS if pattern.search(rest)), "")


def _moment(words: list[str]) -> Literal["early", "late", ""]:
    joined = " ".join(words)
    if re.search(r"late|lap|spa|tardi|laat|pozna|后期|晚期", joined):
        return "late"
    return "early" if re.search(r"early|eap|fru|preco|vroeg|wczesna", joined) else ""


def _short_name(whole: str) -> list[tuple[Phase, str, int]]:
    """Short names, told by what stands beside them: "t1_vibe_fs_tra_AP" is arterial, "ep2d_AP" is not."""
    name = re.sub(rf"[\W\d_{_MASK}]+", " ", _TECHNICAL.hidden(whole)).strip()
    phase = recognise(name) if len(name) >= 2 and " " not in name else None
    return [] if phase is None or phase == "other" or phase == "image" else [(phase, name, 0)]
