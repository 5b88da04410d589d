"""What a PACS takes: the sheet as an Encapsulated PDF and as a Secondary Capture, in the patient's own study.

Patient and study are the input's, so that both objects lie beside the images they speak of: they identify, and
are for this hospital's PACS only. Everything else is new, and a function of the input and the package: the same
prediction has the same UIDs, and sending it twice makes nothing twice. Dates are the examination's.
"""

from __future__ import annotations

import io
import uuid
import warnings
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from phcc_client.prediction.result import NOTICE, Prediction
from phcc_model.errors import CaseError

SERIES_DESCRIPTION = f"{NOTICE} pHCC-SSL"
PDF_SERIES, PICTURE_SERIES = 9801, 9802
"""Numbers that scanners leave alone."""

_PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyDescription",
)  # fmt: skip
_MAY_BE_ABSENT = ("IssuerOfPatientID", "StudyDescription")
_IMPLEMENTATION = "2.25.329800735698586629295641978511506172918"
"""Of the files' writer: a constant of this program."""
_LONGEST = 65534  # bytes of a value; anything near it is no name


def pdf_object(prediction: Prediction, header: Dataset, pdf: bytes) -> bytes:
    """The sheet as an Encapsulated PDF.

    Args:
        prediction: whose digests make the UIDs.
        header: of an image of the examination.
        pdf: the sheet, with the patient's number on it.

    Raises:
        CaseError: the header does not say of which study it is.
    """
    made = _common(prediction, header, "pdf", sha256(pdf).hexdigest())
    made.SOPClassUID = EncapsulatedPDFStorage
    made.Modality, made.SeriesNumber = "DOC", PDF_SERIES
    made.AcquisitionDateTime = ""
    made.BurnedInAnnotation = "YES"
    made.DocumentTitle = f"{NOTICE}: pHCC-SSL score"
    made.ConceptNameCodeSequence = []
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    made.EncapsulatedDocumentLength = len(pdf)
    made.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return _written(made)


def picture_object(prediction: Prediction, header: Dataset, picture_hwc: NDArray[np.uint8]) -> bytes:
    """The sheet as a Secondary Capture, "research use only" drawn into its pixels, the patient's name not.

    Args:
        prediction: whose digests make the UIDs.
        header: of an image of the examination.
        picture_hwc: rows, columns, RGB.

    Raises:
        CaseError: the header does not say of which study it is.
    """
    pixels = np.ascontiguousarray(picture_hwc).tobytes()
    made = _common(prediction, header, "picture", sha256(pixels).hexdigest())
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.Modality, made.SeriesNumber = "OT", PICTURE_SERIES
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.PatientOrientation, made.BodyPartExamined = "", "LIVER"
    made.BurnedInAnnotation = "NO"
    made.ImageComments = NOTICE
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
    made.Rows, made.Columns = picture_hwc.shape[:2]
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OB"
    return _written(made)


def _common(prediction: Prediction, header: Dataset, kind: str, content: str) -> Dataset:
    """Patient and study as they are, a series of its own."""
    made = Dataset()
    with disable_value_validation():
        for name in _PATIENT_AND_STUDY:
            value = _value(header, name)
            if value or name not in _MAY_BE_ABSENT:
                setattr(made, name, value)
    if not made.StudyInstanceUID:
        raise CaseError(
            "its images do not say of which study they are",
            where=f"patient {prediction.patient}",
            remedy="Leave out the objects for the PACS with --no-dicom",
        )
    if not all(str(element.value).isascii() for element in made):
        made.SpecificCharacterSet = "ISO_IR 192"
    both = f"{prediction.input.digest}/{prediction.package.digest}/{prediction.software}/{kind}"
    made.SeriesInstanceUID = _uid(both)
    made.SOPInstanceUID = _uid(f"{both}/{content}")
    made.SeriesDescription = SERIES_DESCRIPTION
    made.InstanceNumber = 1
    made.ConversionType = "WSD"
    made.Manufacturer = "pHCC-SSL Federated"
    made.ManufacturerModelName = "phcc-client predict"
    made.SoftwareVersions = prediction.software
    with disable_value_validation():
        made.ContentDate, made.ContentTime = made.StudyDate, made.StudyTime
    return made


def _value(header: Dataset, name: str) -> str:
    """A header's value as text; empty where it is absent or cannot be read."""
    try:
        with warnings.catch_warnings():
            # What pydicom has to say of a value's form helps nobody: the PACS holds it as it is.
            warnings.simplefilter("ignore")
            found = header.get(name)
            value = "" if found is None else str(found)
    except Exception:  # noqa: BLE001 - a damaged value is none
        return ""
    plain = "".join(c for c in value if c.isprintable())
    return plain if len(plain.encode()) < _LONGEST else ""


def _uid(name: str) -> str:
    """A UID that a name always leads to: ``2.25.`` and a UUID of version 5 (PS3.5, B.2; RFC 9562)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def _written(made: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    meta.ImplementationVersionName = "PHCC_SSL"
    file = FileDataset("", made, preamble=b"\0" * 128, file_meta=meta)
    out = io.BytesIO()
    with warnings.catch_warnings(), disable_value_validation():
        # A value that the input has in a form of its own goes out as it came in.
        warnings.simplefilter("ignore")
        dcmwrite(out, file, enforce_file_format=True)
    return out.getvalue()
