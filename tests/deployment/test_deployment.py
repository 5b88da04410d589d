"""A whole deployment, every process its own: what is killed, who lies, who has no business there.

One file, so that one deployment serves all of it. The first part is the short form of ``make chaos``: kills that
Flower takes a minute to notice are made at the same time.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import liar
import pytest
from conftest import Simulated
from harness import PROGRAMS, Deployment, free_port, run_program, until, write_study

from phcc_client.joining import make_key
from phcc_server.instance import Instance
from phcc_server.watchman import refusals

pytestmark = pytest.mark.process


# ---- A study


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


# ---- A site that lies


SAYS = {
    "not_a_number": "not finite",
    "replay": "round is '0', ordered was '1'",
    "infinite": "a scale is negative or not finite",
    "wrong_shape": "shape is",
    "length_one": "shape is (1,)",
    "wide": "dtype is float64",
    "negative_count": "patients is -5",
    "huge_count": "patients is 1000000000",
    "missing_name": "array is missing",
    "extra_name": "array not expected",
    "empty": "does not hold the records of a reply",
    "huge_change": "which no training gives",
    "somebody_else": "site is 'C1', ordered was 'C3'",
}


@pytest.fixture(scope="module")
def with_a_liar(deployment: Deployment) -> Iterator[Deployment]:
    liar.install(deployment.hospitals["C3"].home)
    yield deployment
    deployment.hospitals["C3"].stop()
    deployment.hospitals["C3"].start()


def test_every_lie_is_set_aside_and_the_study_goes_on(
    with_a_liar: Deployment, simulation: Simulated, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rounds = {stage: sum(s == stage for s, _ in liar.LIES) for stage in ("pretrain", "finetune")}
    study = write_study(
        tmp_path_factory.mktemp("lies"),
        name="lies",
        pretrain={"rounds": rounds["pretrain"], "local_epochs": 1},
        finetune={"rounds": rounds["finetune"], "local_epochs": 1},
    )
    for hospital in with_a_liar.hospitals.values():
        hospital.run("approve", str(study), "--yes")
    run = with_a_liar.submit(study)
    with_a_liar.finish(run)
    records = {(r["stage"], r["round"]): r for r in with_a_liar.ledger(run)}
    assert set(records) == set(liar.LIES)
    for place, lie in liar.LIES.items():
        record, name = records[place], lie if isinstance(lie, str) else lie.__name__
        assert record["status"] == "PARTIAL", (name, record["sites"]["C3"])
        assert record["sites"]["C3"]["status"] == "refused", (name, record["sites"]["C3"])
        assert SAYS[name] in record["sites"]["C3"]["reason"], name
        assert {record["sites"][site]["status"] for site in ("C1", "C2")} == {"accepted"}
    told = (with_a_liar.hospitals["C3"].home / "notices.jsonl").read_text()
    assert "your reply to round 1 of pretrain was refused" in json.loads(told.splitlines()[0])["notice"]
    page = (with_a_liar.instance / "runs" / run / "report.html").read_text()
    assert "PARTIAL" in page


# ---- Who has no business there


def supernode(deployment: Deployment, folder: Path, *words: str) -> int:
    """A node of one's own at the front door; how it ends."""
    command = [
        *(str(PROGRAMS / "flower-supernode"), "--superlink", deployment.address),
        *("--root-certificates", str(deployment.instance / "tls" / "ca.pem")),
        *("--port", str(free_port(deployment.ports)), "--max-retries", "2", *words),
    ]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(PROGRAMS), os.environ["PATH"]]
        ),  # it starts another of Flower's programs
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    with (folder / "node.log").open("ab") as log:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=240, check=False, stdout=log, stderr=log
        )
    return done.returncode


def test_nobody_gets_in_without_a_key_that_was_admitted(deployment: Deployment, tmp_path: Path) -> None:
    assert supernode(deployment, tmp_path) != 0
    make_key(tmp_path / "foreign")
    assert supernode(deployment, tmp_path, "--auth-supernode-private-key", str(tmp_path / "foreign")) != 0
    instance = Instance.open(deployment.instance)
    paths = ("/v1/fleet/register-node", "/v1/fleet/activate-node")
    found = until(lambda: [r for r in refusals(instance) if r["path"] in paths], 90, "refusals are recorded")
    assert sum(r["times"] for r in found) >= 2


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet//control/list-runs",
        "/health",
    ],
)
def test_the_inner_doors_cannot_be_reached_through_the_front_door(deployment: Deployment, path: str) -> None:
    context = ssl.create_default_context(cafile=str(deployment.instance / "tls" / "ca.pem"))
    with httpx.Client(verify=context, trust_env=False) as client:
        request = client.build_request("POST", f"https://{deployment.address}/")
        request.url = request.url.copy_with(raw_path=path.encode())
        assert client.send(request).status_code == 403


def test_another_sites_kit_admits_nobody_a_second_time(deployment: Deployment, tmp_path: Path) -> None:
    kit = deployment.instance / "kits" / "C1.kit.yaml"
    run_program("phcc-client", "init", str(kit), "--home", str(tmp_path / "thief"), "--out", str(tmp_path))
    said = deployment.run("admit", str(tmp_path / "admission-C1.yaml"), check=False)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert "refused" in deployment.run("hospitals", "--events").stdout


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", "-rf", "H 1", "x" * 80])
def test_no_name_from_outside_becomes_a_path(deployment: Deployment, name: str) -> None:
    for words in (
        ["invite", "--", name],
        ["watch", "--", name],
        ["verify", "--", name],
        ["revoke", "--", name],
    ):
        said = _run(deployment, words)
        assert said.returncode in (1, 2), (words, said.stdout)
        assert "Traceback" not in said.stderr
    assert not (deployment.instance.parent / "evil").exists()


def _run(deployment: Deployment, words: list[str]) -> subprocess.CompletedProcess[str]:
    command, *rest = words
    return run_program("phcc-server", command, "--instance", str(deployment.instance), *rest, check=False)


def test_a_study_that_nobody_approved_trains_nowhere(
    deployment: Deployment, simulation: Simulated, tmp_path: Path
) -> None:
    """An altered study under an approved name, and one that nobody has seen: every site says no."""
    before = {name: len(hospital.sent()) for name, hospital in deployment.hospitals.items()}
    altered = write_study(tmp_path, seed=99, federation={"start_patience_s": 40})
    run = deployment.submit(altered)
    verdict = until(lambda: deployment.verdict(run), 240, "the run ends")
    assert verdict["state"] == "failed"
    assert "this hospital has not agreed to it" in verdict["text"]
    assert deployment.run("watch", run, check=False).returncode == 1
    for name, hospital in deployment.hospitals.items():
        left = hospital.sent()[before[name] :]
        assert {sent["kind"] for sent in left} <= {"Failure"}
        assert "new" in hospital.run("studies").stdout


def test_a_revoked_hospital_is_shut_out_at_once(deployment: Deployment) -> None:
    hospital = deployment.hospitals["C3"]
    deployment.run("revoke", "C3")
    until(lambda: hospital.run("status", check=False).returncode == 1, 90, "the node is shut out")
    hospital.stop()
    shutil.rmtree(hospital.home / "spool", ignore_errors=True)
    said = deployment.run("admit", str(deployment.folder / "admission-C3.yaml"), check=False)
    assert said.returncode == 1
