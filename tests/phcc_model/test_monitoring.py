"""What is told of any folder, and over a real socket."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from scraping import samples

from phcc_model import monitoring
from phcc_model.monitoring import MACHINE, Measures, add_machine, serving
from phcc_model.supervised import STATUS, Status, locked

TOLD = MACHINE | {"things": "Things by kind", "done_total": "Things done"}


def told(measures: Measures) -> dict[str, float]:
    return samples(measures, "t")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_samples_of_one_metric_stand_together_whatever_their_order() -> None:
    measures = Measures("t", TOLD)
    measures.add("things", 1, kind="a")
    measures.add("done_total", 3)
    measures.add("things", 2, kind="b")
    assert told(measures) == {"things kind=a": 1.0, "things kind=b": 2.0, "done_total": 3.0}


def test_a_part_that_fails_is_left_out_whole_and_named() -> None:
    measures = Measures("t", TOLD)
    with measures.part("good"):
        measures.add("things", 1, kind="a")
    with measures.part("bad"):
        measures.add("things", 2, kind="b")
        raise OSError("damaged")
    assert told(measures) == {
        "things kind=a": 1.0,
        "readable part=good": 1.0,
        "readable part=bad": 0.0,
    }


def test_a_metric_that_has_no_meaning_is_not_told() -> None:
    with pytest.raises(KeyError):
        Measures("t", TOLD).add("surprise", 1)


def test_a_folder_that_nobody_serves(tmp_path: Path) -> None:
    measures = Measures("t", TOLD)
    add_machine(measures, tmp_path)
    found = told(measures)
    assert found.pop("disk_free_bytes") > 0
    assert found == {"supervisor_up": 0.0, "readable part=programs": 1.0, "readable part=disk": 1.0}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "started": 1, "programs": [3]}'])
def test_a_status_that_is_damaged_is_no_status(tmp_path: Path, damage: str) -> None:
    with locked(tmp_path):
        (tmp_path / STATUS).write_text(damage)
        measures = Measures("t", TOLD)
        add_machine(measures, tmp_path)
    assert told(measures)["readable part=programs"] == 0.0
    assert "supervisor_up" not in told(measures)


def test_a_whole_status_is_told(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / STATUS).write_text(Status(os.getpid(), 1.0).to_json())
        measures = Measures("t", TOLD)
        add_machine(measures, tmp_path)
    assert told(measures)["supervisor_up"] == 1.0


def test_every_scrape_looks_anew_and_the_port_closes_with_the_block() -> None:
    port, looks = free_port(), iter(range(1, 100))

    def look() -> Measures:
        measures = Measures("t", TOLD)
        measures.add("done_total", next(looks))
        return measures

    with serving(port, look) as tick:
        with pytest.raises(urllib.error.URLError):
            scraped(port)  # not before the supervisor has its folder
        tick()
        tick()
        assert "t_done_total 1.0" in scraped(port)
        assert "t_done_total 2.0" in scraped(port)
    with pytest.raises(urllib.error.URLError):
        scraped(port)


def test_it_listens_on_loopback_only() -> None:
    port = free_port()
    with serving(port, lambda: Measures("t", TOLD)) as tick:
        tick()
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening


def test_a_port_that_is_taken_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitoring, "AGAIN_S", 0.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with serving(port, lambda: Measures("t", TOLD)) as tick:
            tick()
            tick()
            assert capsys.readouterr().err == f"no metrics on port {port} yet: Address already in use\n"
            other.close()
            tick()
            assert scraped(port) == ""
