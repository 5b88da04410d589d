"""Logs as a person reads them."""

from __future__ import annotations

import time

import pytest

from phcc_model.errors import ConfigError
from phcc_server import log_files
from phcc_server.instance import Instance


def test_the_end_of_a_log_is_shown_printable(instance: Instance) -> None:
    (instance.logs / "superlink.log").write_bytes(b"one\n\x1b[92mtwo\x1b[0m \x1b[2J\nthree \xff\n")
    (instance.front / "access.log").write_text("")
    assert log_files.names(instance) == ("superlink", "access")
    assert log_files.tail(instance, "superlink", 2) == ["two ?[2J", "three \ufffd"]
    assert log_files.tail(instance, "superlink", 0) == []
    assert log_files.tail(instance, "access", 5) == []


@pytest.mark.parametrize("name", ["nothing", "../server", "/etc/hostname", ""])
def test_a_log_that_there_is_not_is_refused(instance: Instance, name: str) -> None:
    (instance.logs / "superlink.log").touch()
    with pytest.raises(ConfigError, match=r"there is no such log. There are: superlink"):
        log_files.tail(instance, name, 1)


def test_what_is_added_is_followed_through_an_emptying(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "POLL_S", 0.0)
    log = instance.logs / "superlink.log"
    log.write_text("old\n")
    lines = log_files.follow(instance, "superlink")
    adding = iter(["half", " a line\n", None, "new\n"])

    def add(_seconds: float) -> None:
        text = next(adding)
        with log.open("w" if text is None else "a") as file:
            file.write(text or "")

    monkeypatch.setattr(time, "sleep", add)
    assert next(lines) == "half a line"
    assert next(lines) == "new"
