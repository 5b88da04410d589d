"""A whole study in deployment: the digest of the simulation, whatever is killed on the way.

The short form of ``make chaos``: kills that Flower takes a minute to notice are made at the same time.
"""

from __future__ import annotations

import json

import pytest
from conftest import Simulated
from harness import Deployment, until

pytestmark = pytest.mark.process


def test_a_study_that_is_killed_everywhere_ends_with_the_digest_of_the_simulation(
    deployment: Deployment, simulation: Simulated
) -> None:
    """Kill -9 in the middle of rounds: worker, client app, node, front door; SuperLink, ServerApp, SuperExec."""
    run = deployment.submit(simulation.study)
    c1, c2, c3 = (deployment.hospitals[name] for name in ("C1", "C2", "C3"))
    deployment.in_training(run, "C1", 0)
    assert c1.kill("worker")
    until(lambda: c2.kill("clientapp"), 30, "a client app is killed")
    assert c3.kill("supernode")
    assert deployment.kill("front-door")
    deployment.in_training(run, "C3", 1)
    assert deployment.kill("superlink")
    until(lambda: deployment.kill("serverapp"), 30, "the ServerApp is killed")
    assert deployment.kill("superexec")
    assert deployment.finish(run) == simulation.digest
    assert {record["status"] for record in deployment.ledger(run)} == {"COMPLETE"}
    summary = json.loads((deployment.instance / "runs" / run / "summary.json").read_text())
    assert set(summary["arms"]["full"]) >= {"internal", "C1", "C2", "C3"}
    watched = deployment.run("watch", run)
    assert "finished" in watched.stdout
