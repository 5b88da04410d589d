"""The picture of a heat map, and files that lie where the images lie."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from phcc_client.imaging.case import Box, PhaseImage, RawCase
from phcc_client.imaging.preprocess import prepare
from phcc_client.overlay import lesion_slices, overlay_png, slice_png, write_map_nifti
from phcc_client.overlay_place import crop_affines
from phcc_model.config import CropSettings, DataSettings
from phcc_model.errors import CaseError

PHASES = ("pre-contrast", "arterial", "delayed")
CROP = CropSettings(size=(4, 8, 8), spacing_mm=(3.0, 2.0, 2.0))
MEASURES = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.3, 0.0, 1.0]])
"""Three directions that fix a place; none along which slices would be the same."""
SETTINGS = DataSettings(phases=("arterial", "delayed"), crop=CROP, normalisation="none")


def case() -> tuple[Any, ...]:
    """Images, maps, lesion, phases, presence: the second phase is missing."""
    draw = np.random.default_rng(0)
    lesion = np.zeros((6, 24, 24), np.uint8)
    lesion[1:5, 6:18, 6:18] = 1
    present = np.array([True, False, True])
    maps = draw.random((3, 6, 24, 24)) * present[:, None, None, None]
    return draw.normal(size=(3, 6, 24, 24)).astype(np.float16), maps, lesion, PHASES, present


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_picture_is_the_same_each_time_and_shows_the_map() -> None:
    volumes, maps, lesion, phases, present = case()
    first = overlay_png(volumes, maps, lesion, phases, present, attention_p=np.array([0.6, 0.0, 0.4]))
    assert first == overlay_png(volumes, maps, lesion, phases, present, attention_p=np.array([0.6, 0.0, 0.4]))
    cold = overlay_png(volumes, np.zeros_like(maps), lesion, phases, present)
    colour = [np.abs(p[..., 0] - p[..., 2])[:, : p.shape[1] * 3 // 4] for p in (pixels(first), pixels(cold))]
    # Without a map all is grey but the outline; with one, orange lies over the lower rows.
    assert (colour[0] > 60).mean() > 3 * (colour[1] > 60).mean() > 0


def test_a_slice_without_a_map_is_grey_but_for_the_lesions_outline() -> None:
    volumes, _, lesion, phases, present = case()
    plain = slice_png(volumes, lesion, phases, present, spacing_mm=(3.0, 2.0, 1.0))
    assert plain == slice_png(volumes, lesion, phases, present, spacing_mm=(3.0, 2.0, 1.0))
    coloured = np.ptp(pixels(plain), axis=-1) > 60
    assert 0 < coloured.mean() < 0.05
    third = coloured.shape[1] // 3
    assert not coloured[:, third + 10 : 2 * third - 10].any()  # the phase that is missing
    without = pixels(slice_png(volumes, np.zeros_like(lesion), phases, present, spacing_mm=(3.0, 2.0, 1.0)))
    assert (np.ptp(without, axis=-1) <= 60).all()
    assert without.shape[0] > 1.5 * third  # a voxel is twice as high as wide
    with pytest.raises(CaseError, match="do not belong together"):
        slice_png(volumes, lesion[:, :-1], phases, present)


def test_more_slices_make_a_taller_picture_and_flat_images_are_no_error() -> None:
    volumes, maps, lesion, phases, present = case()
    one = pixels(overlay_png(volumes, maps, lesion, phases, present, slices=1))
    four = pixels(overlay_png(np.zeros_like(volumes), maps, np.zeros_like(lesion), phases, present, slices=4))
    three = pixels(overlay_png(volumes, maps, lesion, phases, present, slices=3))
    assert three.shape[0] > one.shape[0]
    assert four.shape == one.shape  # no lesion: the middle slice stands for it


def test_what_does_not_belong_together_is_refused() -> None:
    volumes, maps, lesion, phases, present = case()
    with pytest.raises(CaseError, match="do not belong together"):
        overlay_png(volumes, maps[:, :3], lesion, phases, present)
    with pytest.raises(CaseError, match="do not belong together"):
        overlay_png(volumes, maps, lesion, phases[:2], present)
    with pytest.raises(CaseError, match="none of the phases"):
        overlay_png(volumes, maps, lesion, phases, np.zeros(3, bool))


@pytest.mark.parametrize(
    ("there", "count", "expected"),
    [((1, 2, 3, 4, 5), 1, [3]), ((2, 3, 4, 5, 6, 7), 3, [3, 5, 7]), ((4,), 3, [4]), ((), 3, [5])],
)
def test_slices_are_spread_over_the_lesion(there: tuple[int, ...], count: int, expected: list[int]) -> None:
    lesion = np.zeros((10, 4, 4), np.uint8)
    lesion[list(there)] = 1
    assert lesion_slices(lesion, count) == expected


def oblique(turned_degrees: float, flip: bool) -> np.ndarray:
    """An affine as NIfTI files have it: turned about the body's axis, the first axis to the left or the right."""
    angle = np.deg2rad(turned_degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) @ np.diag([-1.3 if flip else 1.3, 1.5, 2.5])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (-20.0, 12.0, -30.0)
    return affine


