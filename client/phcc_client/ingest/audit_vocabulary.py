"""The words that this program itself writes: a patient named Portal is not betrayed by ``portal-venous``.

The vocabulary is not a list that somebody keeps: it is read from the program's own source, from what stands in
quotes there, the names of the fields it writes, and its templates. So it holds for whatever the program will
say in future.

A word of it is taken for the program's own where the program writes sentences. Where a field tells one
patient from another (`STRICT`) it is taken for the program's own only as one of the values that this field may
have. What follows from it and cannot be helped: a leaked name that is also a word of the program goes
unnoticed if it stands in a sentence. The names beside it (first name, number, date of birth) do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from threading import Lock
from typing import get_args, get_origin, get_type_hints

from pydantic import BaseModel

from phcc_client.ingest import record
from phcc_client.ingest.audit_values import fold
from phcc_client.ingest.deidentify_words import TECHNICAL
from phcc_model.config import PHASES

STRICT = frozenset(
    {"patient", "case", "centre", "file", "mask", "thumbnails", "split", "label", "inputs", "sha256", "pixels",
     "signature", "drawn_on", "phase", "aligned", "taken_for", "certainty", "reached", "stops", "lesion_phase"}
)  # fmt: skip
"""Fields of the records and of ``cases.csv`` that hold no sentence: only a value of their own is expected."""

NAMES = frozenset(
    re.findall(
        r"\w+",
        "images records contact lesion check sheet cases ingest site prepared memory nii gz png json csv html "
        "page report svg log errors lock part",
    )
) | {word for phase in PHASES for word in phase.split("-")}
"""Words in the names of a site's files."""

PSEUDONYM = re.compile(r"(?<![a-z0-9])[ps]-[0-9a-f]{16}(?![0-9a-f])")

_READING = Lock()


@cache
def words() -> frozenset[str]:
    """Every word that the program may write, folded."""
    found = set(TECHNICAL)
    for text in _texts_once():
        found |= set(re.findall(r"[^\W_]+", fold(text)))
    return frozenset(found)


@cache
def _stems() -> tuple[str, ...]:
    """Beginnings of words (``arteriell*``) in the vocabulary of phases; long ones only, for they match much."""
    every = " ".join(text for text in _texts_once() if "*" in text)
    return tuple(sorted(set(re.findall(r"([^\W\d_]{6,})\*", fold(every)))))


@lru_cache(maxsize=65536)
def is_ours(word: str) -> bool:
    """Whether a word (folded) is one that the program may write."""
    return word in words() or word.startswith(_stems())


@cache
def choices() -> Mapping[str, frozenset[str]]:
    """Field of the records -> the values that it may have, where these are fixed; folded."""
    found: dict[str, frozenset[str]] = {}
    for model in vars(record).values():
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, hint in get_type_hints(model).items():
                values = frozenset(fold(value) for value in _literals(hint))
                if values:
                    found[name] = found.get(name, frozenset()) | values
    found["lesion_phase"] = frozenset(PHASES)
    return found


def _literals(hint: object) -> Iterator[str]:
    """The strings among which a type chooses."""
    if isinstance(hint, type) and issubclass(hint, record.Stage):
        yield from (stage.value for stage in hint)
    elif isinstance(hint, str):
        yield hint
    elif get_origin(hint) is not None:
        for inner in get_args(hint):
            yield from _literals(inner)


def _texts_once() -> tuple[str, ...]:
    """What `_texts` finds, read by one thread.

    Python 3.11 fails now and then when two threads parse at once (cpython gh-106905).
    """
    with _READING:
        return _texts_read()


@cache
def _texts_read() -> tuple[str, ...]:
    return tuple(_texts())


def _texts() -> Iterator[str]:
    """What stands in quotes in the program's source (docstrings aside), its fields' names, its templates."""
    for package in ("phcc_client.ingest", "phcc_client.imaging", "phcc_model"):
        for file in sorted(_below(files(package)), key=str):
            if file.name.endswith(".j2"):
                yield file.read_text(encoding="utf-8")
            elif file.name.endswith(".py") and not file.name.startswith(
                ("audit", "deidentify", "pseudonyms")
            ):
                yield from _quoted(ast.parse(file.read_text(encoding="utf-8")))


def _below(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry)
        else:
            yield entry


def _quoted(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring: nobody writes it into a file
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
