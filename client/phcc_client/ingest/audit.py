"""The audit: is anything that identifies a patient in what was written?

Every byte of every file below a site's folder is searched, as it stands on the disk and unpacked, and the
names of files and folders too, for every value that the source had and that identifies: in any case of
letters, in parts (a surname, a first name, a line of an address), in other spellings (``Müller``,
``Mueller``; 3 May 1961, 1961-05-03, 03.05.1961), in UTF-8, Latin-1 and UTF-16, behind JSON's, HTML's and
URLs' escapes.

What it cannot see, and says so in its report where it can be counted: values of one or two characters;
numbers of fewer than six digits among measured numbers; in images, values so short that chance alone would
put them there (how short depends on how much there is to search); names that are also words of the program,
in its own sentences; what is drawn into pixels; what is encrypted, or hidden on purpose.

The values themselves are never written down. A report on paper names the attribute, not the value.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from phcc_client.ingest.audit_files import WINDOW, Damaged, Piece, pieces
from phcc_client.ingest.audit_search import Search
from phcc_client.ingest.audit_text import Place
from phcc_client.ingest.audit_values import Identity, sought_of, values_of
from phcc_model.errors import DatasetError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many files are done, and how many there are."""
_SHOWN = 20
_KEPT_PER_FILE = 50
_CHANCE_BITS = 7
_UNPACKED = 4


@dataclass(frozen=True)
class Finding:
    """A value that identifies, where it should not be.

    Attributes:
        file: relative to the site's folder. If the name of the file is the finding, it identifies.
        offset: of its first byte; within what was unpacked, where `inside` says so.
        attribute: where the value was read (``PatientName``).
        hint: its first letter and its length; not for paper.
        inside: what part of the file it is (``gzip``, ``the PNG's tEXt chunk``); empty for the file itself.
    """

    file: str
    offset: int
    attribute: str
    hint: str
    inside: str = ""


@dataclass(frozen=True)
class AuditReport:
    """What was searched, and what was found.

    Attributes:
        site: the folder.
        findings: in the order of the files.
        unreadable: (file, why) of what could not be searched.
        files, bytes_read: what was read; `bytes_searched` counts what was unpacked too.
        values: how many values were looked for, `spellings` in how many spellings.
        too_short, left_out: attribute -> values that were not looked for, see `audit_values.Identity`.
        not_in_images: how many spellings are so short that chance puts them into images of this amount.
        own_words: attribute -> how often a word of the program's own was found that is also such a value.
        seconds: that the search took, and
        setup_seconds: that it took to make it ready.
    """

    site: Path
    findings: tuple[Finding, ...]
    unreadable: tuple[tuple[str, str], ...]
    files: int
    bytes_read: int
    bytes_searched: int
    values: int
    spellings: int
    too_short: Mapping[str, int]
    left_out: Mapping[str, int]
    not_in_images: int
    own_words: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    setup_seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Everything could be searched, and nothing was found."""
        return not self.findings and not self.unreadable

    def for_paper(self) -> dict[str, object]:
        """What may be written into the site's folder: counts and attributes, no value and no name of a file."""
        found: dict[str, int] = {}
        for finding in self.findings:
            found[finding.attribute] = found.get(finding.attribute, 0) + 1
        return {
            "clean": self.clean,
            "found": dict(sorted(found.items())),
            "unreadable": len(self.unreadable),
            "files": self.files,
            "bytes": self.bytes_read,
            "values": self.values,
            "too_short": sum(self.too_short.values()),
            "left_out": sum(self.left_out.values()),
        }

    def lines(self) -> list[str]:
        """For the screen."""
        rate = self.bytes_searched / 1e6 / max(self.seconds, 1e-9)
        said = [
            f"Searched {self.files} files, {_size(self.bytes_read)} ({_size(self.bytes_searched)} unpacked), for "
            f"{self.values} values in {self.spellings} spellings: {self.seconds:.1f} s, {rate:.0f} MB/s "
            f"(and {self.setup_seconds:.1f} s to make it ready)"
        ]
        if self.too_short:
            said.append(f"Too short to be looked for: {_counted(self.too_short)}")
        if self.left_out:
            said.append(f"Not looked for, since they name nobody: {_counted(self.left_out)}")
        if self.not_in_images:
            said.append(
                f"Looked for in texts and names only, too short for images: {self.not_in_images} spellings"
            )
        if self.own_words:
            said.append(
                f"Also words of the program's own, not counted in its sentences: {_counted(self.own_words)}"
            )
        said += [f"{file} could not be searched: {why}" for file, why in self.unreadable[:_SHOWN]]
        for one in self.findings[:_SHOWN]:
            where = f" in {one.inside}" if one.inside else ""
            said.append(f"FOUND {one.attribute} {one.hint}: {one.file}, byte {one.offset}{where}")
        if len(self.findings) > _SHOWN:
            said.append(f"and {len(self.findings) - _SHOWN} more")
        return said


