"""One file's header: what it says of the image, of each frame, and whom it identifies.

Read once and kept as text, so that it can be remembered: nothing here is converted, judged or compared.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from phcc_client.ingest.deidentify_pixels import burned_in
from phcc_client.ingest.deidentify_profile import identity_of
from phcc_client.ingest.dicom_mosaic import mosaic_frames
from phcc_client.ingest.dicom_values import Values, collect, sequence, shared, stored, text, texts

_OF_THE_SERIES = (
    "SpecificCharacterSet", "SOPClassUID", "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate",
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "BodyPartExamined",
    "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "ScanningSequence",
    "ContrastBolusAgent", "ContrastBolusStartTime", "RepetitionTime", "FlipAngle", "MagneticFieldStrength",
    "Manufacturer", "ManufacturerModelName", "SeriesNumber", "StudyDate", "SeriesDate", "SeriesTime",
    "BurnedInAnnotation", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "SliceThickness", "SpacingBetweenSlices", "SegmentationType",
)  # fmt: skip
_OF_A_FRAME = (
    "Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "ImageType",
    "ComplexImageComponent", "EchoTime", "EchoNumbers", "InversionTime", "DiffusionBValue", "InstanceNumber",
    "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionTimeOffset", "TriggerTime",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate", "ContentTime",
    "RescaleSlope", "RescaleIntercept", "SOPInstanceUID", "StackID", "ReferencedSegmentNumber",
)  # fmt: skip
_RENAMED = {
    "EffectiveEchoTime": "EchoTime", "InversionTimes": "InversionTime", "FrameType": "ImageType",
    "FrameAcquisitionDateTime": "AcquisitionDateTime", "FrameAcquisitionNumber": "AcquisitionNumber",
    "TemporalPositionIndex": "TemporalPositionIdentifier", "NominalCardiacTriggerDelayTime": "TriggerTime",
}  # fmt: skip
"""What enhanced images call by another name."""
_OF_GROUPS = (
    *_OF_A_FRAME, *_RENAMED, "SliceThickness", "SpacingBetweenSlices", "RepetitionTime", "FlipAngle", "StackID",
    "DiffusionDirectionality",
)  # fmt: skip
_B_VALUES = (Tag(0x0019, 0x100C), Tag(0x0043, 0x1039), Tag(0x2001, 0x1003), Tag(0x0065, 0x1009))
"""Where Siemens, GE, Philips and UIH keep the b-value of a classic image."""
_SHARED, _PER_FRAME = Tag(0x5200, 0x9229), Tag(0x5200, 0x9230)
_PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009})
_INFLATED = 256 << 20  # bytes of a deflated file that are read
_DEFERRED = 65536  # an element longer than this is not read: none that matters is
_MEMO: dict[tuple[str, int, str, bytes], tuple[tuple[str, tuple[str, ...]], ...]] = {}
_MEMO_SIZE = 20_000
_IDENTITIES: dict[tuple[tuple[str, tuple[str, ...]], ...], Mapping[str, tuple[str, ...]]] = {}
_MOST_IDENTITIES = 2000
"""Files of one series identify the same people and places: they share one mapping."""
# Its complaints quote the header that they are about: names would stand on the screen and in logs.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class HeaderError(ValueError):
    """A file cannot be made sense of; the message says how and quotes nothing."""


BURNED_IN = "burned in"
"""Not an attribute of DICOM's: why a name may be drawn into the pixels, where anything speaks for it."""


@dataclass(frozen=True)
class Header:
    """What one DICOM file says.

    Attributes:
        file: what is common to all of its frames, and usually to all files of its series.
        frames: what each frame says; one for a classic image.
        identity: what identifies somebody; SOPInstanceUID stands in the frames only.
        syntax: the transfer syntax's UID.
        pixels: what kind of pixel data there is: ``PixelData``, ``FloatPixelData``..., or empty.
        length: bytes of pixel data that are promised; None where the length is not stated (compressed).
        begins: where in the file they begin; 0 where the file must be inflated first.
        held: bytes that the file holds from there on.
        segments: (number, label, code of the category) of a segmentation.
        series: SeriesInstanceUIDs that it refers to.
    """

    file: Values
    frames: tuple[Values, ...]
    identity: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    syntax: str = ""
    pixels: str = ""
    length: int | None = None
    begins: int = 0
    held: int = 0
    segments: tuple[tuple[str, str, str], ...] = ()
    series: tuple[str, ...] = ()


