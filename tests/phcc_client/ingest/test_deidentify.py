"""Headers without a patient: nothing of DICOM's table survives, at no depth, in no kind of value."""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path

import pytest
from dicomanonymizer.simpledicomanonymizer import initialize_actions
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from phcc_client.ingest.deidentify import (
    KEPT,
    basic_profile,
    burned_in,
    deidentified_header,
    identity_of,
    known_agent,
    known_manufacturer,
    scrub,
)
from phcc_client.ingest.pseudonyms import SiteKey

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
KEY = SiteKey(bytes(range(32)))
PATIENT = "4711"
TABLE = sorted(tag for tag in initialize_actions("dicomfields_2024b") if len(tag) == 2 and tag[0] != 2)
KNOWN = [tag for tag in TABLE if dictionary_has_tag(Tag(tag))]
PLANT = "Zyxwvut"
PLANTED = {
    "DA": "19610503", "DT": "19610503101112.5", "TM": "101112.25", "UI": "1.2.3.45678.9", "AS": "061Y",
    "DS": "7.12345", "IS": "712345", "US": 7123, "UL": 712345, "FD": 7.12345, "FL": 7.125, "OB": b"Zyxwvuts",
    "OW": b"Zyxwvuts", "UN": b"Zyxwvuts", "CS": "ZYXWVUT", "PN": "Zyxwvut^Anna", "AE": "ZYXWVUT",
    "UR": "http://zyxwvut.de",
}  # fmt: skip


def plant(tag: tuple[int, int], dataset: Dataset) -> Dataset:
    vr = dictionary_VR(Tag(tag)).split(" ")[0]
    if vr == "SQ":
        inner = Dataset()
        inner.PatientName = "Zyxwvut^Anna"
        inner.CodeMeaning = PLANT
        dataset[tag] = DataElement(Tag(tag), "SQ", Sequence([inner]))
    else:
        dataset[tag] = DataElement(Tag(tag), vr, PLANTED.get(vr, PLANT))
    return dataset


def bottom(dataset: Dataset) -> str:
    """Everything that a header says, sequences included."""
    return "\n".join(str(element.value) for element in dataset.iterall()) + str(dataset)


def mr() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.PatientID = PATIENT
    dataset.PatientName = "MÜLLER^ANNA"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.EchoTime = "2.3"
    dataset.Manufacturer = "SIEMENS"
    dataset.MagneticFieldStrength = "1.5"
    dataset.ContrastBolusAgent = "Primovist 0.25 mmol/ml (Müller)"
    return dataset


def alive(header: Dataset) -> list[str]:
    """What of a planted value is still there."""
    said = bottom(header).casefold()
    return [
        v
        for v in ("zyxwvut", "anna", "1961", "1.2.3.45678", "061y", "7.12345", "712345", "7123")
        if v in said
    ]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("part", range(8))
def test_nothing_of_the_table_survives(part: int, deep: bool) -> None:
    for tag in KNOWN[part::8]:
        dataset = mr()
        if deep:
            inner = plant(tag, Dataset())
            dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
            dataset.SharedFunctionalGroupsSequence[0].MRModifierSequence = Sequence([inner])
        else:
            plant(tag, dataset)
        header = deidentified_header(dataset, KEY, PATIENT)
        assert not alive(header), keyword_for_tag(Tag(tag))
        assert header.PatientID == KEY.patient(PATIENT)
        assert header.EchoTime == 2.3


def test_the_whole_table_at_once_and_the_source_is_left_alone() -> None:
    dataset = mr()
    for tag in KNOWN:
        plant(tag, dataset)
    before = str(dataset)
    assert not alive(deidentified_header(dataset, KEY, PATIENT))
    assert str(dataset) == before
    profile = bottom(basic_profile(dataset, KEY, PATIENT)).casefold()
    assert "zyxwvut" not in profile
    assert "1961" not in profile


