"""Text as an audit reads it: escapes undone, letters folded, and whether what was found there means anybody.

A value counts where it stands as itself:

- a word of six letters and more anywhere, within longer words too, a shorter one as a word of its own;
- a number not as a part of a longer one, nor of a decimal fraction; of fewer than six digits only where it is all
  that a name of a file or a text of its own says (measured values are numbers too);
- a date not as a part of a longer number, unless that goes on with a time of day;
- a DICOM UID whole.

A checksum (16 hexadecimal digits and more) holds any short word sooner or later: there, only values of twelve
characters and more count. And what is a word of the program's own does not count where the program writes
sentences (`audit_vocabulary`).
"""

from __future__ import annotations

import html
import re
from bisect import bisect_right
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from phcc_client.ingest.audit_values import LONG, SHORTEST, Kind, Sought, fold, fold_letter, weight
from phcc_client.ingest.audit_vocabulary import NAMES, PSEUDONYM, STRICT, choices, is_ours
from phcc_model.config import PHASES

_SPECIAL = re.compile(
    r"(?:[^\x00]\x00){3,}|(?:\x00[^\x00]){3,}|\x00+"
    r"|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}|[\x80-\xff]"
    r"|\\u[0-9a-f]{4}(?:\\u[0-9a-f]{4})?|\\x[0-9a-f]{2}|\\[nrtbf\"'/\\]"
    r"|&#?[0-9a-z]{1,31};|(?:%[0-9a-f]{2})+"
)
_KEY = re.compile(r'"([^"]{1,80})"\s*:')
_WORD = re.compile(r"[^\W_]+")
_CHECKSUM = re.compile(r"[0-9a-f]{16,}")
_SURELY_NO_CHANCE = 12
_EDGES = ("", "\n", "\r", ",", '"')


@dataclass(frozen=True)
class FoldedText:
    """A piece of a file as it is searched.

    Attributes:
        text: folded.
        places: positions in `text`, ascending, and
        bytes_at: the byte of the piece that each came from.
    """

    text: str
    places: list[int]
    bytes_at: list[int]

    def offset(self, position: int) -> int:
        """The byte that a position came from; within an escape, its first."""
        k = bisect_right(self.places, position) - 1
        step = self.bytes_at[k] + position - self.places[k]
        return min(step, self.bytes_at[k + 1] - 1) if k + 1 < len(self.places) else step


@dataclass(frozen=True)
class Place:
    """Where a text stands, as far as it matters for what is expected there.

    Attributes:
        kind: ``name`` of a file, ``json``, ``table``, ``field`` (short and of one meaning), or ``prose``.
        columns: of a table.
        first: whether this piece is the file's beginning.
    """

    kind: str
    columns: tuple[str, ...] = ()
    first: bool = True


def read_text(data: bytes, encoding: str = "utf-8") -> FoldedText:
    """Undo what may hide a letter, and fold.

    UTF-8 (what is none is taken for Latin-1), UTF-16 in between, JSON's and Python's escapes, HTML's entities and
    percent signs.

    Args:
        data: a piece of a file.
        encoding: ``utf-8``, or ``utf-16-le``, ``utf-16-be`` for a whole file that is so.
    """
    if encoding != "utf-8":
        return _read_utf16(data, encoding)
    raw = data.lower().decode("latin-1")
    parts: list[str] = []
    places, bytes_at = [0], [0]
    here = written = 0
    for match in _SPECIAL.finditer(raw):
        new = _undone(match.group())
        parts += [raw[here : match.start()], new]
        written += match.start() - here
        places += [written, written + len(new)]
        bytes_at += [match.start(), match.end()]
        written += len(new)
        here = match.end()
    parts.append(raw[here:])
    return FoldedText("".join(parts), places, bytes_at)


def _read_utf16(data: bytes, encoding: str) -> FoldedText:
    letters = [fold_letter(letter) for letter in data.decode(encoding, "replace")]
    places = [0]
    for letter in letters:
        places.append(places[-1] + len(letter))
    return FoldedText("".join(letters), places, list(range(0, 2 * len(places), 2)))


