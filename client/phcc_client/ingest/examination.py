"""What stands between a source's files and a site's folder: images in space, what their headers say, who it is.

Everything here may name a patient: it lives in memory, never in what is written into a site's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.case import Box
from phcc_client.imaging.grid import Grid
from phcc_model.config import Phase


@dataclass(frozen=True)
class SeriesFacts:
    """What a header says of one time point of one series, as it stands there; nothing is None but what is absent.

    Attributes:
        modality: DICOM's code; ``MR`` for what this method reads.
        body_part: BodyPartExamined, as written.
        description: SeriesDescription. May hold anything that a person typed, a name included.
        protocol: ProtocolName.
        sequence: SequenceName or PulseSequenceName.
        scanning_sequence: ScanningSequence's codes (SE, IR, GR, EP, RM).
        image_type: ImageType's values.
        contrast_agent: ContrastBolusAgent.
        contrast_start: when the contrast agent was given (ContrastBolusStartTime on the day of the acquisition).
        echo_time_ms, repetition_time_ms, inversion_time_ms, flip_angle_deg, b_value, field_strength_t: as named.
        manufacturer, model: of the scanner.
        series_number: the order in which the scanner numbered its series.
        temporal_position: number of this time point, counted from one, where the header numbers them.
        time_points: how many the series was divided into.
        trigger_time_ms: time within the dynamic series.
        acquired: the best clock that the header has for this time point (the scanner's own, no zone).
        clock: the attribute that `acquired` came from; empty where there is none.
        burned_in: why a name may be drawn into the pixels; empty where nothing speaks for it.
        derived: a reformation or a calculation (subtraction, projection, map), not what was measured.
    """

    modality: str = ""
    body_part: str = ""
    description: str = ""
    protocol: str = ""
    sequence: str = ""
    scanning_sequence: tuple[str, ...] = ()
    image_type: tuple[str, ...] = ()
    contrast_agent: str = ""
    contrast_start: datetime | None = None
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    b_value: float | None = None
    field_strength_t: float | None = None
    manufacturer: str = ""
    model: str = ""
    series_number: int | None = None
    temporal_position: int | None = None
    time_points: int = 1
    trigger_time_ms: float | None = None
    acquired: datetime | None = None
    clock: str = ""
    burned_in: str = ""
    derived: bool = False


class Image(Protocol):
    """One image in space whose voxels are read when asked for."""

    @property
    def grid(self) -> Grid:
        """Where its voxels lie, axes turned to (D, H, W), millimetres (z, y, x), LPS."""

    @property
    def where(self) -> str:
        """How an error names it, for the people at this hospital."""

    def read(self) -> NDArray[np.float32]:
        """Its voxels on `grid`, in the units that the file means.

        Raises:
            CaseError: the file is damaged, truncated, or of a kind that cannot be decoded.
        """


@dataclass(frozen=True)
class Series:
    """One time point of one series of one examination.

    Attributes:
        uid: SeriesInstanceUID.
        study: StudyInstanceUID.
        image: its voxels in space; None where `defect` says why there is no image to trust.
        facts: what the header says.
        files: how many files it came from.
        defect: why it cannot be used (slices missing or unequally spaced, cannot be decoded ...); empty where it
            can.
        remedy: what to do about the defect.
        remarks: what to know although it can be used (a slice twice and identical, 4 files unreadable ...).
        frame_of_reference: FrameOfReferenceUID; images of one are in one patient's space.
    """

    uid: str
    study: str
    image: Image | None
    facts: SeriesFacts
    files: int = 1
    defect: str = ""
    remedy: str = ""
    remarks: tuple[str, ...] = ()
    frame_of_reference: str = ""


@dataclass(frozen=True)
class Drawing:
    """A lesion as somebody drew it: a mask in space, or a box in the voxels of one phase's image.

    Attributes:
        number: the lesion's number within the patient, from one.
        mask: an image that is not zero inside the lesion; its grid says where it lies.
        box: the lesion in voxels of the phase's image *as stored* (before axes are turned); half open.
        phase: the phase it was drawn on, where that is known.
        series: the SeriesInstanceUID that it was drawn on, where that is known.
        boxes: a box for each phase, where the source has them (LLD-MMRI).
    """

    number: int = 1
    mask: Image | None = None
    box: Box | None = None
    phase: Phase | None = None
    series: str = ""
    boxes: Mapping[Phase, Box] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """One patient as found in a source.

    Attributes:
        patient: as the source names it (PatientID).
        series: in the order of acquisition as far as it is known; of one or more studies.
        drawings: segmentations found among the files.
        unreadable: (file, why) of what could not be read at all.
        identity: attribute name -> values that identify this patient, their study, people and places, as read:
            what the audit looks for in all that was written.
        paths: every file that belongs to it, relative to the source.
    """

    patient: str
    series: tuple[Series, ...]
    drawings: tuple[Drawing, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    identity: Mapping[str, frozenset[str]] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
