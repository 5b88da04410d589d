from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from phcc_client.imaging.aside import remove_leftovers, write_atomically
from phcc_model.errors import StorageError


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EROFS, "cannot be written")],
)
def test_a_disk_that_is_full_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"before")

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=what) as caught:
        write_atomically(path, b"after")
    assert caught.value.remedy
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_ends_half_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"before")
    program = (
        "import sys; from pathlib import Path; from phcc_client.imaging.aside import write_atomically\n"
        "try: write_atomically(Path(sys.argv[1]), bytes(100_000))\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.startswith(f"{path}: no space left on the disk. ")
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "x", b"")

    def full(**_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(StorageError, match="no space left on the disk"):
        write_atomically(tmp_path / "x", b"")


def test_what_somebody_is_writing_is_not_cleared_away(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".dead.part", tmp_path / ".alive.part"
    dead.write_text("half")
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_leftovers([tmp_path, tmp_path / "none"]) == 1
        assert list(tmp_path.iterdir()) == [alive]
    assert remove_leftovers([tmp_path]) == 1


def test_a_writer_whose_file_was_cleared_away_before_it_was_locked_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkstemp, []

    def quick(**options: Any) -> tuple[int, str]:
        handle, name = make(**options)
        made.append(name)
        if len(made) == 1:
            assert remove_leftovers([tmp_path]) == 1
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", quick)
    write_atomically(tmp_path / "file", b"content")
    assert len(made) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]