def write_coordinates(path: Path, affine: np.ndarray, axis: int) -> Path:
    """An image whose voxels hold a measure of their own place in mm (RAS)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in (30, 28, 16)), indexing="ij"), axis=-1)
    values = ((index @ affine[:3, :3].T + affine[:3, 3]) @ MEASURES[axis]).astype(np.float32)
    make: Any = nib.Nifti1Image
    nib.save(make(values, affine), path)
    return path


@pytest.mark.parametrize("how", ["boxes", "turned", "mask"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_s_voxels_are_where_its_affine_says(tmp_path: Path, how: str, flip: bool) -> None:
    # Voxels hold their own place: what `prepare` cuts must be what the affine works out, in every phase.
    first, second = oblique(0.0, flip), oblique(12.0 if how == "turned" else 0.0, flip)
    second[:3, 3] += (1.0, -2.0, 1.5)
    mask = None
    if how == "mask":
        inside = np.zeros((30, 28, 16), np.uint8)
        inside[12:18, 11:17, 6:10] = 1
        make: Any = nib.Nifti1Image
        mask = tmp_path / "mask.nii.gz"
        nib.save(make(inside, first), mask)
    for axis in range(3):
        images = {
            "arterial": PhaseImage(
                "arterial",
                write_coordinates(tmp_path / f"a{axis}.nii.gz", first, axis),
                box=None if mask else Box((6, 11, 12), (10, 17, 18)),
            ),
            "delayed": PhaseImage(
                "delayed",
                write_coordinates(tmp_path / f"d{axis}.nii.gz", second, axis),
                box=Box((5, 10, 13), (9, 16, 19)) if how == "boxes" else None,
            ),
        }
        raw = RawCase("c", "p", images, mask=mask, lesion_phase="arterial")  # type: ignore[arg-type]
        cut = prepare(raw, SETTINGS).volumes_pdhw.astype(float)
        affines = crop_affines(raw, SETTINGS)
        index = np.stack(np.meshgrid(*(np.arange(n) for n in CROP.size), indexing="ij"), axis=-1)
        for p, phase in enumerate(SETTINGS.phases):
            place = (index @ affines[phase][:3, :3].T + affines[phase][:3, 3]) @ MEASURES[axis]
            np.testing.assert_allclose(cut[p], place, atol=0.05)  # kept in 16 bits


def test_a_map_s_file_holds_the_map_at_its_place(tmp_path: Path) -> None:
    map_dhw = np.random.default_rng(1).random((4, 8, 6)).astype(np.float32)
    affine = oblique(7.0, True)
    write_map_nifti(tmp_path / "m.nii.gz", map_dhw, affine)
    again: Any = nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(again.get_fdata().astype(np.float32).transpose(2, 1, 0), map_dhw)
    d, h, w = 3, 5, 2
    np.testing.assert_allclose(again.affine @ (w, h, d, 1), affine @ (d, h, w, 1), atol=1e-5)
    content = (tmp_path / "m.nii.gz").read_bytes()
    write_map_nifti(tmp_path / "again.nii.gz", map_dhw, affine)
    assert (tmp_path / "again.nii.gz").read_bytes() == content


def test_an_annotation_s_spacing_leaves_the_file_s_place(tmp_path: Path) -> None:
    affine = oblique(0.0, False)
    path = write_coordinates(tmp_path / "a.nii.gz", affine, 0)
    image = PhaseImage("arterial", path, spacing_mm_dhw=(2.5, 1.5, 1.3), box=Box((6, 11, 12), (10, 17, 18)))
    raw = RawCase("c", "p", {"arterial": image})
    found = crop_affines(raw, SETTINGS)["arterial"]
    cut = prepare(raw, SETTINGS).volumes_pdhw[0].astype(float)
    place = MEASURES[0] @ (found[:3, 3:] + found[:3, :3] @ np.indices(CROP.size).reshape(3, -1))
    np.testing.assert_allclose(cut.ravel(), place, atol=0.05)


def test_images_without_a_place_say_so() -> None:
    image = PhaseImage("arterial", None, array_dhw=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(CaseError, match="no place in the patient"):
        crop_affines(RawCase("c", "p", {"arterial": image}), SETTINGS)