def test_what_is_kept() -> None:
    header = deidentified_header(mr(), KEY, PATIENT)
    assert header.StudyInstanceUID == KEY.uid("1.2.3")
    assert header.StudyID == KEY.study("1.2.3")[2:]
    assert header.Manufacturer == "Siemens"
    assert header.ContrastBolusAgent == "gadoxetate"
    assert header.ImageType == ["ORIGINAL", "PRIMARY", "OTHER"]
    assert header.SOPClassUID == MRImageStorage
    assert header.PatientIdentityRemoved == "YES"
    assert "basic profile" in header.DeidentificationMethod
    assert header.LongitudinalTemporalInformationModified == "REMOVED"


def test_names_where_codes_belong_do_not_pass() -> None:
    dataset = mr()
    dataset.ImageType = ["DERIVED", "SECONDARY", "MUELLER"]
    dataset.Manufacturer = "Praxis Huber"
    dataset.ManufacturerModelName = "Signa HDxt Müller"
    dataset.ScanOptions = "HUBER"
    dataset.ContrastBolusAgent = "see Dr. Huber"
    said = bottom(deidentified_header(dataset, KEY, PATIENT)).casefold()
    assert not [name for name in ("mueller", "müller", "huber") if name in said]
    assert "derived" in said


def test_dates_move_together_and_times_stay() -> None:
    dataset = mr()
    dataset.StudyDate, dataset.AcquisitionDate = "20240228", "20240301"
    dataset.AcquisitionDateTime = "20240301101112.250000+0100"
    dataset.AcquisitionTime = "101112.25"
    moved = basic_profile(dataset, KEY, PATIENT)
    by = timedelta(days=KEY.days(PATIENT))
    assert moved.StudyDate == f"{date(2024, 2, 28) + by:%Y%m%d}"
    assert moved.AcquisitionDate == f"{date(2024, 3, 1) + by:%Y%m%d}"
    assert moved.AcquisitionDateTime == f"{date(2024, 3, 1) + by:%Y%m%d}101112.250000+0100"
    assert moved.AcquisitionTime == "101112.25"
    assert not [e for e in deidentified_header(dataset, KEY, PATIENT) if e.VR in ("DA", "DT", "TM")]


@given(st.dates(), st.dates(), st.text(min_size=1).filter(lambda t: t.strip(" \t\n\0") and t.isprintable()))
@example(date(1, 1, 1), date(9999, 12, 31), "x")
def test_intervals_are_kept(one: date, other: date, patient: str) -> None:
    dataset = Dataset()
    dataset[0x00080020] = DataElement(0x00080020, "DA", f"{one:%Y%m%d}".zfill(8))
    dataset[0x00080022] = DataElement(0x00080022, "DA", f"{other:%Y%m%d}".zfill(8))
    moved = basic_profile(dataset, KEY, patient)
    if moved.StudyDate and moved.AcquisitionDate:
        first, second = (date.fromisoformat(d) for d in (moved.StudyDate, moved.AcquisitionDate))
        assert second - first == other - one
        assert first < one
    else:
        assert min(one, other).year < 12  # moved out of the calendar, so it goes


@pytest.mark.parametrize(
    "bad", ["yesterday", "1961", "196105", "00000000", "99999999", "1961/5/3x", "Müller"]
)
def test_a_date_that_is_none_goes(bad: str) -> None:
    dataset = mr()
    dataset[0x00080020] = RawDataElement(Tag(0x00080020), "DA", len(bad), bad.encode(), 0, False, True)
    assert basic_profile(dataset, KEY, PATIENT).StudyDate == ""


def test_private_overlays_curves_icons_signatures_and_voxels_are_gone() -> None:
    dataset = mr()
    dataset.private_block(0x0029, "MÜLLER", create=True).add_new(0x10, "LO", "Zyxwvut")
    for tag, vr in ((0x60003000, "OW"), (0x60000022, "LO"), (0x50003000, "OW"), (0x7FE00010, "OW")):
        dataset.add_new(tag, vr, b"Zyxwvuts" if vr == "OW" else "Zyxwvut")
    icon = Dataset()
    icon.PixelData = b"Zyxwvuts"
    dataset.IconImageSequence = Sequence([icon])
    old = Dataset()
    old.ModifiedAttributesSequence = Sequence([mr()])
    dataset.OriginalAttributesSequence = Sequence([old])
    dataset.add_new(0xFFFAFFFA, "SQ", Sequence([mr()]))
    said = str(basic_profile(dataset, KEY, PATIENT))
    for gone in ("Zyxwvut", "MÜLLER", "60003000", "Icon", "Original", "Signature", "7FE0"):
        assert gone not in said


