"""A study as text: YAML and ``key.path=value`` overrides in, one validated `StudyConfig` out, and back.

Whatever is wrong ends in one `ConfigError` of one line: the file, the dotted key, what is wrong with it, and
for an unknown key the nearest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from reprlib import Repr
from typing import NamedTuple, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from phcc_model.config import Section, StudyConfig
from phcc_model.errors import ConfigError

# PyYAML's constructors raise these for explicit tags and impossible dates (``!!int x``, ``2024-99-99``), and
# RecursionError for thousands of nested brackets.
_YAML_FAULTS = (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
Settings = TypeVar("Settings", bound=Section)

_LEAST_LIKENESS = 0.6  # difflib's own default for a close match

_shown = Repr()
_shown.maxlevel, _shown.maxstring, _shown.maxother = 1, 60, 60


class _StrictLoader(yaml.SafeLoader):
    """YAML's plain types only, and no key twice in one mapping (plain YAML lets the last one win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {_show(key.value)} stands twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study's file, apply overrides and validate.

    Args:
        path: the YAML file, UTF-8.
        overrides: ``key.path=value`` each, the value written as in YAML; a later one wins.

    Raises:
        ConfigError: the file cannot be read, or it or an override is not a valid study.
    """
    return parse_study(read_text(path), where=str(path), overrides=overrides)


def parse_study(text: str, *, where: str, overrides: Sequence[str] = ()) -> StudyConfig:
    """Validate a study given as text.

    Args:
        text: YAML.
        where: what to call this text in an error, usually its file.
        overrides: as in `load_study`.

    Raises:
        ConfigError: the text is not YAML, not a mapping, or not a valid study.
    """
    return parse_section(
        text,
        StudyConfig,
        where=where,
        overrides=overrides,
        what="a study",
        remedy="Start from configs/demo.yaml",
    )


def read_text(path: Path) -> str:
    """The text of a file that a person wrote.

    Raises:
        ConfigError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=str(path), remedy="Check its path") from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"is not UTF-8 text (byte {error.start})", where=str(path), remedy="Save the file as UTF-8"
        ) from error


def parse_section(
    text: str,
    section: type[Settings],
    *,
    where: str,
    overrides: Sequence[str] = (),
    what: str = "a file of settings",
    remedy: str | None = None,
) -> Settings:
    """Validate settings given as text.

    Args:
        text: YAML.
        section: the schema.
        where: what to call this text in an error, usually its file.
        overrides: as in `load_study`.
        what: the text should be, for an error.
        remedy: where the text is nothing of the kind.

    Raises:
        ConfigError: the text is not YAML, not a mapping, or not valid by the schema.
    """
    plain = _read_yaml(text, where)
    if not isinstance(plain, dict):
        raise ConfigError(
            f"is not {what}: expected keys with values, found {_kind(plain)}", where=where, remedy=remedy
        )
    for override in overrides:
        _apply(plain, override)
    try:
        return section.model_validate(plain)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    key, problem = _describe(problems[0], section)
    if len(problems) > 1:
        problem += f", and {len(problems) - 1} more"
    source = next((o for o in reversed(overrides) if _touches(o, key)), None)
    raise ConfigError(problem, where=where if source is None else f"{where} with --set {_one_line(source)}")


class StudyText(NamedTuple):
    """A study as it travels."""

    text: str
    digest: str


def as_text(study: StudyConfig) -> StudyText:
    """A study as it travels: its text and its digest."""
    return StudyText(dump_study(study), study.digest)


def dump_study(study: StudyConfig) -> str:
    """The study as YAML that `parse_study` reads back as an equal study; every value is written out."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100)


def valid_keys(section: type[Section] = StudyConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key that may be named, sections included, in the order of the schema."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from valid_keys(field.annotation, f"{prefix}{name}.")


def nearest_key(key: str, root: type[Section] = StudyConfig) -> str | None:
    """The valid dotted key that this one was meant to be, or None where none resembles it.

    A key of the same section is preferred; between keys of other sections the whole path decides.
    """
    section, _, name = key.rpartition(".")

    def likeness(valid: str) -> tuple[bool, float]:
        of_section, _, of_name = valid.rpartition(".")
        names = _likeness(name, of_name)
        return of_section == section and names >= _LEAST_LIKENESS, names + 0.25 * _likeness(key, valid)

    best = max(valid_keys(root), key=likeness)
    return best if _likeness(name, _last(best)) >= _LEAST_LIKENESS else None


def _read_yaml(text: str, where: str) -> object:
    try:
        plain: object = _StrictLoader(text).get_single_data()
    except _YAML_FAULTS as error:
        reason = _one_line(str(error)) or type(error).__name__
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            mark = error.problem_mark
            reason = f"line {mark.line + 1}, column {mark.column + 1}: {_one_line(error.problem or reason)}"
        raise ConfigError(f"is not valid YAML ({reason})", where=where) from error
    return plain


def _apply(plain: dict[object, object], override: str) -> None:
    """Set one dotted key of the plain mapping, making the sections on its way."""
    where = f"--set {_one_line(override)}"
    path, equals, text = override.partition("=")
    names = path.strip().split(".")
    if not equals or not all(names):
        raise ConfigError("is not of the form key.path=value", where=where)
    value = _read_yaml(text, where)
    for depth, name in enumerate(names[:-1], start=1):
        below = plain.get(name)
        if below is None:
            below = plain[name] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{'.'.join(names[:depth])} is a value, not a section", where=where)
        plain = below
    plain[names[-1]] = value


def _describe(problem: ErrorDetails, root: type[Section]) -> tuple[str, str]:
    """The dotted key of one of pydantic's problems, and a line that says what is wrong with it."""
    key = ""
    for part in problem["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{_one_line(part)}" if key else _one_line(part)
    match problem["type"]:
        case "extra_forbidden":
            return key, f"{key}: unknown key ({_suggestion(key, root)})"
        case "missing":
            return key, f"{key}: a value is missing here"
        case "value_error":  # our own validators: they say it all, and often about several keys
            text = problem["msg"].removeprefix("Value error, ")
            return key, f"{key}: {text}" if key else text
        case "model_type":
            return key, f"{key}: should be a section of keys, not {_kind(problem['input'])}"
    text = re.sub(r"^Input should", "should", problem["msg"])
    return key, f"{key}: {text} (found {_show(problem['input'])})"


def _suggestion(key: str, root: type[Section]) -> str:
    nearest = nearest_key(key, root)
    if nearest is not None:
        return f"did you mean {nearest}?"
    section = key.rpartition(".")[0]
    return "valid here: " + ", ".join(_last(k) for k in valid_keys(root) if k.rpartition(".")[0] == section)


def _touches(override: str, key: str) -> bool:
    """Whether an override set this key, something in it, or the section it stands in."""
    path = _one_line(override.partition("=")[0])
    return f"{key}.".startswith((f"{path}.", f"{path}[")) or f"{path}.".startswith(f"{key}.")


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a.lower(), b.lower()).ratio()


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a section"
    return "a list" if isinstance(value, list) else f"the value {_show(value)}"


def _show(value: object) -> str:
    return _one_line(_shown.repr(value))


def _one_line(text: str) -> str:
    """At most 120 printable characters, whatever a file or a command line held."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= 120 else flat[:117] + "..."
