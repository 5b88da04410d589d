"""What a person asks to be scored, and which lesion of whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from phcc_client.imaging.case import Box
from phcc_model.config import PHASES, Phase
from phcc_model.errors import ConfigError

Registration = Literal["rigid", "off", "deformable"]
Progress = Callable[[str, int, int], None]

_SIDE = re.compile(r"\s*(\d{1,6})\s*:\s*(\d{1,6})\s*")


@dataclass(frozen=True)
class Ask:
    """One patient, and how to read it.

    Attributes:
        source: a folder of DICOM, of NIfTI with ``cases.csv``, an ingested site, LLD-MMRI; or a prepared crop.
        patient: which one, where the source holds several.
        case: which lesion of a source that names its cases.
        lesion: which lesion of a DICOM patient, counted from one.
        examination: date or StudyInstanceUID, where the patient has several.
        mask: the lesion as NIfTI or DICOM SEG; replaces what the source says.
        box: the lesion as a box, in voxels of an image as stored.
        drawn_on: the phase that mask or box were drawn on.
        phases: the hospital's rules for series.
        registration: of the phases of a DICOM patient onto the lesion's phase.
    """

    source: Path
    patient: str | None = None
    case: str | None = None
    lesion: int | None = None
    examination: str = ""
    mask: Path | None = None
    box: Box | None = None
    drawn_on: Phase | None = None
    phases: Path | None = None
    registration: Registration = "rigid"

    def __post_init__(self) -> None:
        if self.mask is not None and self.box is not None:
            raise ConfigError(
                "a mask and a box are two drawings of one lesion", where="--mask, --box", remedy="Give one"
            )
        if self.mask is not None and not self.mask.is_file():
            raise ConfigError("there is no such file", where=str(self.mask), remedy="Correct --mask")
        if self.box is not None and self.drawn_on is None:
            raise ConfigError(
                "a box is in the voxels of one phase's image, and nothing says of which",
                where="--box",
                remedy="Name the phase with --drawn-on",
            )

    @property
    def plain(self) -> dict[str, object]:
        """The choices that alter the result, in plain values."""
        box = None if self.box is None else [*self.box.low_dhw, *self.box.high_dhw]
        return {
            "patient": self.patient,
            "case": self.case,
            "lesion": self.lesion,
            "examination": self.examination,
            "box": box,
            "drawn_on": self.drawn_on,
            "registration": self.registration,
        }


def box_of(text: str) -> Box:
    """A box as it is typed: ``z0:z1,y0:y1,x0:x1``, counted from zero, the second number not included.

    Raises:
        ConfigError: it is none.
    """
    sides = [_SIDE.fullmatch(part) for part in text.split(",")]
    found = [(int(side[1]), int(side[2])) for side in sides if side is not None]
    if len(found) != 3 or len(sides) != 3 or any(high <= low for low, high in found):
        raise ConfigError(
            f"{text!r} is no box",
            where="--box",
            remedy="Write slices, rows and columns as 10:24,96:140,100:152, the second number not included",
        )
    (z0, z1), (y0, y1), (x0, x1) = found
    return Box((z0, y0, x0), (z1, y1, x1))


def phase_of(word: str) -> Phase:
    """A phase by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    for phase in PHASES:
        if word.strip().lower() == phase:
            return phase  # type: ignore[return-value]
    raise ConfigError(
        f"{word!r} is no phase", where="--drawn-on", remedy=f"Choose one of {', '.join(PHASES)}"
    )


def registration_of(word: str) -> Registration:
    """A kind of registration by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if word not in ("rigid", "off", "deformable"):
        raise ConfigError(
            f"{word!r} is no kind of registration",
            where="--registration",
            remedy="Choose rigid, off or deformable",
        )
    return word  # type: ignore[return-value]
