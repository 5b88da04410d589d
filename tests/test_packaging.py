"""What the package says of itself, where two places must agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from phcc_server.bundle import bundle as bundle_of
from phcc_simulation.launcher import CONFIG

PROJECT: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())


def named(requirement: str) -> str:
    return re.split(r"[\[<>=~! ;]", requirement)[0].lower()


def test_flower_has_nothing_to_fetch_for_a_run() -> None:
    """Flower runs `uv sync` on the bundle; a dependency that is not excluded would be downloaded in every run."""
    extras = [r for group in PROJECT["project"]["optional-dependencies"].values() for r in group]
    needed = {named(r) for r in (*PROJECT["project"]["dependencies"], *extras)}
    assert needed == set(PROJECT["tool"]["uv"]["exclude-dependencies"])


def test_the_private_bundle_is_the_repositorys_app() -> None:
    bundle = tomllib.loads(bundle_of("phcc_simulation", "phcc_simulation", CONFIG))["tool"]["flwr"]["app"]
    app = PROJECT["tool"]["flwr"]["app"]
    assert bundle["components"] == app["components"]
    assert bundle["config"].keys() == app["config"].keys()
    assert bundle["publisher"] == app["publisher"]


def test_torch_is_pinned_for_the_tests_and_open_for_a_hospital() -> None:
    constraints = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    assert any(line.startswith("torch==") for line in constraints)
    torch = next(r for r in PROJECT["project"]["dependencies"] if named(r) == "torch")
    assert "==" not in torch
