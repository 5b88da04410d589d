"""DICOM as a hospital has it, written with pydicom for the tests: series, patients, segmentations.

Nothing is random and nothing asks for the time: the same call writes the same bytes. UIDs come from names.
A place in space is given as the readers give it: a matrix from an index (d, h, w) to millimetres (z, y, x), LPS.
"""

from __future__ import annotations

import hashlib
import io
import zlib  # noqa: F401 - loaded after GDCM's own zlib, Python's frees the wrong memory
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

PLAIN_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
"""Transfer syntaxes that pydicom writes itself; every other is left to GDCM."""


def uid(*names: object) -> str:
    """A valid UID, always the same for the same names and always 44 characters long."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return f"2.25.{10**38 + int.from_bytes(digest[:15], 'big') % (2 * 10**38)}"


@dataclass(frozen=True)
class Place:
    """Where the voxels of an array (D, H, W) lie: D counts slices, H rows, W columns.

    Attributes:
        matrix: (3, 3), index (d, h, w) to millimetres (z, y, x), LPS.
        origin_mm: (z, y, x) of the first voxel.
    """

    matrix: NDArray[np.float64]
    origin_mm: NDArray[np.float64]

    @property
    def spacing_mm_dhw(self) -> NDArray[np.float64]:
        lengths: NDArray[np.float64] = np.linalg.norm(self.matrix, axis=0)
        return lengths

    def orientation(self) -> list[float]:
        """ImageOrientationPatient: cosines (x, y, z) along a row (columns count up), then along a column."""
        unit = self.matrix / self.spacing_mm_dhw
        return [float(value) for value in (*unit[::-1, 2], *unit[::-1, 1])]

    def position(self, index_d: float) -> list[float]:
        """ImagePositionPatient (x, y, z) of a slice."""
        return [float(value) for value in (self.origin_mm + self.matrix[:, 0] * index_d)[::-1]]


def place(
    spacing_mm_dhw: Sequence[float] = (3.0, 1.5, 1.5),
    origin_mm: Sequence[float] = (-40.0, -60.0, -70.0),
    *,
    axes: str = "axial",
    turned_deg: Sequence[float] = (0.0, 0.0, 0.0),
) -> Place:
    """A grid: axial, coronal or sagittal, then turned about the patient's z, y, x axes in that order."""
    columns = {
        "axial": (
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
        ),  # slices to the head, rows to the back, columns to the left
        "coronal": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
        "sagittal": ((0, 0, 1), (-1, 0, 0), (0, 1, 0)),
    }[axes]
    matrix = np.array(columns, dtype=np.float64).T
    for axis, angle in enumerate(np.deg2rad(turned_deg)):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return Place(
        matrix * np.asarray(spacing_mm_dhw, dtype=np.float64), np.asarray(origin_mm, dtype=np.float64)
    )


PerSlice = Callable[[int, int], Mapping[str, Any]]
"""(time point, slice), both from zero, to keyword -> value; a value of None takes the attribute away."""


