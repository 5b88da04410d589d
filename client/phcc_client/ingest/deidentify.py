"""Headers without a patient: DICOM's basic profile, and of what it leaves only what a person cannot be told by.

`basic_profile` does what DICOM's table asks for each attribute. `deidentified_header` then lets a short list of
technical attributes through and nothing else, for a table can only know what somebody thought of.

Ingest keeps no DICOM file: what it writes of a header are the few facts of a `PatientRecord`, and of free text
what `scrub` leaves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement

from phcc_client.ingest.audit_values import fold
from phcc_client.ingest.deidentify_pixels import burned_in
from phcc_client.ingest.deidentify_profile import basic_profile, changed, identity_of, marked, values
from phcc_client.ingest.deidentify_text import GONE, scrub
from phcc_client.ingest.deidentify_words import known_agent, known_manufacturer
from phcc_client.ingest.pseudonyms import SiteKey

__all__ = [
    "basic_profile",
    "burned_in",
    "deidentified_header",
    "identity_of",
    "known_agent",
    "known_manufacturer",
    "scrub",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEPT = _words("""
    SOPClassUID Modality ImageType ScanningSequence SequenceVariant ScanOptions MRAcquisitionType
    Manufacturer ManufacturerModelName MagneticFieldStrength ImagingFrequency ImagedNucleus
    EchoTime RepetitionTime InversionTime FlipAngle EchoTrainLength EchoNumbers NumberOfAverages PixelBandwidth
    DiffusionBValue DiffusionGradientOrientation ParallelReductionFactorInPlane
    EffectiveEchoTime InversionTimes RFEchoTrainLength GradientEchoTrainLength
    SliceThickness SpacingBetweenSlices PixelSpacing ImageOrientationPatient ImagePositionPatient
    Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel
    PhotometricInterpretation RescaleSlope RescaleIntercept
    TemporalPositionIdentifier NumberOfTemporalPositions TemporalResolution TriggerTime TemporalPositionIndex
    TemporalPositionTimeOffset SeriesNumber InstanceNumber AcquisitionNumber
    ContrastBolusVolume ContrastBolusTotalDose BurnedInAnnotation
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence PlanePositionSequence
    PlaneOrientationSequence MRTimingAndRelatedParametersSequence MREchoSequence MRDiffusionSequence
    MRImageFrameTypeSequence FrameContentSequence PixelValueTransformationSequence FrameType
    DiffusionGradientDirectionSequence MRModifierSequence
    StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID
    PatientName PatientID StudyID
    """)
"""What `deidentified_header` keeps, after the profile: no date, no time of day, no free text."""


def deidentified_header(dataset: Dataset, key: SiteKey, patient: str) -> Dataset:
    """The technical part of a header under the patient's pseudonym.

    Args:
        dataset: a header as read; it is not changed, its voxels are not looked at.
        key: the site's.
        patient: as the source names the patient (PatientID).

    Returns:
        A header of `KEPT` attributes at every depth.
    """
    identity = identity_of(dataset)
    kept = _technical(basic_profile(dataset, key, patient), identity)
    agent = known_agent(fold(" ".join(sorted(identity.get("ContrastBolusAgent", ())))))
    if agent:
        kept.ContrastBolusAgent = agent  # the profile empties the free text; its generic name is the fact
    kept.LongitudinalTemporalInformationModified = "REMOVED"
    return marked(kept)


def _technical(dataset: Dataset, identity: Mapping[str, frozenset[str]]) -> Dataset:
    kept = Dataset()
    for element in dataset:
        name = keyword_for_tag(element.tag)
        if name not in KEPT:
            continue
        if element.VR == "SQ":
            items = [_technical(item, identity) for item in element.value or ()]
            kept[element.tag] = DataElement(element.tag, "SQ", items)
        elif name in ("PatientID", "PatientName", "StudyID") or element.VR == "UI":
            kept[element.tag] = element
        elif element.VR in ("LO", "SH", "CS", "DS", "IS"):
            fits = [_fit(name, value, identity) for value in values(element)]
            fit = changed(element, fits)
            if fit is not None:
                kept[element.tag] = fit
        elif element.VR in ("US", "SS", "UL", "SL", "FD", "FL"):
            kept[element.tag] = element
    return kept


def _fit(name: str, value: str, identity: Mapping[str, frozenset[str]]) -> str:
    """One value of a kept attribute: codes and numbers as they are, names of things only if they are known."""
    if name == "Manufacturer":
        return known_manufacturer(fold(value))
    if re.fullmatch(r"[-+]?\d{0,12}\.?\d{0,12}(?:[eE][-+]?\d{1,3})?", value.strip()):
        return value.strip()
    clean = scrub(value, identity)
    return "" if GONE in clean else clean
