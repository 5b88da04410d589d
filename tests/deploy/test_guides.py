"""Every command of ours that stands in a guide exists, with the options that it is given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from phcc_client.cli import app as client_app
from phcc_server.cli import app as server_app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DEPLOY.glob("*.md"))]
OTHERS = [
    path
    for path in sorted(DEPLOY.rglob("*"))
    if path.suffix in (".yaml", ".service", ".Dockerfile", ".tpl") and path.is_file()
]
APPS = {"phcc-server": typer.main.get_command(server_app), "phcc-client": typer.main.get_command(client_app)}
_CALL = re.compile(
    r"(?<![\w.-])(?:/opt/phcc/venv/bin/)?(phcc-(?:server|client))[ \t]+([a-z][a-z-]*)\b([^|;<>`#&)\n]*)"
)


def calls(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Program, command and options of each call."""
    joined = text.replace("\\\n", " ").replace('", "', " ")
    for program, command, rest in _CALL.findall(joined):
        yield program, command, re.findall(r"(?<!\S)--?[a-z][a-z-]*", re.sub(r"\"[^\"]*\"|'[^']*'", "", rest))


def code(page: str) -> str:
    """A page's code: its blocks, and what stands between backticks."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*blocks, *inline])


def check(text: str) -> int:
    found = list(calls(text))
    for program, command, options in found:
        group = APPS[program]
        assert isinstance(group, click.Group | typer.core.TyperGroup)
        assert command in group.commands, f"there is no {program} {command}"
        known = {name for parameter in group.commands[command].params for name in parameter.opts}
        assert set(options) <= known | {"--help"}, f"{program} {command}: {set(options) - known}"
    return len(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_guide_calls_commands_that_there_are(page: Path) -> None:
    check(code(page.read_text()))


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_so_do_the_files_themselves(path: Path) -> None:
    check(path.read_text())


def test_the_guides_show_each_side_at_work() -> None:
    said = {(program, command) for page in PAGES for program, command, _ in calls(code(page.read_text()))}
    assert {c for p, c in said if p == "phcc-server"} >= {
        "init",
        "invite",
        "admit",
        "revoke",
        "submit",
        "watch",
    }
    assert {c for p, c in said if p == "phcc-client"} >= {
        "init",
        "doctor",
        "show",
        "approve",
        "outbox",
        "set",
    }


@pytest.mark.parametrize(
    "line",
    ["phcc-server invent st-mary", "phcc-client approve hospital --everything", '["phcc-client", "begin"]'],
)
def test_a_command_that_there_is_not_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError):
        check(line)


def test_links_of_the_guides_lead_somewhere() -> None:
    for page in DEPLOY.glob("*.md"):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_that_the_guides_name_are_there() -> None:
    for page in DEPLOY.glob("*.md"):
        named = re.findall(r"(?<!/)\b(?:compose|helm|monitoring|proxy|systemd)/[\w./-]*\w", page.read_text())
        for name in named:
            assert (DEPLOY / name).exists(), f"{page.name}: {name}"


def test_what_keeps_a_promise_of_the_security_page_is_there() -> None:
    places = [
        ROOT / place for place in ("", "server/phcc_server", "client/phcc_client", "phcc_model/contract")
    ]
    for name in re.findall(r"`([\w./-]+\.py)", (ROOT / "SECURITY.md").read_text()):
        assert any((place / name).is_file() for place in places), name