def write_series(
    folder: Path,
    volume: NDArray[Any],
    *,
    at: Place | None = None,
    patient: str = "P1",
    study: str = "1",
    series: str = "1",
    description: str = "t1_vibe",
    tags: Mapping[str, Any] | None = None,
    per_slice: PerSlice | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
    multiframe: bool = False,
    names: Callable[[int], str] = "IM{:05d}".format,
    with_preamble: bool = True,
) -> list[Path]:
    """Write one series, one file a slice, or one enhanced multi-frame file.

    Args:
        folder: made if it is not there.
        volume: (D, H, W), or (T, D, H, W) for several time points in one series. int16 and uint16 as they are,
            anything else is rounded to uint16.
        at: where it lies; axial, 3 x 1.5 x 1.5 mm by default.
        patient: PatientID; the patient's name is made from it.
        study: with the patient, what the study's UID is made from.
        series: with the study, what the series' UID is made from, and its number where it is one.
        description: SeriesDescription.
        tags: keyword -> value for every file; None takes the attribute away.
        per_slice: further attributes of each slice; for an enhanced file, keyword -> value of its frame's
            functional groups (sequences).
        transfer_syntax: plain ones by pydicom, compressed ones by GDCM.
        multiframe: one Enhanced MR file.
        names: the n-th file's name, counted from zero: slices within time points.
        with_preamble: False writes the data set without its 128 bytes and DICM (classic, implicit little endian).

    Returns:
        The files, in the order of `volume`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voxels = volume[None] if volume.ndim == 3 else volume
    voxels = voxels if voxels.dtype in (np.int16, np.uint16) else np.rint(voxels).astype(np.uint16)
    base = _common(voxels, patient, study, series, description)
    at = at or place()
    if multiframe:
        _enhance(base, voxels, at, per_slice)
        _set(base, tags or {})
        path = folder / names(0)
        path.write_bytes(encoded(base, transfer_syntax, with_preamble=with_preamble))
        return [path]
    base.PixelSpacing = [float(at.spacing_mm_dhw[1]), float(at.spacing_mm_dhw[2])]
    base.SliceThickness = float(at.spacing_mm_dhw[0])
    base.ImageOrientationPatient = _short(at.orientation())
    _set(base, tags or {})
    paths = [folder / names(number) for number in range(voxels.shape[0] * voxels.shape[1])]
    if per_slice is None and with_preamble and transfer_syntax == ExplicitVRLittleEndian:
        _write_quickly(base, voxels, at, paths, (patient, study, series))
        return paths
    for number, path in enumerate(paths):
        time, index = divmod(number, voxels.shape[1])
        one = Dataset(base)
        _become_slice(one, number, voxels[time, index], at.position(index), (patient, study, series))
        _set(one, per_slice(time, index) if per_slice else {})
        path.write_bytes(encoded(one, transfer_syntax, with_preamble=with_preamble))
    return paths


PHASES = ("t1 pre contrast", "t1 arterial", "t1 portal venous", "t1 delayed")
"""How `write_patient` describes its series."""

SECONDS = (0, 80, 120, 240)
"""When they are acquired, after ten o'clock; the contrast agent is given after one minute."""


def write_patient(
    folder: Path,
    patient: str,
    phases: Mapping[str, NDArray[Any]] | None = None,
    *,
    at: Place | None = None,
    seconds: Sequence[float] = SECONDS,
    tags: Mapping[str, Any] | None = None,
    study: str = "1",
    multiframe: bool = False,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> dict[str, list[Path]]:
    """One MR liver examination, a series a phase, in folders ``<number>`` below `folder`.

    Args:
        folder: the patient's own.
        patient: PatientID.
        phases: series description -> (D, H, W); by default the four of `PHASES`, 8 x 24 x 20 voxels.
        at: where they lie.
        seconds: when each is acquired, after ten o'clock.
        tags: keyword -> value for every file.
        study: as for `write_series`.
        multiframe: enhanced files.
        transfer_syntax: as for `write_series`.

    Returns:
        Description -> files.
    """
    if phases is None:
        shape = (8, 24, 20)
        plain = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape) % 251 + len(patient)
        phases = {name: plain + np.uint16(60 * number) for number, name in enumerate(PHASES)}
    written = {}
    for number, (description, volume) in enumerate(phases.items()):
        clock = f"{36000 + int(seconds[number])}"
        time = f"{int(clock) // 3600:02d}{int(clock) // 60 % 60:02d}{int(clock) % 60:02d}.000000"
        own = {"AcquisitionTime": time, "ContentTime": time, "SeriesTime": time}
        if number:
            own |= {"ContrastBolusAgent": "Gadobutrol", "ContrastBolusStartTime": "100100"}
        written[description] = write_series(
            folder / f"{number + 1}",
            volume,
            at=at,
            patient=patient,
            study=study,
            series=str(number + 1),
            description=description,
            tags=own | dict(tags or {}),
            multiframe=multiframe,
            transfer_syntax=transfer_syntax,
        )
    return written