def _undone(found: str) -> str:
    """What an escape, or a letter of several bytes, stands for; folded."""
    if "\0" in found:
        letters = found.replace("\0", "")
        return fold(letters) if letters else " "
    if found[0] == "\\":
        if len(found) == 2:
            return "\\" if found == "\\\\" else " "
        units = found.encode("latin-1").decode("unicode_escape").encode("utf-16", "surrogatepass")
        return fold(units.decode("utf-16", "replace"))
    if found[0] == "&":
        return fold(html.unescape(found))
    if found[0] == "%":
        return fold(_decoded(unquote_to_bytes(found)))
    return "".join(map(fold_letter, _decoded(found.encode("latin-1"))))


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def counts(sought: Sought, text: str, start: int, end: int, place: Place) -> bool:
    """Whether a spelling found in a text is the value, and not a part of something else.

    Args:
        sought: what was found.
        text: folded.
        start: where in it the spelling begins.
        end: where it ends.
        place: what text this is.
    """
    before, after = text[max(0, start - 24) : start], text[end : end + 24]
    if sought.kind is Kind.UID:
        return not re.search(r"\d\.?$", before) and not re.match(r"\.?\d", after)
    if sought.kind is Kind.DATE:
        if re.search(r"\d[-./]?$", before):
            return False
        return (
            re.match(r"[-./]?\d", after) is None or re.match(r"[-_ ]?\d{4}(\d\d)?(?!\d)", after) is not None
        )
    if sought.kind is Kind.NUMBER:
        if re.search(r"[1-9]0*$|\d\.0*$|[1-9.]\d*0$", before) or re.match(r"\d|[.,]\d", after):
            return False
        if sum(c.isdigit() for c in sought.folded) < LONG:
            return _alone(text, start, end, place)
        return not _in_checksum(text, start, end)
    if weight(sought.folded) < LONG and (before[-1:].isalnum() or after[:1].isalnum()):
        return False
    return not _in_checksum(text, start, end)


def is_our_own(text: str, start: int, end: int, place: Place) -> bool:
    """Whether what stands there is a word that the program itself writes there.

    Args:
        text: folded.
        start: where in it a word begins that means somebody.
        end: where it ends.
        place: what text this is.
    """
    while start and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    words = _WORD.findall(text[start:end])
    if place.kind == "name":
        component = text[text.rfind("/", 0, start) + 1 : (text + "/").find("/", end)]
        return _is_name(component, within=PSEUDONYM.search(text) is not None or "/" not in text)
    if place.kind == "json" and text[start:end] in ("null", "true", "false"):
        return re.search(r"[:\[,]\s*$", text[max(0, start - 20) : start]) is not None
    if not all(is_ours(word) for word in words) or max(map(len, words), default=0) < SHORTEST:
        return False
    if place.kind == "json":
        return _is_expected_json(text, start, end)
    if place.kind == "table":
        return _is_expected_cell(text, start, end, place)
    return place.kind != "field"


def _is_expected_json(text: str, start: int, end: int) -> bool:
    opening, closing = text.rfind('"', max(0, start - 4000), start), text.find('"', end, end + 4000)
    if closing < 0 or text[closing + 1 : closing + 40].lstrip().startswith(":"):
        return True
    keys = _KEY.findall(text[max(0, opening - 4000) : max(0, opening)])
    if not keys or keys[-1] not in STRICT:
        return True
    field = text[opening + 1 : closing]
    return field in choices().get(keys[-1], frozenset()) or _is_name(field, within=False)


def _is_expected_cell(text: str, start: int, end: int, place: Place) -> bool:
    line = text.rfind("\n", 0, start) + 1
    if line == 0 and place.first:
        return True
    number = text.count(",", line, start)
    column = place.columns[number] if number < len(place.columns) else ""
    if column not in STRICT and column not in PHASES:
        return True
    field = re.split(r"[,\r\n]", text[:end].rpartition("\n")[2].rpartition(",")[2] + text[end : end + 400])[0]
    field = field.strip('" ')
    return field in choices().get(column, frozenset()) or _is_name(field, within=False)


def _is_name(field: str, *, within: bool) -> bool:
    """Whether a name is made of pseudonyms and the words in our files' names only."""
    named = PSEUDONYM.search(field) is not None or within
    words = _WORD.findall(PSEUDONYM.sub(" ", field))
    return named and all(word in NAMES or word.isdigit() or _CHECKSUM.fullmatch(word) for word in words)


def _alone(text: str, start: int, end: int, place: Place) -> bool:
    """Whether a short number is all that stands there, in a place where no measured value is expected."""
    before, after = text[start - 1 : start], text[end : end + 1]
    if place.kind == "name":
        return before in ("", "/") and after in ("", "/", ".")
    if place.kind == "field":
        return not before.strip() and not after.strip()
    if place.kind == "json":
        return before == '"' == after and not text[end + 1 : end + 20].lstrip().startswith(":")
    if place.kind == "table":
        number = text.count(",", text.rfind("\n", 0, start) + 1, start)
        column = place.columns[number] if number < len(place.columns) else ""
        return column in ("case", "patient", "centre") and before in _EDGES and after in _EDGES
    return False


def _in_checksum(text: str, start: int, end: int) -> bool:
    if end - start >= _SURELY_NO_CHANCE:
        return False
    return any(
        match.start() + max(0, start - 130) <= start and end <= match.end() + max(0, start - 130)
        for match in _CHECKSUM.finditer(text[max(0, start - 130) : end + 130])
    )
