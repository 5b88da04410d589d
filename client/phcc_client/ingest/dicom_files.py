"""Which files of a folder are DICOM, and what their headers say: every file once, none left out in silence.

A file's name says nothing: exports have names with and without an extension, and a text file may be called
``.dcm``. What a file is stands in its first bytes. Links are not followed, so nothing outside the folder is read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, TypeAlias

from phcc_client.ingest.dicom_header import Header, HeaderError, read_header
from phcc_client.ingest.dicom_values import text
from phcc_model.errors import DatasetError

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""
Kind: TypeAlias = Literal["image", "drawing", "other", "skipped", "unreadable"]

_SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
_IMAGE_CLASSES = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(2|2\.1|2\.2|4|4\.1|4\.3|4\.4)")
"""CT and MR images: without pixels such a file is torn, and its series lacks a slice."""
_DIRECTORY = "1.2.840.10008.1.3.10"
_NAMED = ("dicomdir", "thumbs.db", "desktop.ini", "version", "autorun.inf")
_SIGNS = (
    (b"PK\x03\x04", "a zip archive: unpack it and ingest the folder"),
    (b"\x1f\x8b", "packed with gzip: unpack it first if it is DICOM"),
    (b"\x28\xb5\x2f\xfd", "packed with zstandard: unpack it first if it is DICOM"),
    (b"7z\xbc\xaf", "a 7-zip archive: unpack it and ingest the folder"),
    (b"Rar!", "a rar archive: unpack it and ingest the folder"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"MZ", "a program"),
    (b"NRRD", "an NRRD image: it is not DICOM"),
)
_WITHOUT_IMAGES = ("SR", "PR", "KO", "DOC", "REG", "RWV", "RTPLAN", "PLAN", "ECG", "HD", "AU", "MR", "CT")
"""Modalities that are named in the reason: the value is the file's, and could be anything."""
_MANY = 2000  # files from which several processes are worth their start
_BATCH = 64


@dataclass(frozen=True)
class Scanned:
    """One file and what became of it.

    Attributes:
        path: relative to the source.
        size: bytes.
        mtime_ns: time of change.
        kind: what it is; ``other`` is DICOM without an image (reports, presentation states).
        why: the reason, of ``other``, ``skipped`` and ``unreadable``; of an image, why it cannot be whole.
        header: what it says; None where it is not DICOM or cannot be read.
    """

    path: str
    size: int
    mtime_ns: int
    kind: Kind
    why: str = ""
    header: Header | None = None


@dataclass(frozen=True)
class Scan:
    """A folder as it was found.

    Attributes:
        source: the folder.
        files: all of it, sorted by path.
        reread: how many headers were read now; the others were known.
        links: links and devices, which are not followed.
    """

    source: Path
    files: tuple[Scanned, ...] = ()
    reread: int = 0
    links: tuple[str, ...] = field(default=())

    @property
    def skipped(self) -> Counter[str]:
        """Reason -> how many files were left out for it (not DICOM, hidden, no image, links)."""
        found = Counter(f.why for f in self.files if f.kind in ("skipped", "other"))
        if self.links:
            found["a link, which is not followed"] = len(self.links)
        return found

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """(file, why) of what is DICOM, or says so, and cannot be read."""
        return tuple((f.path, f.why) for f in self.files if f.kind == "unreadable")


def scan(
    source: Path,
    known: Mapping[str, Scanned] | None = None,
    progress: Progress | None = None,
    *,
    jobs: int = 1,
) -> Scan:
    """Read every header of a folder.

    Args:
        source: the folder as it was exported.
        known: what an earlier scan found, by path: a file of the same size and time of change is not read again.
        progress: told how far it is.
        jobs: processes that read at once; the result does not depend on it.

    Raises:
        DatasetError: the folder cannot be listed.
    """
    links: list[str] = []
    listed = list(_walk(source, "", links))
    found: dict[str, Scanned] = {}
    new: list[tuple[str, int, int]] = []
    for path, size, mtime_ns in listed:
        old = known.get(path) if known else None
        if old is not None and (old.size, old.mtime_ns) == (size, mtime_ns):
            found[path] = old
        else:
            new.append((path, size, mtime_ns))
    tell = progress or (lambda _what, _done, _total: None)
    tell("headers", len(found), len(listed))
    for one in _read_all(source, new, jobs):
        found[one.path] = one
        if len(found) % 100 == 0 or len(found) == len(listed):
            tell("headers", len(found), len(listed))
    return Scan(source, tuple(found[path] for path, _, _ in listed), len(new), tuple(links))


