"""README.md's commands for coordinator and hospital are those that the newcomer gives, all of them."""

from __future__ import annotations

import re

import newcomer
import pytest

from phcc_client.cli import app as client
from phcc_server.cli import app as server

TEXT = newcomer.README.read_text(encoding="utf-8")


def test_every_line_of_the_readme_is_given_by_somebody() -> None:
    told = newcomer.story(TEXT)
    assert [line for _, line in told] != []
    assert {line for _, line in told} == {
        *newcomer.commands_below(newcomer.COORDINATOR, TEXT),
        *newcomer.commands_below(newcomer.HOSPITAL, TEXT),
    }


def test_every_command_of_the_readme_is_one() -> None:
    known = {
        f"{program} {command.name or getattr(command.callback, '__name__', '')}"
        for program, app in (("phcc-server", server), ("phcc-client", client))
        for command in app.registered_commands
    }
    assert {" ".join(line.split()[:2]) for _, line in newcomer.story(TEXT)} <= known


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("phcc-client doctor ", "phcc-client examine ", "0 lines 'phcc-client doctor'"),
        ("phcc-client doctor ", "phcc-client polish\nphcc-client doctor ", "line 'phcc-client polish'"),
        ("phcc-client doctor ", "phcc-client doctor\nphcc-client doctor ", "2 lines 'phcc-client doctor'"),
        (newcomer.HOSPITAL, "## Take part", "no block of commands"),
    ],
)
def test_a_readme_that_was_changed_is_noticed(old: str, new: str, why: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(newcomer.Fell, match=re.escape(why)):
        newcomer.story(TEXT.replace(old, new))