def test_damaged_elements_go_and_do_not_stop_the_rest() -> None:
    dataset = mr()
    for tag, vr, value in (
        (0x00080018, "UI", b"\xff\xfe"),
        (0x00101010, "AS", b"\x00" * 7),
        (0x00200013, "IS", b"Zyxwvut"),
        (0x00180081, "DS", b"1\\2\\x"),
        (0x00081140, "SQ", b"not a sequence"),
    ):
        dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    said = bottom(deidentified_header(dataset, KEY, PATIENT))
    assert "Zyxwvut" not in said
    assert "Siemens" in said
    assert identity_of(dataset)["PatientID"] == {PATIENT}


def test_sequences_without_end_are_cut_off() -> None:
    deep = mr()
    for _ in range(200):
        outer = Dataset()
        outer.SharedFunctionalGroupsSequence = Sequence([deep])
        deep = outer
    deep.PatientID = PATIENT
    assert not alive(deidentified_header(deep, KEY, PATIENT))
    assert identity_of(deep)["PatientID"] == {PATIENT}


def test_what_identifies_is_collected_at_every_depth() -> None:
    dataset = mr()
    inner = Dataset()
    inner.OperatorsName = ["Huber^Sepp", "Maier^Eva"]
    inner.ReferencedSOPClassUID = MRImageStorage
    inner.ReferencedSOPInstanceUID = "1.2.3.4.5"
    dataset.ReferencedImageSequence = Sequence([inner])
    dataset.private_block(0x0029, "ACME", create=True).add_new(0x10, "UN", b"Huber was here ")
    found = identity_of(dataset)
    assert found["PatientName"] == {"MÜLLER^ANNA"}
    assert found["OperatorsName"] == {"Huber^Sepp", "Maier^Eva"}
    assert found["ReferencedSOPInstanceUID"] == {"1.2.3.4.5"}
    assert found["PrivateTag(0029,1010)"] == {"Huber was here"}
    assert not {"Modality", "SOPClassUID", "ReferencedSOPClassUID", "EchoTime", "Manufacturer"} & set(found)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary capture"),
        ({"Modality": "US"}, "US"),
        ({"SeriesDescription": "Screen Save"}, "screen"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen"),
        ({"PhotometricInterpretation": "RGB"}, "colour"),
        ({"ConversionType": "WSD"}, "drawn"),
        ({"SeriesDescription": "Patient Protocol"}, "report"),
    ],
)
def test_burned_in_is_feared(changes: dict[str, object], why: str) -> None:
    dataset = mr()
    for name, value in changes.items():
        setattr(dataset, name, value)
    assert why in (burned_in(dataset) or "")


def test_overlay_in_the_pixels_is_feared_and_one_beside_them_is_not() -> None:
    dataset = mr()
    assert burned_in(dataset) is None
    dataset.add_new(0x60000102, "US", 12)
    assert "overlay" in (burned_in(dataset) or "")
    dataset.add_new(0x60003000, "OW", b"\0\0")
    assert burned_in(dataset) is None