def scan_file(source: Path, path: str, size: int, mtime_ns: int) -> Scanned:
    """What one file is and says; whatever is wrong with it becomes its reason."""

    def result(kind: Kind, why: str = "", header: Header | None = None) -> Scanned:
        return Scanned(path, size, mtime_ns, kind, why, header)

    name = path.rpartition("/")[2]
    if name.startswith("."):
        return result("skipped", "a hidden file")
    try:
        with (source / path).open("rb") as file:
            start = file.read(132)
        why = _not_dicom(start, name, size)
        if why:
            return result("skipped", why)
        header = read_header(source / path)
    except OSError as error:
        return result("unreadable", f"it cannot be read ({error.strerror})")
    except HeaderError as error:
        certain = start[128:132] == b"DICM"
        return result("unreadable", str(error)) if certain else result("skipped", "not DICOM")
    kind, why = _kind_of(header, certain=start[128:132] == b"DICM")
    return result(kind, why, None if kind in ("skipped", "unreadable") else header)


def _walk(source: Path, below: str, links: list[str]) -> Iterator[tuple[str, int, int]]:
    """(path, size, time of change) of every file, in the order of their names; links are noted, not followed.

    Raises:
        DatasetError: the source itself cannot be listed.
    """
    try:
        with os.scandir(source / below) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if below:
            yield f"{below}/", -1, 0
            return
        raise DatasetError(
            f"cannot be listed ({error.strerror})",
            where=str(source),
            remedy="Check the folder and its permissions",
        ) from error
    for entry in inside:
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_symlink():
            links.append(path)
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(source, path, links)
        elif entry.is_file(follow_symlinks=False):
            state = entry.stat(follow_symlinks=False)
            yield path, state.st_size, state.st_mtime_ns
        else:
            links.append(path)


def _read_all(source: Path, new: Sequence[tuple[str, int, int]], jobs: int) -> Iterator[Scanned]:
    """Headers of many files; parsing is bound by the processor, so more threads of one process gain nothing."""
    if jobs < 2 or len(new) < _MANY:
        yield from (scan_file(source, *one) for one in new)
        return
    done = 0
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            work = [new[start : start + _BATCH] for start in range(0, len(new), _BATCH)]
            for results in pool.map(_scan_batch, [str(source)] * len(work), work):
                yield from results
                done += len(results)
    except (BrokenProcessPool, OSError):
        # A process was killed (memory, an impatient person): what is left is read here.
        yield from (scan_file(source, *one) for one in new[done:])


def _scan_batch(source: str, batch: Sequence[tuple[str, int, int]]) -> list[Scanned]:
    return [scan_file(Path(source), *one) for one in batch]


def _not_dicom(start: bytes, name: str, size: int) -> str:
    """Why a file is surely not DICOM, by its first bytes; empty where it may be."""
    if size < 0:
        return "a folder that cannot be listed"
    if size == 0:
        return "an empty file"
    if start[128:132] == b"DICM":
        return (
            "a DICOMDIR: what it lists is read from the files themselves" if name.lower() == _NAMED[0] else ""
        )
    if name.lower() in _NAMED:
        return "a file of the medium or the operating system"
    for sign, why in _SIGNS:
        if start.startswith(sign):
            return why
    # Without the preamble a data set begins with group 0008 (or 0002, a meta header), in either byte order.
    if start[:2] in (b"\x08\x00", b"\x00\x08", b"\x02\x00") and len(start) >= 16:
        return ""
    return "not DICOM" if b"\0" in start else "a text file"


def _kind_of(header: Header, *, certain: bool) -> tuple[Kind, str]:
    said = header.file
    sop = text(said, "SOPClassUID")
    if sop == _DIRECTORY:
        return "skipped", "a DICOMDIR: what it lists is read from the files themselves"
    if not any(
        text(said, name) for name in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
    ):
        return ("unreadable", "its header says nothing of an image") if certain else ("skipped", "not DICOM")
    if not header.pixels and not any(
        text(said, name) for name in ("PatientID", "StudyInstanceUID", "PatientName")
    ):
        return "unreadable", "its header ends before it says whose it is"
    if sop in _SEGMENTATION:
        return "drawing", ""
    if sop == _STRUCTURES or text(said, "Modality") == "RTSTRUCT":
        return "drawing", "an RTSTRUCT: contours are not read"
    modality = text(said, "Modality")
    if not header.pixels and not header.frames[0].get("Rows") and not _IMAGE_CLASSES.fullmatch(sop):
        return (
            "other",
            f"DICOM without an image ({modality if modality in _WITHOUT_IMAGES else 'another kind'})",
        )
    return "image", _why_not_whole(header)


def _why_not_whole(header: Header) -> str:
    """Why the pixels of an image cannot all be there, by the file's length alone."""
    if not header.pixels:
        return "it ends before its pixels"
    if header.length is not None and header.held < header.length:
        return f"it is truncated: it holds {header.held} of {header.length} bytes of its pixels"
    return ""
