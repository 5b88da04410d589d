"""Backup and restore: a server goes on elsewhere, and nothing that is damaged or foreign gets in."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from phcc_model.errors import StorageError
from phcc_server import backup as backups
from phcc_server.hospitals import Register
from phcc_server.instance import Instance


@pytest.fixture
def used(instance: Instance) -> Instance:
    """An instance with a hospital, a run, and a database that a SuperLink holds open."""
    Register(instance.records).invite("H1", server="h:1", ca_pem="PEM", days=14)
    run = instance.runs / "run-1" / "checkpoints" / "full"
    run.mkdir(parents=True)
    (run / "arm.json").write_text("{}")
    (instance.runs / "run-1" / "ledger.jsonl").write_text('{"a": 1}\n')
    (instance.runs / "run-1" / "link").symlink_to("/etc/hostname")
    return instance


def test_a_server_goes_on_elsewhere(used: Instance, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(used.flower_database)) as live:
        live.execute("PRAGMA journal_mode=WAL")
        live.execute("CREATE TABLE node (name TEXT)")
        live.execute("INSERT INTO node VALUES ('H1')")
        live.commit()  # it stands in the write-ahead log only: a copy of the file alone would lose it
        manifest = backups.backup(used, tmp_path / "b.tar.gz")
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o777 == 0o600
    assert "runs/run-1/link" not in manifest.files
    (tmp_path / "new").mkdir()
    restored = backups.restore(tmp_path / "b.tar.gz", tmp_path / "new")
    assert restored.settings == used.settings
    assert Register(restored.records).hospitals() == Register(used.records).hospitals()
    with contextlib.closing(sqlite3.connect(restored.flower_database)) as copy:
        assert copy.execute("SELECT name FROM node").fetchall() == [("H1",)]
    for name in ("tls/ca.key", "secrets/superexec.secret", "runs/run-1/ledger.jsonl", "server.yaml"):
        assert (restored.folder / name).read_bytes() == (used.folder / name).read_bytes()
    files = [path for path in restored.folder.rglob("*") if path.is_file()]
    for path in (restored.folder, *restored.folder.iterdir(), *files):
        assert path.stat().st_mode & 0o077 == 0, path
    assert {path.name for path in tmp_path.iterdir()} == {"b.tar.gz", "new", used.folder.name}


def test_a_run_is_copied_once_it_stands_still(
    used: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "PAUSE_S", 0.05)
    monkeypatch.setattr(backups, "ATTEMPTS", 3)
    record, looks, restless = used.runs / "run-1" / "ledger.jsonl", 0, 1
    seen = backups._seen

    def look(folder: Path) -> dict[Path, tuple[int, int]]:
        nonlocal looks
        looks += 1
        if looks % 2 == 0 and looks // 2 <= restless:  # after a copy
            with record.open("a") as file:
                file.write("{}\n")
        return seen(folder)

    monkeypatch.setattr(backups, "_seen", look)
    backups.backup(used, tmp_path / "b.tar.gz")
    assert looks == 4
    restless = 99
    with pytest.raises(StorageError, match="changes faster than it can be copied"):
        backups.backup(used, tmp_path / "c.tar.gz")
    assert not (tmp_path / "c.tar.gz").exists()


def test_a_backup_while_the_register_is_written_is_whole(used: Instance, tmp_path: Path) -> None:
    register, stop = Register(used.records), threading.Event()

    def write() -> None:
        for number in range(100):
            if stop.is_set():
                return
            register.invite(f"N{number}", server="h:1", ca_pem="PEM", days=1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backups.backup(used, tmp_path / "b.tar.gz")
            restored = backups.restore(tmp_path / "b.tar.gz", tmp_path / str(number))
            with contextlib.closing(sqlite3.connect(restored.records)) as copy:
                assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        stop.set()
        writer.join()


def test_what_is_not_empty_is_not_overwritten(used: Instance, tmp_path: Path) -> None:
    backups.backup(used, tmp_path / "b.tar.gz")
    with pytest.raises(StorageError, match="is not empty"):
        backups.restore(tmp_path / "b.tar.gz", used.folder)
    with pytest.raises(StorageError, match="there is no such file"):
        backups.restore(tmp_path / "nothing.tar.gz", tmp_path / "new")
    with pytest.raises(StorageError, match="lies in the server's own folder"):
        backups.backup(used, used.folder / "b.tar.gz")


def rewritten(source: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> Path:
    """A backup whose members were changed."""
    members = []
    with tarfile.open(source) as tar:
        for member in tar:
            content = tar.extractfile(member)
            members.append((member, content.read() if content else b""))
    change(members)
    target = source.with_name("changed.tar.gz")
    with tarfile.open(target, "w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target


def listed(members: list[tuple[tarfile.TarInfo, bytes]], name: str, data: bytes, **kind: object) -> None:
    """Add a member, and name it in the manifest too: its author controls both."""
    head, text = members[0]
    manifest = json.loads(text)
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    members[0] = (head, json.dumps(manifest).encode())
    member = tarfile.TarInfo(name)
    for key, value in kind.items():
        setattr(member, key, value)
    members.append((member, data))


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/tmp/evil",
        "runs/../../evil",
        "tls/../../evil",
        "evil",
        "logs/evil",
        ".",
        "runs",
        "front/x",
    ],
)
def test_a_member_outside_of_what_a_backup_holds_is_refused(
    used: Instance, tmp_path: Path, name: str
) -> None:
    backups.backup(used, tmp_path / "b.tar.gz")
    changed = rewritten(tmp_path / "b.tar.gz", lambda members: listed(members, name, b"x"))
    with pytest.raises(StorageError, match="which no backup holds"):
        backups.restore(changed, tmp_path / "new")
    assert not list(tmp_path.rglob("evil"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(used: Instance, tmp_path: Path, kind: bytes) -> None:
    backups.backup(used, tmp_path / "b.tar.gz")
    changed = rewritten(
        tmp_path / "b.tar.gz",
        lambda members: listed(members, "runs/link", b"", type=kind, linkname="/etc/hostname"),
    )
    with pytest.raises(StorageError, match="which no backup holds"):
        backups.restore(changed, tmp_path / "new")


def test_what_was_altered_is_lacking_or_stands_twice_is_refused(used: Instance, tmp_path: Path) -> None:
    backups.backup(used, tmp_path / "b.tar.gz")

    def alter(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[-1] = (members[-1][0], members[-1][1] + b" ")

    def lose(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.pop()

    def repeat(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.append(members[-1])

    def behead(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members.pop(0)

    def forge(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[0] = (members[0][0], b'{"format": "phcc-backup/9"}')

    for change, said in {
        alter: "is damaged .* is not what was put in",
        lose: "lacks ",
        repeat: "which no backup holds",
        behead: "is no backup of a server",
        forge: "is no backup that this release knows",
    }.items():
        changed = rewritten(tmp_path / "b.tar.gz", change)
        with pytest.raises(StorageError, match=said):
            backups.restore(changed, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_damage_on_the_way_is_found_wherever_it_is(used: Instance, tmp_path: Path) -> None:
    backups.backup(used, tmp_path / "b.tar.gz")
    whole = (tmp_path / "b.tar.gz").read_bytes()
    damaged = tmp_path / "d.tar.gz"
    variants = [whole[:cut] for cut in range(0, len(whole) - 20, len(whole) // 15)]
    for at in range(12, len(whole) - 20, len(whole) // 25):
        variants.append(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])  # noqa: PERF401
    variants += [gzip.compress(b"words"), b"words"]
    for variant in variants:
        damaged.write_bytes(variant)
        with pytest.raises(StorageError) as caught:
            backups.restore(damaged, tmp_path / "new")
        assert "\n" not in str(caught.value)
        assert str(damaged) in str(caught.value)
        assert not (tmp_path / "new").exists()
