"""What was run, for the page over seeds: the study's keys that are not the schema's defaults, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study
from phcc_simulation.proof.schema import Combined

_OTHERWISE_SAID: dict[str, Any] = {
    "seed": True,
    "name": True,
    "evaluation": {"arms"},
    "data": {"path": True, "phantom": {"seed"}},
}


def configuration(study: StudyConfig, found: Combined) -> str:
    """A paragraph of Markdown; of the data's path only the last name is told.

    Args:
        study: of one of the seeds.
        found: names seeds and arms.
    """
    plain = study.model_dump(mode="json", exclude_defaults=True, exclude=_OTHERWISE_SAID)
    text = yaml.safe_dump(_without_empty(plain), sort_keys=False, default_flow_style=None, width=100)
    return f"What differs from the defaults:\n\n```yaml\n{text}```\n\nCommand: `{_command(study, found)}`"


def _command(study: StudyConfig, found: Combined) -> str:
    """The call that runs it again, from the shipped study of this name where there is one."""
    try:
        shipped = load_study(find_study(study.name))
    except ConfigError:
        words, changed = ["study.yaml"], []
    else:
        words, changed = [study.name], differing(study, shipped)
    if study.data.path is not None:
        changed.append(f"data.path={Path(study.data.path).name}")
    seeds = ",".join(str(one.seed) for one in found.seeds)
    words += [f"--set {quote(change)}" for change in changed]
    words += [f"--seeds {seeds}", *(f"--arm {quote(arm)}" for arm in found.names), "--out FOLDER"]
    return " ".join(["phcc-simulate seeds", *words])


def differing(study: StudyConfig, other: StudyConfig) -> list[str]:
    """Every key of a study with another value than in `other`, as ``--set`` takes it; seed and arms left out."""
    here, there = (one.model_dump(mode="json", exclude=_OTHERWISE_SAID) for one in (study, other))
    return list(_changes(here, there))


def _changes(here: Mapping[str, Any], there: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Every key whose value differs, as ``--set`` takes it."""
    for key, value in here.items():
        if isinstance(value, Mapping):
            yield from _changes(value, there[key], f"{above}{key}.")
        elif value != there[key]:
            yield f"{above}{key}={json.dumps(value, separators=(',', ':'))}"


def _without_empty(plain: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in plain.items()
    }
    return {key: value for key, value in found.items() if value != {}}
