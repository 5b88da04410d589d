"""Killed at any point, a full disk, two at once: what was there stays whole, and the next start goes on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hospital import Hospital

pytestmark = pytest.mark.process

PROGRAM = Path(sys.executable).with_name("phcc-client")
PATIENTS = 8


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(hospital: Hospital, site: Path) -> list[str]:
    words = [
        "ingest",
        str(hospital.export),
        "--into",
        str(site),
        "--patients",
        str(hospital.tables / "patients.csv"),
    ]
    return [str(PROGRAM), *words, "--registration", "off", "--jobs", "2"]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    made = Hospital(tmp_path_factory.mktemp("hospital"))
    for number in range(PATIENTS):
        made.patient(number, label=number % 2)
    assert made.table.exists()
    return made


def start(hospital: Hospital, folder: Path, key: Path | None = None) -> subprocess.Popen[str]:
    if key is not None:
        (folder / "site.private").mkdir(mode=0o700, parents=True)
        shutil.copy(key, folder / "site.private" / "key")
    return subprocess.Popen(
        command(hospital, folder / "site"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_as_at_a_terminal,
    )  # fmt: skip


def _as_at_a_terminal() -> None:
    """A shell's background jobs ignore interrupts, and so would whatever they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def whole(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = start(hospital, folder)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, out + err
    return folder


@pytest.mark.parametrize("patients", [0, 1, 4, PATIENTS])
def test_killed_and_started_again_gives_the_same_bytes(
    hospital: Hospital, whole: Path, tmp_path: Path, patients: int
) -> None:
    """Killed once so many patients have a record (none: while the first is made; all: at the end)."""
    first = start(hospital, tmp_path, whole / "site.private" / "key")
    records = tmp_path / "site" / "records"
    images = tmp_path / "site" / "images"
    until = time.monotonic() + 60
    while time.monotonic() < until and first.poll() is None:
        begun = len(list(images.glob("*/*.nii.gz"))) > 0
        if begun and len(list(records.glob("P-*.json"))) >= patients:
            break
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start(hospital, tmp_path)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, out + err
    assert tree(tmp_path / "site") == tree(whole / "site")


def test_a_full_disk_gives_one_line_and_what_was_there_stays(
    hospital: Hospital, whole: Path, tmp_path: Path
) -> None:
    """No file may grow beyond some kilobytes: what the operating system says is what it says of a full disk."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    (tmp_path / "site.private").mkdir(mode=0o700)
    shutil.copy(whole / "site.private" / "key", tmp_path / "site.private" / "key")
    done = subprocess.run(
        command(hospital, tmp_path / "site"), capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=small,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "Make room" in line
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 60_000]
    again = start(hospital, tmp_path)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, out + err
    assert tree(tmp_path / "site") == tree(whole / "site")


def test_a_second_ingest_into_the_same_site_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    first = start(hospital, tmp_path)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list((tmp_path / "site").glob("images/*/*.nii.gz")):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it holds the folder and takes its time
    try:
        second = start(hospital, tmp_path)
        _, refused = second.communicate(timeout=60)
    finally:
        first.send_signal(signal.SIGCONT)
        out, err = first.communicate(timeout=120)
    assert second.returncode == 1
    assert "another ingest into this site is running" in refused
    assert first.returncode == 0, out + err


def test_an_interrupt_says_that_it_goes_on(hospital: Hospital, tmp_path: Path) -> None:
    first = start(hospital, tmp_path)
    until = time.monotonic() + 60
    while time.monotonic() < until and not list((tmp_path / "site").glob("images/*/*.nii.gz")):
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command goes on from there" in err
