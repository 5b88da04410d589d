"""The programs that a supervisor started, found by a mark in their environment even where it is gone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

MARK = "PHCC_SUPERVISED"
"""Environment variable by which a supervisor's programs are found again; its value is the folder."""
GRACE_S = 15.0
"""Between a program being asked to stop and being killed."""


def stop_marked(folder: Path) -> int:
    """Stop every process that bears the folder's mark, children of children included; how many there were.

    Flower puts some of its processes into sessions of their own, so a process group does not reach them.
    """
    found = len(_marked(folder))
    for stop, patience in ((psutil.Process.terminate, GRACE_S), (psutil.Process.kill, 5.0)):
        processes = _marked(folder)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                stop(process)
        psutil.wait_procs(processes, timeout=patience)
        if not _marked(folder):
            break
    return found


def _marked(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if process.pid != os.getpid() and not zombie and _bears_mark(process, folder):
                found.append(process)
    return found


def _bears_mark(process: psutil.Process, folder: Path) -> bool:
    """By its environment; one of our own user's that hides it (Flower's SuperExec does) by its arguments."""
    try:
        return process.environ().get(MARK) == str(folder)
    except psutil.AccessDenied:
        own = process.uids().real == os.getuid()
        return own and any(word.startswith(f"{folder}{os.sep}") for word in process.cmdline())
