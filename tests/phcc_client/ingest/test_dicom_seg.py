"""Lesions drawn in a viewer lie where they were drawn; what is no lesion is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_maker import PHASES, Place, place, uid, write_patient, write_seg
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import RTStructureSetStorage

from phcc_client.ingest.dicom_files import scan
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Drawing, Examination

AT = place((3.0, 1.5, 1.25), turned_deg=(5.0, 10.0, 3.0))
SHAPE = (8, 24, 20)


def read(folder: Path) -> Examination:
    (exam,) = examinations(scan(folder))
    return exam


def lesion(*boxes: tuple[slice, slice, slice]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    for box in boxes:
        mask[box] = True
    return mask


def places(drawing: Drawing) -> NDArray[np.float64]:
    """Millimetres (z, y, x) of every voxel inside, sorted."""
    assert drawing.mask is not None
    inside = np.argwhere(drawing.mask.read() > 0).astype(float)
    return ordered(np.array([drawing.mask.grid.to_mm(index) for index in inside]))


def ordered(mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return mm[np.lexsort(np.round(mm, 2).T)]


def expected(mask: NDArray[np.bool_], at: Place = AT) -> NDArray[np.float64]:
    return ordered(np.array([at.origin_mm + at.matrix @ index for index in np.argwhere(mask).astype(float)]))


MASKS = {
    "several slices": lesion((slice(2, 5), slice(5, 9), slice(6, 10))),
    "slices between are empty": lesion(
        (slice(1, 2), slice(5, 9), slice(6, 9)), (slice(5, 7), slice(5, 9), slice(6, 11))
    ),
    "one slice": lesion((slice(3, 4), slice(5, 9), slice(6, 11))),
    "the last slice": lesion((slice(7, 8), slice(0, 3), slice(0, 2))),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_lesion_lies_where_it_was_drawn(tmp_path: Path, name: str) -> None:
    written = write_patient(tmp_path, "P1", at=AT)
    write_seg(tmp_path / "drawn" / "seg", MASKS[name], written[PHASES[1]])
    exam = read(tmp_path)
    (drawing,) = exam.drawings
    np.testing.assert_allclose(places(drawing), expected(MASKS[name]), rtol=0, atol=1e-3)
    assert drawing.series == dcmread(written[PHASES[1]][0]).SeriesInstanceUID
    assert drawing.mask is not None
    assert set(np.unique(drawing.mask.read())) <= {0.0, 1.0}
    assert exam.unreadable == ()
    assert len(exam.series) == 4


def test_two_segments_are_two_lesions(tmp_path: Path) -> None:
    written = write_patient(tmp_path, "P1", at=AT)
    both = np.stack([MASKS["several slices"], MASKS["the last slice"]], axis=-1)
    write_seg(tmp_path / "seg", both, written[PHASES[2]])
    drawings = read(tmp_path).drawings
    assert [drawing.number for drawing in drawings] == [1, 2]
    for index, drawing in enumerate(drawings):
        np.testing.assert_allclose(places(drawing), expected(both[..., index]), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("label", "taken"),
    [("Liver", False), ("Leber", False), ("Liver lesion", True), ("HCC in liver", True), ("Segment_1", True)],
)
def test_an_organ_is_no_lesion(tmp_path: Path, label: str, taken: bool) -> None:
    written = write_patient(tmp_path, "P1")
    write_seg(tmp_path / "seg", MASKS["several slices"], written[PHASES[1]], label=label)
    exam = read(tmp_path)
    assert len(exam.drawings) == int(taken)
    assert len(exam.unreadable) == int(not taken)
    assert taken or "named as an organ" in exam.unreadable[0][1]


def test_a_drawing_in_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    written = write_patient(tmp_path, "P1")
    path = write_seg(tmp_path / "seg", MASKS["several slices"], written[PHASES[1]])
    dataset = dcmread(path)
    dataset.FrameOfReferenceUID = uid("elsewhere")
    dataset.save_as(path)
    exam = read(tmp_path)
    assert exam.drawings == ()
    assert "another frame of reference" in exam.unreadable[0][1]


def test_contours_are_recognised_and_refused_with_a_remedy(tmp_path: Path) -> None:
    written = write_patient(tmp_path, "P1")
    dataset = dcmread(written[PHASES[0]][0])
    del dataset.PixelData
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", uid("contours")
    dataset.save_as(tmp_path / "contours")
    exam = read(tmp_path)
    assert exam.drawings == ()
    assert exam.unreadable[0][0] == "contours"
    assert (
        "RTSTRUCT: contours are not read. Export the contours as a DICOM segmentation"
        in exam.unreadable[0][1]
    )


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, 0.99])
def test_a_torn_segmentation_is_refused(tmp_path: Path, cut: float) -> None:
    written = write_patient(tmp_path, "P1")
    path = write_seg(tmp_path / "seg", MASKS["several slices"], written[PHASES[1]])
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut)])
    exam = read(tmp_path)
    assert exam.drawings == ()
    assert len(exam.unreadable) == 1


def test_a_promise_of_a_thousand_million_frames_is_not_believed(tmp_path: Path) -> None:
    """11 KB that took 24 GB: highdicom keeps a row a frame for as many as the header promises."""
    written = write_patient(tmp_path, "P1")
    path = write_seg(tmp_path / "seg", MASKS["several slices"], written[PHASES[1]])
    dataset = dcmread(path)
    dataset.NumberOfFrames = 999_999_999
    dataset.save_as(path)
    exam = read(tmp_path)
    assert exam.drawings == ()
    assert "promises other frames than it describes" in exam.unreadable[0][1]


def test_slices_a_kilometre_apart_fill_no_memory(tmp_path: Path) -> None:
    written = write_patient(tmp_path, "P1", at=AT)
    path = write_seg(tmp_path / "seg", MASKS["several slices"], written[PHASES[1]])
    dataset = dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    first, far = (frame.PlanePositionSequence[0] for frame in (frames[0], frames[-1]))
    second = np.array(frames[1].PlanePositionSequence[0].ImagePositionPatient, float)
    step = second - np.array(first.ImagePositionPatient, float)
    far.ImagePositionPatient = [f"{value:.6f}" for value in second + 3_000_000 * step]
    dataset.save_as(path)
    exam = read(tmp_path)
    assert exam.drawings == ()
    assert "its slices lie too far apart" in exam.unreadable[0][1]