def open_dataset(path: Path, file: BinaryIO, *, pixels: bool = False) -> FileDataset:
    """A file as pydicom reads it, with or without its pixels; large elements are left out.

    Raises:
        HeaderError: it cannot be made sense of.
    """
    with _as_ours():
        return dcmread(
            _inflated(path, file),
            stop_before_pixels=not pixels,
            force=True,
            defer_size=None if pixels else _DEFERRED,
        )


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """Whatever pydicom's parsers raise, when they read or when a value is asked for, as a reason of ours."""
    try:
        with warnings.catch_warnings():
            # What pydicom has to say of a header's form (padding, wrong lengths) helps nobody at a hospital.
            warnings.simplefilter("ignore")
            yield
    except (HeaderError, OSError):
        raise
    except RecursionError as error:
        raise HeaderError("its sequences are nested without end") from error
    except MemoryError as error:
        raise HeaderError("it promises more than memory can hold") from error
    except Exception as error:
        # What pydicom says of it may quote the header, and so a name.
        raise HeaderError(f"its header is damaged ({type(error).__name__})") from error


def read_header(path: Path) -> Header:
    """Everything that is wanted of one file's header.

    Raises:
        HeaderError: it cannot be made sense of.
        OSError: it cannot be read.
    """
    with _as_ours():
        return _read(path)


def _read(path: Path) -> Header:
    with path.open("rb") as file:
        dataset = open_dataset(path, file)
        if not len(dataset):
            raise HeaderError("it says nothing")
        syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or "")
        deflated = syntax == DeflatedExplicitVRLittleEndian
        kind, length, begins, held = ("PixelData", None, 0, 0) if deflated else _pixel_element(dataset, file)
    common = collect(dataset, _OF_THE_SERIES)
    if why := burned_in(dataset):
        common[BURNED_IN] = [why]
    own = collect(dataset, _OF_A_FRAME)
    if "DiffusionBValue" not in own:
        found = next((values for tag in _B_VALUES if (values := texts(dataset, tag))), None)
        own |= {"DiffusionBValue": found[:1]} if found else {}
    return Header(
        file=common,
        frames=mosaic_frames(path, dataset, own) or tuple(_frames(dataset, own)),
        identity=_identity(dataset),
        syntax=syntax,
        pixels=kind,
        length=length,
        begins=begins,
        held=held,
        segments=_segments(dataset),
        series=_series_referred_to(dataset),
    )


def _inflated(path: Path, file: BinaryIO) -> BinaryIO:
    """The file itself, or its content where all of it is deflated: within bounds, which pydicom does not keep."""
    start = file.read(132)
    file.seek(0)
    if start[128:] != b"DICM":
        return file
    file.seek(132)
    try:
        meta = read_file_meta_info(path)
    except Exception:  # noqa: BLE001 - the reading that follows says what is wrong with it
        file.seek(0)
        return file
    file.seek(0)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return file
    length = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    whole = file.read()
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(whole[length:], _INFLATED)
    except zlib.error as error:
        raise HeaderError("it is damaged: its deflated data do not inflate") from error
    if not inflater.eof and (inflater.unconsumed_tail or len(plain) >= _INFLATED):
        raise HeaderError(f"it inflates to more than {_INFLATED >> 20} MiB")
    if not inflater.eof:
        raise HeaderError("it is truncated: its deflated data end too early")
    deflate = zlib.compressobj(0, zlib.DEFLATED, -zlib.MAX_WBITS)
    return io.BytesIO(whole[:length] + deflate.compress(plain) + deflate.flush())


def _pixel_element(dataset: FileDataset, file: BinaryIO) -> tuple[str, int | None, int, int]:
    """Which pixel data follow, how many bytes they promise, where they begin, how many are there."""
    at = file.tell()
    head = file.read(12)
    size = file.seek(0, io.SEEK_END)
    implicit, little = dataset.is_implicit_VR, dataset.is_little_endian
    order: Literal["little", "big"] = "big" if little is False else "little"
    if len(head) < 8:
        return "", None, 0, 0
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
    if (group << 16 | element) not in _PIXELS:
        return "", None, 0, 0
    name = {0x10: "PixelData", 0x08: "FloatPixelData", 0x09: "DoubleFloatPixelData"}[element]
    head_size = 8 if implicit else 12
    length = int.from_bytes(head[head_size - 4 : head_size], order)
    begins = at + head_size
    return name, None if length == 0xFFFFFFFF else length, begins, max(size - begins, 0)


def _frames(dataset: Dataset, own: dict[str, Sequence[str]]) -> Iterator[Values]:
    """What each frame says: its functional groups over those that all share, over the file's own."""
    per_frame = sequence(dataset, _PER_FRAME)
    common: dict[str, Sequence[str]] = {}
    for item in sequence(dataset, _SHARED)[:1]:
        common |= _of_groups(item)
    if not per_frame:
        yield own | common
    for item in per_frame:
        yield own | common | _of_groups(item)


