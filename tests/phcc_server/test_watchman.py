"""What the front door refused is added up, bounded, and cannot be altered unnoticed."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phcc_model.errors import StorageError
from phcc_server.front_door import ACCESS_LOG
from phcc_server.instance import Instance
from phcc_server.watchman import EVERY_S, MOST_KINDS, REFUSALS, Watchman, last_refusals, refusals


def knock(instance: Instance, path: str, status: int, address: str = "203.0.113.9", times: int = 1) -> None:
    log = instance.folder / ACCESS_LOG
    line = json.dumps({"time": "now", "address": address, "path": path, "status": str(status)})
    with log.open("a") as file:
        file.write((line + "\n") * times)


def test_what_was_refused_is_added_up_and_what_passed_is_not(instance: Instance) -> None:
    watchman = Watchman(instance)
    knock(instance, "/v1/fleet/pull-messages", 200, times=50)
    knock(instance, "/v1/control/list-runs", 403, times=1000)
    knock(instance, "/v1/fleet/pull-messages", 401, times=3)
    assert watchman.look(0.0) == 0
    assert watchman.look(EVERY_S) == 2
    found = {(r["path"], r["status"]): r["times"] for r in refusals(instance)}
    assert found == {("/v1/control/list-runs", 403): 1000, ("/v1/fleet/pull-messages", 401): 3}
    assert watchman.look(2 * EVERY_S) == 0
    assert "refused 1000 x 403 /v1/control/list-runs from 203.0.113.9" in last_refusals(instance, 5)[0]


def test_a_new_watchman_does_not_count_twice(instance: Instance) -> None:
    knock(instance, "/", 403)
    assert Watchman(instance).write_down() == 0
    later = Watchman(instance)
    later.look(0.0)
    assert later.look(EVERY_S) == 0


def test_a_log_that_is_begun_anew_and_a_line_half_written(instance: Instance) -> None:
    watchman, log = Watchman(instance), instance.folder / ACCESS_LOG
    knock(instance, "/a", 403, times=5)
    watchman.look(0.0)
    log.write_text("")
    knock(instance, "/b", 403)
    with log.open("a") as file:
        file.write('{"time": "now", "addr')
    watchman.look(1.0)
    assert watchman.write_down() == 2


def test_endless_variants_leave_few_lines(instance: Instance) -> None:
    watchman = Watchman(instance)
    for number in range(3 * MOST_KINDS):
        knock(instance, f"/probe-{number}", 403)
    watchman.look(0.0)
    assert watchman.write_down() == MOST_KINDS + 1
    assert max(r["times"] for r in refusals(instance)) == 2 * MOST_KINDS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.text(max_size=200))
def test_no_line_of_the_log_breaks_the_watchman(instance: Instance, text: str) -> None:
    watchman = Watchman(instance)
    with (instance.folder / ACCESS_LOG).open("a", encoding="utf-8", errors="replace") as file:
        file.write(text.replace("\n", " ") + "\n")
    watchman.look(0.0)
    watchman.write_down()


def test_an_altered_record_is_found(instance: Instance) -> None:
    watchman = Watchman(instance)
    knock(instance, "/v1/control/start-run", 403)
    watchman.look(0.0)
    watchman.write_down()
    path = instance.folder / REFUSALS
    path.write_text(path.read_text().replace("start-run", "something"))
    with pytest.raises(StorageError):
        refusals(instance)
    assert "does not hold" in last_refusals(instance, 5)[0]
