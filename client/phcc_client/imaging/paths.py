"""Paths that come out of data: they may name a file within the data set, and nothing else."""

from __future__ import annotations

from pathlib import Path

from phcc_model.errors import CaseError, DatasetError


def inside(folder: Path, relative: str) -> Path:
    """A file of a data set by the name that its table or annotation gives.

    Args:
        folder: the data set's folder.
        relative: a path below it, as written in the data.

    Returns:
        The path below the folder; whether a file is there is not asked.

    Raises:
        CaseError: the name is empty or absolute, or leads out of the folder (``..``, a link to elsewhere).
    """
    if not relative or "\0" in relative:
        raise CaseError(f"{relative!r} is no path", remedy=_REMEDY)
    path = Path(relative)
    if path.is_absolute():
        raise CaseError(f"{relative!r} is an absolute path", where=str(folder), remedy=_REMEDY)
    try:
        leads_to = (folder / path).resolve()
        root = folder.resolve()
    except (OSError, RuntimeError) as error:
        raise CaseError(f"{relative!r} cannot be followed", where=str(folder), remedy=_REMEDY) from error
    if ".." in path.parts or not leads_to.is_relative_to(root):
        raise CaseError(f"{relative!r} leads out of the data set's folder", where=str(folder), remedy=_REMEDY)
    return folder / path


def folder_of(path: Path) -> Path:
    """A data set's folder, which must be there and hold something.

    Raises:
        DatasetError: it is missing, not a folder, empty, or cannot be listed.
    """
    if not path.exists():
        raise DatasetError("there is no such folder", where=str(path), remedy="Check data.path")
    if not path.is_dir():
        raise DatasetError(
            "is not a folder", where=str(path), remedy="Give the folder that holds the data set"
        )
    try:
        empty = next(path.iterdir(), None) is None
    except OSError as error:
        raise DatasetError(
            f"cannot be listed ({error.strerror})", where=str(path), remedy="Check the folder's permissions"
        ) from error
    if empty:
        raise DatasetError("the folder is empty", where=str(path), remedy="Check data.path")
    return path


_REMEDY = "Give paths relative to the data set's folder, of files within it"