def write_seg(path: Path, mask: NDArray[np.bool_], sources: Sequence[Path], *, label: str = "Lesion") -> Path:
    """A DICOM SEG drawn on a series that `write_series` wrote (highdicom).

    Args:
        path: the file to write.
        mask: (D, H, W), one slice for each of `sources`; or (D, H, W, N) with N segments.
        sources: the series' files, in the order of the mask's slices.
        label: of the segments; a number is added where there are several.
    """
    import highdicom
    from pydicom import dcmread
    from pydicom.sr.coding import Code

    segments = 1 if mask.ndim == 3 else mask.shape[3]
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label if segments == 1 else f"{label} {number}",
            segmented_property_category=Code("49755003", "SCT", "Morphologically Abnormal Structure"),
            segmented_property_type=Code("4147007", "SCT", "Mass"),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, segments + 1)
    ]
    drawn = highdicom.seg.Segmentation(
        source_images=[dcmread(source) for source in sources],
        pixel_array=mask.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=uid("seg", path.name),
        series_number=900,
        sop_instance_uid=uid("seg", "instance", path.name),
        instance_number=1,
        manufacturer="Maker",
        manufacturer_model_name="Drawing",
        software_versions="1",
        device_serial_number="1",
    )
    _set(drawn, {"ContentDate": "20230406", "ContentTime": "120000"})
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.save_as(path)
    return path


def encoded(dataset: Dataset, transfer_syntax: str, *, with_preamble: bool = True) -> bytes:
    """A data set as a file's bytes; its PixelData are plain little-endian and are encoded here."""
    syntax = UID(transfer_syntax)
    plain = syntax if syntax in PLAIN_SYNTAXES else ExplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = plain
    out = io.BytesIO()
    if not with_preamble:
        dcmwrite(out, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        return out.getvalue()
    file = FileDataset("", Dataset(dataset), preamble=b"\0" * 128, file_meta=meta)
    if syntax == ExplicitVRBigEndian:
        file.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
    if syntax != plain:
        meta.TransferSyntaxUID = syntax
        frames, photometric = _compressed(dataset, syntax)
        file.PixelData = encapsulate(frames)
        file["PixelData"].is_undefined_length = True
        file.PhotometricInterpretation = photometric
    file["PixelData"].VR = "OB" if syntax != plain else "OW"
    dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()


def _compressed(dataset: Dataset, syntax: UID) -> tuple[list[bytes], str]:
    """GDCM encodes JPEG lossless, JPEG-LS, JPEG 2000 and RLE: frames one by one."""
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 * dataset.SamplesPerPixel
    frames = []
    for start in range(0, len(dataset.PixelData), size):
        writer = gdcm.ImageWriter()  # it owns the image and must outlive it
        image = writer.GetImage()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((dataset.Columns, dataset.Rows, 1))
        grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
        stored = (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation)
        image.SetPixelFormat(gdcm.PixelFormat(1, *stored))
        element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x10))
        element.SetByteStringValue(dataset.PixelData[start : start + size])
        image.SetDataElement(element)
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(image)
        if not change.Change():
            raise ValueError(f"GDCM does not write {syntax.name}")
        fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
        parts = [
            fragments.GetFragment(n).GetByteValue().GetBuffer()
            for n in range(fragments.GetNumberOfFragments())
        ]
        frames.append(b"".join(part.encode("utf-8", "surrogateescape") for part in parts))
    return frames, dataset.PhotometricInterpretation


def _become_slice(
    one: Dataset, number: int, pixels: NDArray[Any], position: Sequence[float], names: tuple[str, str, str]
) -> None:
    one.SOPInstanceUID = uid(*names, number)
    one.InstanceNumber = f"{number + 1:06d}"
    one.ImagePositionPatient = [_fixed(value) for value in position]
    one.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def _write_quickly(
    base: Dataset, voxels: NDArray[Any], at: Place, paths: Sequence[Path], names: tuple[str, str, str]
) -> None:
    """What differs between slices has a fixed length here: it is exchanged in the first slice's bytes."""
    pixels = voxels.reshape(-1, *voxels.shape[2:])
    _become_slice(base, 0, pixels[0], at.position(0), names)
    first = encoded(base, ExplicitVRLittleEndian)

    def changing(number: int) -> tuple[bytes, bytes, bytes]:
        position = "\\".join(_fixed(value) for value in at.position(number % voxels.shape[1]))
        return uid(*names, number).encode(), f"{number + 1:06d}".encode(), position.encode()

    instance, counted, placed = changing(0)
    number_at = first.index(b"\x20\x00\x13\x00IS\x06\x00" + counted) + 8
    place_at = first.index(b"\x20\x00\x32\x00DS") + 8
    assert first[place_at : place_at + len(placed)] == placed
    head = first[: len(first) - pixels[0].nbytes]
    for number, path in enumerate(paths):
        named, count, where = changing(number)
        own = bytearray(head.replace(instance, named))
        own[number_at : number_at + len(count)] = count
        own[place_at : place_at + len(where)] = where
        path.write_bytes(bytes(own) + pixels[number].astype(voxels.dtype.newbyteorder("<")).tobytes())