def _of_groups(item: Dataset, depth: int = 4) -> dict[str, Sequence[str]]:
    """The wanted values of one item of functional groups, whichever group they stand in."""
    found = {_RENAMED.get(k, k): v for k, v in collect(item, _OF_GROUPS).items()}
    for tag in sorted(item.keys()) if depth else ():
        if not tag.is_private and tag in _GROUPS:
            for inner in sequence(item, tag)[:1]:
                found = _of_groups(inner, depth - 1) | found
    return found


_GROUPS = frozenset(
    {
        0x00209111,  # FrameContentSequence
        0x00209113,  # PlanePositionSequence
        0x00209116,  # PlaneOrientationSequence
        0x00209310,  # TemporalPositionSequence
        0x00289110,  # PixelMeasuresSequence
        0x00289145,  # PixelValueTransformationSequence
        0x00189112,  # MRTimingAndRelatedParametersSequence
        0x00189114,  # MREchoSequence
        0x00189115,  # MRModifierSequence
        0x00189117,  # MRDiffusionSequence
        0x00189118,  # CardiacSynchronizationSequence
        0x00189226,  # MRImageFrameTypeSequence
        0x0062000A,  # SegmentIdentificationSequence
    }
)
"""Functional groups that hold something that is wanted."""


def _segments(dataset: Dataset) -> tuple[tuple[str, str, str], ...]:
    found = []
    for item in sequence(dataset, Tag(0x0062, 0x0002)):
        category = [
            code
            for entry in sequence(item, Tag(0x0062, 0x0003))
            for code in texts(entry, Tag(0x0008, 0x0100))
        ]
        said = collect(item, ("SegmentNumber", "SegmentLabel"))
        found.append((text(said, "SegmentNumber"), text(said, "SegmentLabel"), (category or [""])[0]))
    return tuple(found)


def _series_referred_to(dataset: Dataset) -> tuple[str, ...]:
    items = sequence(dataset, Tag(0x0008, 0x1115))
    return tuple(uid for item in items for uid in texts(item, Tag(0x0020, 0x000E))[:1])


def _identity(dataset: Dataset) -> Mapping[str, tuple[str, ...]]:
    """As `identity_of`, element by element and remembered: most of a series say the same in each file."""
    characters = "\\".join(texts(dataset, Tag(0x0008, 0x0005)))
    found: dict[str, set[str]] = {}
    for tag in sorted(dataset.keys()):
        if tag not in (_SHARED, _PER_FRAME):
            for name, values in _identity_of_one(dataset, tag, characters):
                found.setdefault(name, set()).update(values)
    for tag in (_SHARED, _PER_FRAME):
        for item in sequence(dataset, tag):
            for name, more in identity_of(item).items():
                found.setdefault(name, set()).update(more)
    found.pop("SOPInstanceUID", None)
    whole = {name: shared(sorted(found[name])) for name in sorted(found)}
    if len(_IDENTITIES) >= _MOST_IDENTITIES:
        _IDENTITIES.clear()
    return _IDENTITIES.setdefault(tuple(whole.items()), whole)


def _identity_of_one(
    dataset: Dataset, tag: BaseTag, characters: str
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    element = stored(dataset, tag)
    if not isinstance(element, RawDataElement):
        return _read_identity(dataset, tag)
    key = (characters, int(tag), element.VR or "", element.value or b"")
    known = _MEMO.get(key)
    if known is None:
        if len(_MEMO) >= _MEMO_SIZE:
            _MEMO.clear()
        known = _MEMO[key] = _read_identity(dataset, tag)
    return known


def _read_identity(dataset: Dataset, tag: BaseTag) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What one element identifies, converted where it stands: with its character set and its private creator."""
    alone = Dataset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone[tag] = dataset[tag]
            found = identity_of(alone)
    except Exception:  # noqa: BLE001 - what cannot be converted cannot be written by anybody either
        return ()
    own = ((name, _telling(tag, values)) for name, values in found.items())
    return tuple((name, values) for name, values in own if values)


def _telling(tag: BaseTag, values: frozenset[str]) -> tuple[str, ...]:
    """Of private attributes the values that could tell who it is: no creators, no measurements, no flags."""
    if not tag.is_private:
        return tuple(sorted(values))
    if tag.element < 0x100:
        return ()
    return tuple(sorted(v for v in values if not _MEASURED.fullmatch(v) and len(v) >= _SHORTEST))


_MEASURED = re.compile(r"[-+]?(\d{1,5}|\d*\.\d*)([eE][-+]?\d+)?")
_SHORTEST = 3
