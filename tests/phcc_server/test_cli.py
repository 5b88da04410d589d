"""``phcc-server`` as its user meets it: what is said, and the exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from phcc_model.command_line import run_program
from phcc_model.contract.enrolment import Kit, fingerprint, make_admission, public_text, read_file, write_file
from phcc_model.errors import RoundError
from phcc_model.supervised import Status
from phcc_server import admin_commands, cli, superlink
from phcc_server.instance import Instance
from phcc_server.nodes import Node

KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
Run = Callable[..., str]


class FakeControl:
    """A SuperLink that answers, or does not."""

    answers = True
    known: dict[str, Node] = {}  # noqa: RUF012 - one SuperLink

    def __init__(self, instance: Instance) -> None:
        pass

    def __enter__(self) -> FakeControl:
        if not self.answers:
            raise RoundError("does not answer", where="SuperLink")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def nodes(self) -> Sequence[Node]:
        return tuple(self.known.values())

    def register(self, public_key: str, name: str) -> int:
        self.known[public_key] = Node(len(self.known), name, public_key, "registered")
        return len(self.known) - 1

    def unregister(self, node_id: int) -> None:
        self.known.pop(next(key for key, node in self.known.items() if node.node_id == node_id))


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> type[FakeControl]:
    monkeypatch.setattr(superlink, "Control", FakeControl)
    monkeypatch.setattr(FakeControl, "answers", True)
    FakeControl.known.clear()
    return FakeControl


@pytest.fixture
def run(
    instance: Instance,
    control: type[FakeControl],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command and return what it said; it must exit as expected."""
    monkeypatch.setenv("PHCC_SERVER_INSTANCE", str(instance.folder))

    def run_command(*words: str | Path, code: int = 0) -> str:
        capsys.readouterr()
        found = run_program(cli.app, [str(word) for word in words])
        said = capsys.readouterr()
        assert found == code, said
        assert "Traceback" not in said.err
        return said.err if code else said.out

    return run_command


def admission(instance: Instance, key: int = 0, old: int | None = None) -> Path:
    kit = read_file((instance.kits / "H1.kit.yaml").read_text(), Kit, "kit")
    made = make_admission(
        "H1", kit.invitation, kit.secret, KEYS[key], datetime.now(UTC), None if old is None else KEYS[old]
    )
    path = instance.folder.parent / f"admission{key}.yaml"
    path.write_text(write_file(made))
    return path


def print_of(key: int) -> str:
    return fingerprint(public_text(KEYS[key].public_key()))


def test_from_invitation_to_revocation(run: Run, instance: Instance, control: type[FakeControl]) -> None:
    said = run("invite", "H1", "--study", "demo", "--purpose", "to see")
    kit = read_file((instance.kits / "H1.kit.yaml").read_text(), Kit, "kit")
    assert (instance.kits / "H1.kit.yaml").stat().st_mode & 0o777 == 0o600
    assert kit.server == "phcc.example.org:9443"
    assert kit.ca_pem == instance.ca_pem.read_text()
    assert [(card.name, card.purpose) for card in kit.studies] == [("demo", "to see")]
    assert str(instance.kits / "H1.kit.yaml") in said
    assert "fingerprint" in said
    assert "H1" in run("hospitals")
    assert print_of(0) in run("admit", admission(instance))
    assert [node.name for node in control.known.values()] == ["H1"]
    assert "no change" in run("admit", admission(instance))
    assert "phcc-server retire H1" in run("admit", admission(instance, 1, old=0))
    assert len(control.known) == 2
    assert print_of(0) in run("retire", "H1")
    assert [fingerprint(key) for key in control.known] == [print_of(1)]
    assert "is revoked" in run("revoke", "H1")
    assert not control.known
    assert "no key had to be" in run("revoke", "H1")
    assert "a key that was revoked" in run("admit", admission(instance), code=1)
    assert "H1  admitted" not in run("hospitals")
    events = run("hospitals", "--events")
    for what in ("invited", "admitted", "rotated", "retired", "revoked", "refused"):
        assert f"  {what}  H1  " in events


def test_where_no_server_runs_it_waits_for_the_start(run: Run, instance: Instance) -> None:
    FakeControl.answers = False
    run("invite", "H1")
    assert "will take effect at the next start" in run("admit", admission(instance))
    assert "will take effect at the next start" in run("revoke", "H1")


def test_a_revocation_that_a_running_server_did_not_take_is_an_error(
    run: Run, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeControl.answers = False
    run("invite", "H1")
    monkeypatch.setattr(admin_commands, "read_status", lambda _: Status(1, 0.0))
    said = run("revoke", "H1", code=1)
    assert "in the register, but the SuperLink did not take it (SuperLink: does not answer)" in said
    FakeControl.answers = True
    run("revoke", "H1")


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["invite", "../x"], 1, "is no name for a hospital"),
        (["invite", "H1", "--study", "nothing.yaml"], 1, "nothing.yaml: there is no such file"),
        (["invite", "H1", "--study", "demo", "--purpose", "x" * 5000], 1, "--purpose: is too long for a kit"),
        (["admit", "nothing.yaml"], 1, "nothing.yaml: there is no such file"),
        (["admit", "."], 1, "cannot be read"),
        (["revoke", "H9"], 1, "H9: is not in the register"),
        (["logs", "nothing"], 1, "there is no such log"),
        (["restore", "nothing"], 1, "nothing: there is no such file"),
        (["init", "--address", "x:1"], 1, "there is a server here already"),
        (["init"], 2, "--address"),
        (["hospitals", "--instance", "/nowhere"], 1, "there is no server here"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    run: Run, words: list[str], code: int, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert match in run(*words, code=code)


def test_a_server_is_made_renewed_kept_and_restored(run: Run, tmp_path: Path) -> None:
    new = ("--instance", tmp_path / "new")
    assert "fingerprint" in run("init", "--address", "[::1]:20100", "--san", "phcc.internal", *new)
    assert "no hospital was invited yet" in run("hospitals", *new)
    assert "phcc.internal" in run("renew-certificate", *new)
    assert "keep it where only you can read it" in run("backup", tmp_path / "b.tar.gz", *new)
    assert "restored to" in run("restore", tmp_path / "b.tar.gz", "--instance", tmp_path / "again")
    assert Instance.open(tmp_path / "again").settings == Instance.open(tmp_path / "new").settings


def test_logs_are_shown(run: Run, instance: Instance) -> None:
    assert run("logs") == ""
    (instance.logs / "superlink.log").write_text("one\ntwo [red]\n")
    assert run("logs") == "superlink: two [red]\n"
    assert run("logs", "superlink", "-n", "1") == "two [red]\n"


@pytest.mark.parametrize("command", cli.app.registered_commands, ids=lambda command: str(command.name))
def test_every_command_shows_an_example(run: Run, command: object) -> None:
    name = getattr(command, "name", "")
    assert f"Example: phcc-server {name}" in run(str(name), "--help")
