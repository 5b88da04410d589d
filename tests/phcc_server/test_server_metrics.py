"""The coordinator's metrics: what they say of an instance, and of one whose files are damaged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import tiny_study
from scraping import exposition, samples

from phcc_model.supervised import ProgramStatus, Status, locked
from phcc_server import metrics
from phcc_server.hospitals import Register
from phcc_server.instance import Instance
from phcc_server.ledger import Ledger, RoundRecord, SiteRecord, ValidationRecord
from phcc_server.metrics import METRICS, PREFIX, look
from phcc_server.nodes import Node
from phcc_server.rounds import RoundStatus
from phcc_server.run_folder import RunFolder

SITES = ("H1", "H2")


def told(instance: Instance) -> dict[str, float]:
    return samples(look(instance), PREFIX)


def a_round(stage: str, number: int) -> RoundRecord:
    return RoundRecord.model_validate(
        {
            "arm": "full",
            "stage": stage,
            "round": number,
            "status": RoundStatus.PARTIAL,
            "started": "2030-01-02T03:04:05+00:00",
            "finished": "2030-01-02T03:04:09+00:00",
            "seconds": 4.0,
            "sites": {
                "H1": SiteRecord(status="accepted", patients=40),
                "H2": SiteRecord(status="refused", reason="images/DOE_JANE/1.nii.gz: shape is (1,)"),
            },
            "digest_before": "a" * 64,
            "digest_after": "b" * 64,
            "validation": ValidationRecord(loss=0.5, auc=0.75, cases=9),
        }
    )


@pytest.fixture
def run(instance: Instance) -> RunFolder:
    """A run in its second stage, with one round done twice."""
    run = RunFolder.create(instance.runs, tiny_study(), SITES)
    run.tried(17)
    run.tried(18)
    arms = [{"arm": "full", "pretrain": 2, "finetune": 3}, {"arm": "mean", "pretrain": 0, "finetune": 3}]
    run.journal.write("plan", arms=arms)
    run.journal.write("plan", arms=arms)
    ledger = Ledger(run.ledger)
    for stage, number in (("pretrain", 0), ("pretrain", 1), ("pretrain", 1), ("finetune", 0)):
        ledger.append(a_round(stage, number))
    return run


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch, instance: Instance) -> Iterator[None]:
    """A SuperLink that is well and knows two hospitals, one of them by two keys; four programs, one down."""

    class Control:
        def __init__(self, _instance: Instance) -> None: ...

        def __enter__(self) -> Control:
            return self

        def __exit__(self, *_error: object) -> None: ...

        def nodes(self) -> Sequence[Node]:
            return Node(1, "H1", "k", "offline"), Node(2, "H1", "l", "online"), Node(3, "H2", "m", "offline")

    monkeypatch.setattr(metrics, "is_serving", lambda _port: True)
    monkeypatch.setattr(metrics, "Control", Control)
    programs = ProgramStatus("superlink", 4, 5.0, 2, -9), ProgramStatus("keeper", None, 6.0)
    with locked(instance.folder):
        (instance.folder / "supervisor.json").write_text(Status(3, 1.0, programs).to_json())
        yield


@pytest.mark.usefixtures("flower", "run")
def test_each_metric_that_is_promised_is_told(instance: Instance) -> None:
    assert {name.split()[0] for name in told(instance)} == set(METRICS)


@pytest.mark.usefixtures("flower")
def test_what_is_told_of_a_server(instance: Instance) -> None:
    Register(instance.records).invite("H1", server="a:1", ca_pem=instance.ca_pem.read_text(), days=3)
    instance.flower_database.write_bytes(b"x" * 100)
    instance.flower_database.with_name("state.db-wal").write_bytes(b"x" * 11)
    found = told(instance)
    assert found["supervisor_up"] == 1
    assert (found["program_up program=superlink"], found["program_up program=keeper"]) == (1, 0)
    assert found["program_restarts_total program=superlink"] == 2
    assert found["certificate_days_left certificate=server"] == 396
    assert found["certificate_days_left certificate=authority"] == 3649
    assert found["hospitals state=invited"] == 1
    assert found["hospitals state=admitted"] == 0
    assert (found["nodes_registered"], found["nodes_online"]) == (3, 1)
    assert (found["node_online site=H1"], found["node_online site=H2"]) == (1, 0)
    assert found["database_bytes database=flower"] == 111
    assert found["database_bytes database=records"] > 0


def test_what_is_told_of_a_run(instance: Instance, run: RunFolder) -> None:
    found = told(instance)
    of_run = {name: value for name, value in found.items() if f"run={run.name}" in name}
    finished = of_run.pop("run_round_finished_timestamp_seconds run=tiny-1")
    assert finished == 1893553449.0
    assert of_run == {
        "run_attempts run=tiny-1": 2,
        "run_ledger_lines run=tiny-1": 4,
        "run_rounds_planned run=tiny-1": 8,
        "run_rounds_done run=tiny-1": 3,
        "run_stage arm=full run=tiny-1 stage=finetune": 1,
        "run_round run=tiny-1": 1,
        "run_round_seconds run=tiny-1": 4,
        **{f"run_round_status run=tiny-1 status={s}": s is RoundStatus.PARTIAL for s in RoundStatus},
        "run_sites run=tiny-1 status=accepted": 1,
        "run_sites run=tiny-1 status=refused": 1,
        "run_sites run=tiny-1 status=missing": 0,
        "run_sites run=tiny-1 status=failed": 0,
        "run_site_accepted run=tiny-1 site=H1": 1,
        "run_site_accepted run=tiny-1 site=H2": 0,
        "run_validation_loss run=tiny-1": 0.5,
        "run_validation_auc run=tiny-1": 0.75,
    }
    assert {s: found[f"runs state={s}"] for s in ("running", "waiting", "damaged")} == {
        "running": 1,
        "waiting": 0,
        "damaged": 0,
    }


def test_nothing_but_names_stands_in_a_label(instance: Instance, run: RunFolder) -> None:
    text = exposition(look(instance))
    assert "DOE" not in text
    labels = set(re.findall(r"(\w+)=\"", text))
    names = {"version", "server", "part", "program", "certificate", "database", "site"}
    assert labels <= names | {"state", "status", "run", "arm", "stage"}


def test_a_finished_run_is_counted_and_no_more(instance: Instance, run: RunFolder) -> None:
    run.conclude("finished", "well")
    found = told(instance)
    assert found["runs state=finished"] == 1
    assert not [name for name in found if "run=" in name]


def test_a_look_changes_no_file(instance: Instance, run: RunFolder) -> None:
    with run.ledger.open("ab") as stream:
        stream.write(b'{"half a line')  # as the coordinator is about to write it

    def files() -> dict[Path, Any]:
        return {path: path.read_bytes() for path in sorted(instance.folder.rglob("*")) if path.is_file()}

    before = files()
    assert told(instance)["run_ledger_lines run=tiny-1"] == 4
    assert files() == before


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("tls/server.pem", "certificates"),
        ("records.db", "hospitals"),
        ("runs/tiny-1/request.json", "run tiny-1"),
        ("runs/tiny-1/ledger.jsonl", "run tiny-1"),
        ("runs/tiny-1/progress.jsonl", "run tiny-1"),
    ],
)
@pytest.mark.parametrize("damage", [b"\x00\xff no such thing\n", b"[]\n", b'{"kind": 3}\n'])
def test_a_damaged_file_is_told_and_the_rest_goes_on(
    instance: Instance, run: RunFolder, file: str, part: str, damage: bytes
) -> None:
    (instance.folder / file).write_bytes(damage)
    found = told(instance)
    if not (file.endswith("progress.jsonl") and damage.startswith(b"\x00")):  # a line that is passed over
        assert found[f"readable part={part}"] == 0
    assert found["disk_free_bytes"] > 0
    assert found["readable part=runs"] == 1


def test_a_folder_that_went_away_ends_no_scrape(instance: Instance, tmp_path: Path) -> None:
    instance.folder.rename(tmp_path / "elsewhere")
    assert told(instance)["readable part=disk"] == 0


def test_a_superlink_that_does_not_answer_leaves_its_nodes_out(instance: Instance) -> None:
    found = told(instance)
    assert "nodes_online" not in found
    assert found["readable part=nodes"] == 1