IDENTITY = {
    "PatientName": frozenset({"MÜLLER-LÜDENSCHEIDT^ANNA^^Dr.", "Li^X"}),
    "PatientBirthDate": frozenset({"19610503"}),
    "PatientID": frozenset({"AB-1234"}),
    "InstitutionName": frozenset({"Klinikum Musterstadt"}),
    "SeriesDescription": frozenset({"t1_vibe_Huber arterial"}),
}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("t1_vibe_fs_tra_arterial Mueller", "t1_vibe_fs_tra_arterial …"),
        ("ARTERIAL_MULLER_ANNA", "ARTERIAL_…"),
        ("portal MüllerLüdenscheidt", "portal …"),
        ("portal Mu\u0308ller", "portal …"),
        ("liver li T1", "liver … T1"),
        ("1961-05-03 3.5.1961 19610503 dwi", "… dwi"),
        ("AB1234 AB-1234 ab 1234", "…"),
        ("T1 VIBE dixon W", "T1 VIBE dixon W"),
        ("ep2d_diff_b50_400_800_ADC", "ep2d_diff_b50_400_800_ADC"),
        ("t1_vibe_Huber arterial", "t1_vibe_… arterial"),
        ("LAVA Dr.Schmidtbauer", "LAVA Dr.…"),
        ("0.1234567 mm, 62 s, 1000 slices", "0.1234567 mm, 62 s, 1000 slices"),
        ("fon 089 1234567", "… 089 …"),
        ("1.2.840.113619.2.5", "…"),
        ("肝胆期", "肝胆期"),
        ("", ""),
        ("…", "…"),
    ],
)
def test_scrub(text: str, left: str) -> None:
    assert scrub(text, IDENTITY) == left
    assert scrub(left, IDENTITY) == left


@given(
    st.lists(
        st.sampled_from(["Müller", "anna", "ANNA", "t1", "19610503", "_", " ", "art", "lüdenscheidt", "É"])
    )
)
def test_scrub_leaves_no_name(parts: list[str]) -> None:
    left = scrub("".join(parts), IDENTITY)
    assert not [name for name in ("müller", "anna", "1961", "denscheid") if name in left.casefold()]
    assert scrub(left, IDENTITY) == left


@given(st.text())
def test_scrub_takes_any_text(text: str) -> None:
    assert len(scrub(text, IDENTITY)) <= len(text)


def test_a_name_that_is_a_word_of_ours_goes_from_the_patients_own_texts() -> None:
    assert scrub("t1 dixon portal", {"PatientName": {"Dixon^Portal"}}) == "t1 …"
    assert scrub("t1 dixon portal", {"PatientComments": {"t1 dixon portal"}}) == "t1 dixon portal"


def test_a_patient_called_null_is_a_patient() -> None:
    assert scrub("t1 Null art", {"PatientName": {"Null"}}) == "t1 … art"
    assert scrub("t1 art", {"PatientComments": {"none"}}) == "t1 art"


def test_agents_and_manufacturers() -> None:
    assert known_agent("gd-eob-dtpa (primovist)") == "gadoxetate"
    assert known_agent("10 ml gadovist") == "gadobutrol"
    assert known_agent("ask mueller") == ""
    assert known_manufacturer("ge medical systems") == "GE"
    assert known_manufacturer("gerda") == ""


def test_kept_attributes_are_dicoms() -> None:
    for name in KEPT:
        assert Dataset.__contains__(Dataset(), name) is False
        tag = Tag(name)
        assert dictionary_has_tag(tag)
        assert dictionary_VR(tag) not in ("DA", "DT", "TM", "LT", "ST", "UT")


@pytest.mark.parametrize(
    "folder", ["dcm_qa_deident", "dicom2nifti", "dcm_qa_enh", "dcm_qa_ts", "dicom_test_files"]
)
def test_real_headers(folder: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip("no shared data")
    seen = 0
    for file in sorted(p for p in (SHARED / folder).rglob("*") if p.is_file())[::17]:
        try:
            dataset = dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        seen += 1
        identity = identity_of(dataset)
        said = bottom(deidentified_header(dataset, KEY, str(dataset.get("PatientID", "") or "x")))
        for name in (
            "PatientName",
            "PatientBirthDate",
            "StudyInstanceUID",
            "SOPInstanceUID",
            "InstitutionName",
        ):
            for value in identity.get(name, ()):
                assert len(value) < 6 or value not in said, name
        assert "2.25." in said or "InstanceUID" not in " ".join(identity)
    assert seen
