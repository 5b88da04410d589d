"""A hospital's metrics: what they say of its folder, and of one whose files are damaged."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import tiny_study, train_order
from scraping import exposition, samples

from phcc_client.connection import TAIL
from phcc_client.home import ClientSettings, Home
from phcc_client.metrics import METRICS, PREFIX, WhatLeft, look
from phcc_client.outbox import Outbox
from phcc_client.policy import Policy
from phcc_client.spool import Spool
from phcc_model.contract.messages import Failure
from phcc_model.study_file import dump_study
from phcc_model.supervised import ProgramStatus, Status, locked

FAILED = Failure(package="0.1.0", site="H1", code="data", line="one line")
SMI = "#!/bin/sh\necho '0, 1024, 81920'\necho '1, 0, 81920'\n"


def told(home: Home) -> dict[str, float]:
    return samples(look(home), PREFIX)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.make(tmp_path / "home", ClientSettings(hospital="H1", server="pool.example:443"))


@pytest.fixture
def busy(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A hospital at work: connected, an order begun, two messages sent, a study approved, two GPUs."""
    (home.logs / "supernode.log").write_text("INFO: SuperNode ID: 12\n")
    order = train_order(tiny_study(), "pretrain", "H1")
    spool = Spool(home.spool)
    spool.report(spool.offer(order), 3, 8)
    outbox = Outbox(home.outbox)
    outbox.record(FAILED)
    outbox.record(FAILED)
    policy = Policy(home.folder)
    policy.decide(policy.see(dump_study(tiny_study())).digest, "approved")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(SMI)
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    running = ProgramStatus("supernode", 4, 5.0), ProgramStatus("worker", None, 6.0, 3, 1)
    with locked(home.folder):
        (home.folder / "supervisor.json").write_text(Status(3, 1.0, running).to_json())
        yield home


def test_each_metric_that_is_promised_is_told(busy: Home) -> None:
    assert {name.split()[0] for name in told(busy)} == set(METRICS)


def test_what_is_told_of_a_hospital_at_work(busy: Home) -> None:
    found = told(busy)
    assert found["connected"] == 1
    assert (found["program_up program=supernode"], found["program_up program=worker"]) == (1, 0)
    assert found["program_restarts_total program=worker"] == 3
    assert found["order_at_work"] == 1
    assert (found["order_state state=training"], found["order_state state=waiting"]) == (1, 0)
    assert (found["order_step"], found["order_steps"]) == (3, 8)
    assert found["order_round arm=full stage=pretrain"] == 1
    assert 0 <= found["order_age_seconds"] < 60
    assert found["outbox_messages_total kind=Failure"] == 2
    assert found["outbox_bytes_total kind=Failure"] == 0
    assert abs(found["outbox_last_timestamp_seconds"] - time.time()) < 60
    assert (found["studies standing=approved"], found["studies standing=new"]) == (1, 0)
    assert found["gpu_memory_used_bytes gpu=0"] == 2**30


def test_a_hospital_at_rest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = told(home)
    assert (found["connected"], found["order_at_work"], found["supervisor_up"]) == (0, 0, 0)
    assert not [name for name in found if name.startswith(("order_s", "outbox", "gpu"))]
    assert {value for name, value in found.items() if name.startswith("readable")} == {1}


def test_bytes_that_left_are_those_of_the_arrays(home: Home) -> None:
    order = train_order(tiny_study(), "pretrain", "H1")
    sent = Outbox(home.outbox).record(order)  # any message with arrays
    assert told(home)["outbox_bytes_total kind=TrainOrder"] == sent.bytes > 0


def test_sums_grow_with_the_record_and_begin_anew_with_a_new_one(home: Home) -> None:
    left = WhatLeft(home.outbox)
    outbox = Outbox(home.outbox)

    def messages() -> float:
        return samples(look(home, left), PREFIX)["outbox_messages_total kind=Failure"]

    outbox.record(FAILED)
    assert messages() == 1
    outbox.record(FAILED)
    with home.outbox.open("ab") as stream:
        stream.write(b'{"half')
    assert messages() == messages() == 2
    for path in home.folder.glob("outbox.jsonl*"):
        path.unlink()
    Outbox(home.outbox).record(FAILED)
    assert messages() == 1


def test_a_line_that_is_damaged_is_told_at_every_scrape(home: Home) -> None:
    left = WhatLeft(home.outbox)
    Outbox(home.outbox).record(FAILED)
    look(home, left)
    with home.outbox.open("ab") as stream:
        stream.write(b"what a full disk left\n")
    for _ in range(2):
        found = samples(look(home, left), PREFIX)
        assert found["readable part=outbox"] == 0
        assert "outbox_messages_total kind=Failure" not in found


def test_nothing_but_names_stands_in_a_label(busy: Home) -> None:
    text = exposition(look(busy))
    labels = set(re.findall(r"(\w+)=\"", text))
    assert labels <= {
        "version",
        "site",
        "part",
        "program",
        "state",
        "arm",
        "stage",
        "kind",
        "standing",
        "gpu",
    }


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("outbox.jsonl", "outbox"),
        ("policy/decisions.jsonl", "studies"),
        ("supervisor.json", "programs"),
    ],
)
@pytest.mark.parametrize("damage", [b"\x00\xff no such thing\n", b"[]\n", b'{"kind": 3}\n'])
def test_a_damaged_file_is_told_and_the_rest_goes_on(busy: Home, file: str, part: str, damage: bytes) -> None:
    (busy.folder / file).write_bytes(damage)
    found = told(busy)
    assert found[f"readable part={part}"] == 0
    assert found["disk_free_bytes"] > 0


def test_a_driver_that_fails_is_told(busy: Home, tmp_path: Path) -> None:
    (tmp_path / "programs" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert told(busy)["readable part=gpus"] == 0


@pytest.mark.parametrize("sign", ["Received successfully", "Sent successfully"])
def test_a_node_that_works_is_connected_however_long_its_log(busy: Home, sign: str) -> None:
    with (busy.logs / "supernode.log").open("a") as log:
        log.write(f"INFO: {sign}\n" * (TAIL // 10))
    assert told(busy)["connected"] == 1


def test_a_node_whose_log_was_just_shortened_is_still_connected(busy: Home) -> None:
    (busy.logs / "supernode.log").rename(busy.logs / "supernode.log.1")
    (busy.logs / "supernode.log").touch()
    assert told(busy)["connected"] == 1


def test_the_last_sign_counts(busy: Home) -> None:
    with (busy.logs / "supernode.log").open("a") as log:
        log.write("WARN: Connection attempt failed\n")
    assert told(busy)["connected"] == 0
