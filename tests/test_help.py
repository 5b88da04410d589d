"""Every command of the three programs says what it takes, with an example, in words that can be read."""

from __future__ import annotations

import importlib

import click
import pytest
import typer

PROGRAMS = ("phcc_client", "phcc_server", "phcc_simulation")


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for program in PROGRAMS:
        group = typer.main.get_command(importlib.import_module(f"{program}.cli").app)
        assert isinstance(group, click.Group)
        found += [(f"{program} {name}", command) for name, command in group.commands.items()]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_a_command_explains_itself(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=name))
    assert "Example:" in text
    assert "\\[" not in text
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            said = getattr(parameter, "help", None)
            assert said, f"{name}: nothing is said of {parameter.human_readable_name}"
            assert said.split()[0] in text
