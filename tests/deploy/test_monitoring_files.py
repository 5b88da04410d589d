"""deploy/monitoring: every expression asks for metrics that are really told."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from phcc_client import metrics as client
from phcc_server import metrics as server

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
TOLD = {f"{side.PREFIX}_{name}" for side in (server, client) for name in side.METRICS}
"""That each of these is really told is for the tests of the two modules."""


def expressions() -> Iterator[tuple[str, str]]:
    """Every question to Prometheus, with where it stands."""
    dashboard: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_an_expression_asks_for_metrics_that_there_are(place: str, expression: str) -> None:
    asked = set(re.findall(r"\bphcc_\w+", expression))
    assert asked, place
    assert asked <= TOLD


def test_every_panel_asks_something_and_stands_where_no_other_does() -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] == "row" or panel["targets"], panel["title"]
        box = panel["gridPos"]
        cells = {(box["x"] + i, box["y"] + j) for i in range(box["w"]) for j in range(box["h"])}
        assert not cells & taken, panel["title"]
        assert box["x"] + box["w"] <= 24
        taken |= cells


def test_the_dashboard_shows_every_metric_but_those_that_say_when_or_who() -> None:
    asked = {name for _, expression in expressions() for name in re.findall(r"\bphcc_\w+", expression)}
    rest = {name.split("_", 2)[2] for name in TOLD - asked}
    assert rest == {
        "info",
        "supervisor_up",
        "program_changed_timestamp_seconds",
        "order_at_work",
        "outbox_last_timestamp_seconds",
        "program_restarts_total",
    }


def test_promtool_accepts_configuration_and_alerts(tool: Callable[[str, str], str]) -> None:
    program = tool("promtool", "apt-get install prometheus")
    done = subprocess.run(
        [program, "check", "config", MONITORING / "prometheus.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
