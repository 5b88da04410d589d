"""One file with everything that a server needs to go on elsewhere, and the way back.

The archive holds settings, authority, secrets, kits, the two databases and the runs, as a running server leaves
them: databases through SQLite's own online copy, a run's files only once they stood still while they were
copied. ``MANIFEST.json`` comes first and lists every file's size and SHA-256: it proves that nothing was damaged
on the way, not who made the file. The authority's key is in it, so it is to be kept like the server itself.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.contract import keys
from phcc_model.errors import StorageError
from phcc_model.storage import storage_error
from phcc_server.instance import SETTINGS, Instance

MANIFEST = "MANIFEST.json"
LARGEST_MANIFEST = 50 * 2**20
PLAIN_FOLDERS = ("tls", "secrets", "kits")
ATTEMPTS, PAUSE_S = 20, 0.5
"""For the files of a run to stand still."""
GROWING = re.compile(r"(\.log|progress\.jsonl)$")
"""Files for people to read, which may grow while they are copied."""
BLOCK = 2**20
_REMEDY = "Choose another backup"


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a backup holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["phcc-backup/1"] = "phcc-backup/1"
    server: str
    made: AwareDatetime
    package: str
    files: dict[str, _File]


def backup(instance: Instance, file: Path) -> Manifest:
    """Write a backup; the server may be running.

    Args:
        instance: what to keep.
        file: ``.tar.gz`` to write, for its owner alone; one that is there is replaced once the new one is whole.

    Raises:
        StorageError: something cannot be read or written, or a run never stands still.
    """
    file = file.absolute()
    if file.is_relative_to(instance.folder):
        raise StorageError(
            "lies in the server's own folder", where=str(file), remedy="Choose a place on another disk"
        )
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".phcc-backup-") as scratch:
            stage = Path(scratch) / "stage"
            _gather(instance, stage)
            files = {str(path.relative_to(stage)): _described(path) for path in _files(stage)}
            manifest = Manifest(
                server=instance.settings.name,
                made=datetime.now(UTC),
                package=keys.package_version(),
                files=files,
            )
            archive = Path(scratch) / "archive"
            _pack(archive, stage, manifest)
            archive.replace(file)
    except OSError as error:
        raise storage_error(file, error) from error
    return manifest


def restore(file: Path, folder: Path) -> Instance:
    """Make an instance from a backup.

    Args:
        file: that `backup` wrote.
        folder: for the instance; new or empty.

    Raises:
        StorageError: the folder is not empty; the file is damaged, or holds what no backup holds.
        ConfigError: the settings in it are wrong.
    """
    folder = folder.absolute()
    if not file.is_file():
        raise StorageError("there is no such file", where=str(file), remedy="Check its path")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError("is not empty", where=str(folder), remedy="Choose a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".phcc-restore-") as scratch:
            stage = Path(scratch) / "stage"
            _unpack(file, stage)
            Instance.open(stage)
            stage.replace(folder)
    except OSError as error:
        raise storage_error(folder, error) from error
    return Instance.open(folder)


def _gather(instance: Instance, stage: Path) -> None:
    """Copy what belongs in a backup."""
    stage.mkdir(mode=0o700)
    shutil.copyfile(instance.folder / SETTINGS, stage / SETTINGS)
    for name in PLAIN_FOLDERS:
        shutil.copytree(instance.folder / name, stage / name)
    for database in (instance.records, instance.flower_database):
        if database.is_file():
            _copy_database(database, stage / database.relative_to(instance.folder))
    for run in sorted(instance.runs.iterdir()):
        if run.is_dir() and not run.is_symlink():
            _copy_when_still(run, stage / "runs" / run.name)


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with (
            contextlib.closing(sqlite3.connect(source)) as live,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise StorageError(
            f"cannot be copied ({error})", where=str(source), remedy="Stop the server and try again"
        ) from error


def _copy_when_still(source: Path, target: Path) -> None:
    """Copy a run's folder in a state that it was in: nothing that counts changed meanwhile."""
    for _ in range(ATTEMPTS):
        before = _seen(source)
        try:
            shutil.copytree(source, target, symlinks=True)
        except (FileNotFoundError, shutil.Error):  # a file was replaced meanwhile
            still = False
        else:
            still = _seen(source) == before
        if still:
            return
        shutil.rmtree(target, ignore_errors=True)
        time.sleep(PAUSE_S)
    raise StorageError(
        "changes faster than it can be copied", where=str(source), remedy="Stop the server and try again"
    )


def _seen(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found[path] = (0, 0) if GROWING.search(path.name) else (status.st_size, status.st_mtime_ns)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _described(path: Path) -> _File:
    with path.open("rb") as file:
        return _File(size=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _pack(archive: Path, stage: Path, manifest: Manifest) -> None:
    descriptor = os.open(archive, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
            text = manifest.model_dump_json(indent=1).encode()
            _add(tar, MANIFEST, io.BytesIO(text), len(text))
            for name, described in manifest.files.items():
                with (stage / name).open("rb") as content:
                    _add(tar, name, content, described.size)
        raw.flush()
        os.fsync(raw.fileno())


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, content)


def _unpack(file: Path, stage: Path) -> None:
    """Write an archive's files, each checked against the manifest; never outside of a folder.

    Raises:
        StorageError: anything else than the manifest says is in it, or less.
    """
    stage.mkdir(mode=0o700)
    try:
        with tarfile.open(file, "r:gz") as tar:
            manifest = _read_manifest(tar, file)
            missing = dict(manifest.files)
            while (member := tar.next()) is not None:
                described = missing.pop(member.name, None)
                if described is None or not member.isreg() or not _stays_inside(member.name):
                    raise StorageError(
                        f"holds {member.name[:80]!r}, which no backup holds", where=str(file), remedy=_REMEDY
                    )
                content = tar.extractfile(member)
                assert content is not None
                _write_checked(content, stage / member.name, described, file)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise StorageError(f"is damaged ({error})", where=str(file), remedy=_REMEDY) from error
    if missing:
        raise StorageError(f"lacks {next(iter(missing))}", where=str(file), remedy=_REMEDY)


def _read_manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    first = tar.next()
    content = tar.extractfile(first) if first is not None and first.isreg() else None
    if first is None or content is None or first.name != MANIFEST or first.size > LARGEST_MANIFEST:
        raise StorageError("is no backup of a server", where=str(file), remedy=_REMEDY)
    try:
        return Manifest.model_validate_json(content.read())
    except ValidationError as error:
        raise StorageError("is no backup that this release knows", where=str(file), remedy=_REMEDY) from error


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    known = (SETTINGS, "records.db", "flower/state.db")
    inside = len(path.parts) > 1 and path.parts[0] in (*PLAIN_FOLDERS, "runs")
    return not path.is_absolute() and ".." not in path.parts and (name in known or inside)


def _write_checked(content: IO[bytes], target: Path, described: _File, file: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        target.chmod(0o600)
        while size <= described.size and (block := content.read(BLOCK)):
            size += len(block)
            digest.update(block)
            out.write(block)
    if (size, digest.hexdigest()) != (described.size, described.sha256):
        name = target.name
        raise StorageError(f"is damaged ({name} is not what was put in)", where=str(file), remedy=_REMEDY)