def audit(
    site: Path,
    identity: Mapping[str, Collection[str]] | Iterable[tuple[str, str, str]],
    progress: Progress | None = None,
    *,
    jobs: int = 1,
) -> AuditReport:
    """Search a site's folder for everything that identifies.

    Args:
        site: its folder; the private one beside it is not looked at.
        identity: attribute -> values, or (patient, attribute, value) of all patients, as they were read.
        progress: told how far it is.
        jobs: threads; the memory is a few times 16 MB for each.

    Raises:
        DatasetError: there is no such folder.
    """
    if not site.is_dir():
        raise DatasetError("there is no such folder", where=str(site), remedy="Name the site's folder")
    began = time.perf_counter()
    pairs = values_of(identity) if isinstance(identity, Mapping) else ((a, v) for _, a, v in identity)
    sought = sought_of(pairs)
    entries = list(_entries(site))
    sizes = [path.lstat().st_size for path in entries]
    search = Search(sought.sought, _needed_bits(sum(sizes), sought))
    ready = time.perf_counter()
    results = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for done, result in enumerate(pool.map(lambda path: _searched(path, site, search), entries), start=1):
            if progress is not None:
                progress("searching for names", done, len(entries))
            results.append(result)
    own: dict[str, int] = {}
    for result in results:
        for attribute, times in result.own_words.items():
            own[attribute] = own.get(attribute, 0) + times
    return AuditReport(
        site=site,
        findings=tuple(finding for result in results for finding in result.findings),
        unreadable=tuple(result.unreadable for result in results if result.unreadable is not None),
        files=sum(path.is_file() and not path.is_symlink() for path in entries),
        bytes_read=sum(sizes),
        bytes_searched=sum(result.searched for result in results),
        values=sought.values,
        spellings=len(sought.sought),
        too_short=sought.too_short,
        left_out=sought.left_out,
        not_in_images=search.too_weak,
        own_words=dict(sorted(own.items())),
        seconds=time.perf_counter() - ready,
        setup_seconds=ready - began,
    )


def must_be_clean(report: AuditReport) -> None:
    """Stop unless a site was searched whole and nothing was found.

    Raises:
        DatasetError: something that identifies was found, or something could not be searched.
    """
    if report.findings:
        attributes = sorted({finding.attribute for finding in report.findings})
        raise DatasetError(
            f"holds what identifies patients, in {len(report.findings)} places ({', '.join(attributes[:5])})",
            where=str(report.site),
            remedy="Give it to nobody. Correct what they come from (in the table, a centre needs a code instead "
            "of a name), delete the folder and ingest again",
        )
    if report.unreadable:
        file, why = report.unreadable[0]
        raise DatasetError(
            f"{len(report.unreadable)} files could not be searched for what identifies patients ({file}: {why})",
            where=str(report.site),
            remedy="Run phcc-client ingest again, which writes damaged files anew",
        )


@dataclass
class _Result:
    findings: list[Finding] = field(default_factory=list)
    own_words: dict[str, int] = field(default_factory=dict)
    searched: int = 0
    unreadable: tuple[str, str] | None = None


def _entries(site: Path) -> Iterator[Path]:
    """Everything below a folder, sorted; no link is followed."""
    for folder, folders, files in os.walk(site):
        folders.sort()
        for name in sorted([*files, *folders]):
            yield Path(folder) / name


def _searched(path: Path, site: Path, search: Search) -> _Result:
    result = _Result()
    name = path.relative_to(site).as_posix()
    shown = name.encode("utf-8", "replace").decode()
    whole = os.fsencode(name)
    _collect(result, search, shown, Piece(whole, 0, 0, len(whole), "text", "its name"), Place("name"))
    try:
        if path.is_symlink():
            target = os.fsencode(path.readlink())
            _collect(
                result, search, shown, Piece(target, 0, 0, len(target), "text", "the link"), Place("prose")
            )
            result.unreadable = (shown, "it is a link to somewhere else")
        elif path.is_file():
            place = _place(path)
            for piece in pieces(path):
                result.searched += piece.high - piece.low
                _collect(result, search, shown, piece, place)
        elif not path.is_dir():
            result.unreadable = (shown, "it is neither a file nor a folder")
    except Damaged as error:
        result.unreadable = (shown, str(error))
    except OSError as error:
        result.unreadable = (shown, str(error.strerror))
    return result


def _collect(result: _Result, search: Search, name: str, piece: Piece, place: Place) -> None:
    for sought, offset, ours in search.hits(piece, place):
        if ours:
            result.own_words[sought.attribute] = result.own_words.get(sought.attribute, 0) + 1
        elif len(result.findings) < _KEPT_PER_FILE:
            found = Finding(name, offset, sought.attribute, sought.hint, piece.inside)
            if found not in result.findings:
                result.findings.append(found)


def _place(path: Path) -> Place:
    kind = {".json": "json", ".jsonl": "json", ".csv": "table"}.get(path.suffix.lower(), "prose")
    if kind != "table":
        return Place(kind)
    with path.open("rb") as file:
        header = file.readline(1 << 16).decode("utf-8", "replace")
    return Place(kind, tuple(column.strip().strip('"').lower() for column in header.split(",")))


def _needed_bits(on_disk: int, identity: Identity) -> float:
    """How much a value must say so that chance does not put it into this many bytes, with 1 : 2^7."""
    return (
        math.log2(max(on_disk * _UNPACKED, WINDOW)) + math.log2(4 * len(identity.sought) + 2) + _CHANCE_BITS
    )


def _counted(counts: Mapping[str, int]) -> str:
    shown = [f"{attribute} {number}" for attribute, number in sorted(counts.items())]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more attributes" if len(shown) > 12 else "")


def _size(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