def _common(voxels: NDArray[Any], patient: str, study: str, series: str, description: str) -> Dataset:
    base = Dataset()
    base.SOPClassUID = MRImageStorage
    base.SOPInstanceUID = uid(patient, study, series, 0)
    base.PatientID, base.PatientName = patient, f"Name^{patient}"
    base.PatientBirthDate, base.PatientSex = "19600102", "O"
    base.StudyInstanceUID, base.SeriesInstanceUID = uid(patient, study), uid(patient, study, series)
    base.FrameOfReferenceUID = uid(patient, study, "frame")
    base.PositionReferenceIndicator = ""
    base.StudyID, base.AccessionNumber, base.ReferringPhysicianName = (
        study,
        f"A{study}-{patient}",
        "Ref^Erring",
    )
    base.StudyDate = base.SeriesDate = base.AcquisitionDate = base.ContentDate = "20230405"
    base.StudyTime = base.SeriesTime = base.AcquisitionTime = base.ContentTime = "100000.000000"
    base.Modality, base.Manufacturer, base.ManufacturerModelName = "MR", "SIEMENS", "Aera"
    base.InstitutionName, base.StationName = "St. Elsewhere", "MR1"
    base.BodyPartExamined, base.SeriesDescription, base.ProtocolName = "ABDOMEN", description, description
    base.SeriesNumber = int(series) if series.isdigit() else 1
    base.ScanningSequence, base.SequenceVariant, base.ScanOptions = "GR", "SP", "FS"
    base.MRAcquisitionType, base.MagneticFieldStrength = "3D", 1.5
    base.RepetitionTime, base.EchoTime, base.FlipAngle = 4.0, 2.0, 10.0
    base.EchoTrainLength, base.AcquisitionNumber, base.InstanceNumber = 1, 1, 1
    base.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    base.PatientPosition = "HFS"
    base.SamplesPerPixel, base.PhotometricInterpretation = 1, "MONOCHROME2"
    base.Rows, base.Columns = voxels.shape[2:]
    base.BitsAllocated = base.BitsStored = 16
    base.HighBit = 15
    base.PixelRepresentation = int(voxels.dtype == np.int16)
    return base


def _enhance(base: Dataset, voxels: NDArray[Any], at: Place, per_frame: PerSlice | None) -> None:
    base.SOPClassUID = EnhancedMRImageStorage
    base.NumberOfFrames = voxels.shape[0] * voxels.shape[1]
    base.PixelData = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
    base.AcquisitionDateTime = f"{base.AcquisitionDate}{base.AcquisitionTime}"
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [float(length) for length in at.spacing_mm_dhw[1:]]
    shared.PixelMeasuresSequence[0].SliceThickness = float(at.spacing_mm_dhw[0])
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = _short(at.orientation())
    base.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for time in range(voxels.shape[0]):
        for index in range(voxels.shape[1]):
            frame = Dataset()
            content = Dataset()
            content.DimensionIndexValues = [time + 1, index + 1]
            content.TemporalPositionIndex, content.InStackPositionNumber = time + 1, index + 1
            content.StackID = "1"
            content.FrameAcquisitionDateTime = f"20230405{100000 + 20 * time:06d}.000000"
            frame.FrameContentSequence = [content]
            frame.PlanePositionSequence = [Dataset()]
            frame.PlanePositionSequence[0].ImagePositionPatient = _short(at.position(index))
            _set(frame, per_frame(time, index) if per_frame else {})
            frames.append(frame)
    base.PerFrameFunctionalGroupsSequence = frames


def _set(dataset: Dataset, values: Mapping[str, Any]) -> None:
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def _fixed(value: float) -> str:
    return f"{round(value, 9) + 0.0:+.9e}"


def _short(values: Sequence[float]) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard has them."""
    rounded = [round(value, 12) + 0.0 for value in values]
    return [next(t for digits in range(16, 0, -1) if len(t := f"{v:.{digits}g}") <= 16) for v in rounded]
