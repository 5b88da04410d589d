"""Rats' liver curves as tokens over time, each with a label: was a drug given that inhibits hepatic uptake?

Gadoxetate DCE-MRI of rats at several centres and field strengths (TRISTAN, CC BY 4.0). Of the six drugs given
(Melillo et al., Pharmaceutics 2023;15:896) rifampicin and ciclosporin are the strong inhibitors of its uptake
into hepatocytes. The others (asunaprevir, bosentan, ketoconazole, pioglitazone) count, with placebo, as not
inhibiting [R]: where weak inhibitors or ketoconazole count too, the question is another and a harder one. A
substance that is on neither list has no label, and its scan is set aside with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phcc_model.errors import CaseError, DatasetError
from phcc_simulation.real.dmr import TIME, Recording, find_dmr, read_dmr

INHIBITORS = frozenset({"rifampicin", "rifampin", "cyclosporine", "ciclosporin", "cyclosporin"})
OTHERS = frozenset(
    {"placebo", "vehicle", "saline", "control", "asunaprevir", "bosentan", "ketoconazole", "pioglitazone"}
)
ROI = "liver"
MINUTES = tuple(range(23))
"""When the tokens are, in minutes after the bolus arrives: the shipped curves go on for 22.7."""

_LEAST_TOKENS = 10
"""[R] A curve that shows less than this many minutes does not show the uptake."""


@dataclass(frozen=True)
class Scans:
    """Scans of one or several centres, in order of their names.

    Axes: n scans, t tokens (`MINUTES`).

    Attributes:
        name: file, subject and visit.
        animal: centre and subject: one name in two files of a centre is one animal, at two centres two.
        centre: of each scan.
        ratio_nt: signal over its pre-contrast mean; 1 where the token is missing.
        present_nt: whether the curve reaches this token.
        label_n: 1 where an inhibitor was given, 0 elsewhere.
    """

    name: tuple[str, ...]
    animal: tuple[str, ...]
    centre: tuple[str, ...]
    ratio_nt: NDArray[np.float64]
    present_nt: NDArray[np.bool_]
    label_n: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def centres(self) -> tuple[str, ...]:
        """Their names, each once."""
        return tuple(sorted(set(self.centre)))

    @property
    def animals(self) -> int:
        """How many there are."""
        return len(set(self.animal))

    def of(self, centres: Collection[str]) -> Scans:
        """The scans of these centres."""
        return self.take([i for i, centre in enumerate(self.centre) if centre in centres])

    def take(self, at: Sequence[int] | NDArray[np.intp]) -> Scans:
        """The scans at these positions."""
        names, animals, centres = (
            tuple(names[i] for i in at) for names in (self.name, self.animal, self.centre)
        )
        at_k = np.asarray(at, dtype=np.intp)
        return Scans(names, animals, centres, self.ratio_nt[at_k], self.present_nt[at_k], self.label_n[at_k])


@dataclass(frozen=True)
class Rats:
    """All that a folder holds.

    Attributes:
        scans: those that can be used.
        aside: name and reason of every other.
        files: every archive that was read.
    """

    scans: Scans
    aside: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]


def read_rats(folders: Sequence[Path]) -> Rats:
    """Read every archive below some folders.

    Raises:
        DatasetError: there is none, one cannot be read, a scan stands there twice, or no scan is left.
    """
    files = [path for folder in folders for path in find_dmr(folder)]
    rows: dict[str, tuple[str, str, int, NDArray[np.float64], NDArray[np.bool_]]] = {}
    aside = []
    for recording in (recording for path in files for recording in read_dmr(path)):
        if recording.name in rows:
            raise DatasetError(
                "this scan is there twice", where=recording.name, remedy="Remove one of the files"
            )
        try:
            centre = _parameter(recording, "center")
            label = label_of(_parameter(recording, "substance"))
            ratio_t, present_t = tokens_of(recording)
        except CaseError as error:
            aside.append((recording.name, error.what))
            continue
        rows[recording.name] = (f"{centre}/{recording.subject}", centre, label, ratio_t, present_t)
    if not rows:
        raise DatasetError(
            f"none of {len(aside)} scans can be used (the first: {aside[0][1]})"
            if aside
            else "holds no scan",
            where=", ".join(map(str, folders)),
            remedy="Give the folder of the rats' curves",
        )
    names = tuple(sorted(rows))
    animal, centre_n, label_n, ratio_nt, present_nt = zip(*(rows[name] for name in names), strict=True)
    scans = Scans(
        names, animal, centre_n, np.stack(ratio_nt), np.stack(present_nt), np.array(label_n, dtype=np.int8)
    )
    return Rats(scans, tuple(aside), tuple(files))


def label_of(substance: str) -> int:
    """1 where the substance inhibits uptake, 0 where it does not; doses and remarks after its name do not matter.

    Raises:
        CaseError: nothing is known of it.
    """
    words = set(re.findall(r"[a-z]+", substance.lower()))
    if words & INHIBITORS:
        return 1
    if words & OTHERS:
        return 0
    raise CaseError(
        f"whether {substance or 'nothing'!r} inhibits uptake is not known", remedy="Leave it aside"
    )


def tokens_of(recording: Recording) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The liver's curve at `MINUTES` after the bolus arrived, over its pre-contrast mean.

    Values between two samples are interpolated linearly; beyond the first and last sample a token is missing.

    Returns:
        Ratio [t], 1 where missing, and whether it is there [t].

    Raises:
        CaseError: the curve, its times, or its number of pre-contrast samples cannot be used.
    """
    if TIME not in recording.signals or ROI not in recording.signals:
        raise CaseError(f"has no curve of the {ROI}")
    time_k, signal_k = recording.signals[TIME], recording.signals[ROI]
    known_k = np.isfinite(time_k) & np.isfinite(signal_k)
    time_k, signal_k = time_k[known_k], signal_k[known_k]
    before = int(_number(recording, "n0"))
    if len(time_k) <= before or before < 1 or not (np.diff(time_k) > 0).all():
        raise CaseError(f"its {len(time_k)} samples do not rise in time past {before} before contrast")
    base = float(signal_k[:before].mean())
    if not base > 0.0:
        raise CaseError(f"its pre-contrast mean is {base:g}")
    at_t = _arrival(recording, time_k, before) + 60.0 * np.array(MINUTES)
    present_t = (at_t >= time_k[0]) & (at_t <= time_k[-1])
    if present_t.sum() < _LEAST_TOKENS:
        raise CaseError(f"its curve shows {int(present_t.sum())} minutes after contrast only")
    ratio_t = np.where(present_t, np.interp(at_t, time_k, signal_k / base), 1.0)
    if not (ratio_t > 0.0).all():
        raise CaseError("its signal is not positive throughout")
    return ratio_t, present_t


def _arrival(recording: Recording, time_k: NDArray[np.float64], before: int) -> float:
    """When the bolus arrives, in s: as the file says, or the first sample that is not pre-contrast."""
    if recording.parameters.get("BAT", ""):
        return _number(recording, "BAT")
    return float(time_k[before])


def _parameter(recording: Recording, name: str) -> str:
    value = recording.parameters.get(name, "")
    if not value:
        raise CaseError(f"its {name} is not given")
    return value


def _number(recording: Recording, name: str) -> float:
    text = _parameter(recording, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CaseError(f"its {name} is {text!r}, not a number")
    return value
