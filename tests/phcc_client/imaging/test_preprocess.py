from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from phcc_client.imaging.case import Box, PhaseImage, RawCase
from phcc_client.imaging.preprocess import prepare
from phcc_model.config import DataSettings, Phase
from phcc_model.errors import CaseError

NIBABEL: Any = nibabel

SPACING = (3.0, 1.5, 1.5)
SHAPE = (14, 40, 44)
PHASES: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")


def study(**changes: object) -> DataSettings:
    crop = {"size": (8, 16, 16), "spacing_mm": (3.0, 1.5, 1.5)}
    return DataSettings.model_validate({"crop": crop, "smoothing_voxels": 0.0, **changes})


def blob(
    centre: tuple[float, float, float], width_mm: float = 4.0, level: float = 300
) -> NDArray[np.float32]:
    """A bright blob on a textured ground, its centre in continuous voxel indices."""
    d, h, w = (np.arange(n) - c for n, c in zip(SHAPE, centre, strict=True))
    away = (d[:, None, None] * 3) ** 2 + (h[None, :, None] * 1.5) ** 2 + (w[None, None, :] * 1.5) ** 2
    ground = np.random.default_rng(5).uniform(-1, 1, SHAPE)
    return np.asarray(200 + ground + level * np.exp(-0.5 * away / width_mm**2), dtype=np.float32)


def around(centre: tuple[int, int, int], half: tuple[int, int, int] = (2, 4, 4)) -> Box:
    low = tuple(c - h for c, h in zip(centre, half, strict=True))
    high = tuple(c + h + 1 for c, h in zip(centre, half, strict=True))
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


@pytest.fixture
def four_phases(tmp_path: Path, write_nifti: Any) -> RawCase:
    """Breathing moves the lesion by one slice and several voxels from phase to phase; the boxes follow."""
    images = {}
    for i, phase in enumerate(PHASES):
        centre = (6 + i % 2, 18 + i, 20 - i)
        path = write_nifti(tmp_path / f"{phase}.nii.gz", blob(centre, level=100 * (i + 1)), (9.0, 9.0, 9.0))
        images[phase] = PhaseImage(phase, path, SPACING, around(centre))
    return RawCase("c1", "p1", images)


def peak(volume: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(volume)), volume.shape))


def test_every_phase_is_centred_on_its_own_box(four_phases: RawCase) -> None:
    prepared = prepare(four_phases, study(normalisation="z-score"))
    assert prepared.volumes_pdhw.dtype == np.float16
    assert prepared.volumes_pdhw.shape == (4, 8, 16, 16)
    assert prepared.present_p.tolist() == [True] * 4
    for volume in prepared.volumes_pdhw.astype(np.float64):
        # The middle of an even grid lies between two voxels: the blob is the same on both sides of it.
        np.testing.assert_allclose(volume[3:5, 7:9, 7:9], volume[3:5, 7:9, 7:9].mean(), rtol=0.03)
        assert all(m in (n // 2 - 1, n // 2) for m, n in zip(peak(volume), (8, 16, 16), strict=True))


def test_the_lesion_is_the_union_of_the_phases_boxes(four_phases: RawCase) -> None:
    images = dict(four_phases.images)
    images["delayed"] = replace(images["delayed"], box=around((7, 21, 17), (1, 6, 2)))
    odd = study(crop={"size": (9, 17, 17), "spacing_mm": SPACING})
    lesion = prepare(replace(four_phases, images=images), odd).lesion_dhw
    assert lesion.dtype == np.uint8
    assert [int(lesion.any(axis=a).sum()) for a in ((1, 2), (0, 2), (0, 1))] == [5, 13, 9]


def test_log_ratio_of_a_case_is_enhancement_over_pre_contrast(four_phases: RawCase) -> None:
    prepared = prepare(four_phases, study(crop={"size": (7, 15, 15), "spacing_mm": SPACING}))
    middle = prepared.volumes_pdhw[:, 3, 7, 7].astype(float)
    expected = np.log([300 / 203, 400 / 300, 500 / 300, 600 / 300])
    np.testing.assert_allclose(middle, expected, atol=0.03)


def test_a_missing_phase_is_zero_and_said_to_be_missing(four_phases: RawCase) -> None:
    images: dict[Phase, PhaseImage] = {
        p: image for p, image in four_phases.images.items() if p != "portal-venous"
    }
    whole = prepare(four_phases, study())
    prepared = prepare(replace(four_phases, images=images), study())
    assert prepared.present_p.tolist() == [True, True, False, True]
    assert not prepared.volumes_pdhw[2].any()
    assert np.array_equal(prepared.volumes_pdhw[[0, 1, 3]], whole.volumes_pdhw[[0, 1, 3]])


def test_a_lesion_at_the_volume_s_edge_is_padded_with_its_edge(tmp_path: Path, write_nifti: Any) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", blob((0, 1, 1)))
    raw = RawCase("c", "p", {"image": PhaseImage("image", path, SPACING, Box((0, 0, 0), (2, 4, 4)))})
    volume = prepare(raw, study(phases=("image",), normalisation="none")).volumes_pdhw[0]
    assert np.isfinite(volume).all()
    assert np.array_equal(volume[0], volume[2])
    assert np.array_equal(volume[:, 0], volume[:, 4])


def test_files_of_every_orientation_give_the_same_crop(tmp_path: Path) -> None:
    whd = blob((6, 18, 24)).transpose(2, 1, 0)
    whd[:, :6] += 500  # something that tells the axes apart
    original = NIBABEL.Nifti1Image(whd, np.diag([-1.5, -1.5, 3.0, 1.0]))
    crops = []
    for i, (order, signs) in enumerate(
        [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, 1))]
    ):
        turned = original.as_reoriented(np.array(list(zip(order, signs, strict=True))))
        path = tmp_path / f"{i}.nii.gz"
        NIBABEL.save(turned, path)
        bright = np.asarray(turned.dataobj).transpose(2, 1, 0).copy()
        bright[bright > 600] = 0
        d, h, w = peak(bright)
        box = around((d, h, w), (1, 1, 1))
        raw = RawCase("c", "p", {"image": PhaseImage("image", path, box=box)})
        crops.append(prepare(raw, study(phases=("image",), normalisation="none")).volumes_pdhw)
    assert np.array_equal(crops[0], crops[1])
    assert np.array_equal(crops[0], crops[2])


def test_phases_without_a_box_find_the_place_in_millimetres(tmp_path: Path, write_nifti: Any) -> None:
    first = write_nifti(tmp_path / "pre.nii.gz", blob((6, 18, 20)), SPACING, origin=(10.0, -20.0, 5.0))
    # The same anatomy, the first slices, rows and columns cut off.
    second = write_nifti(
        tmp_path / "art.nii.gz", blob((6, 18, 20))[2:, 5:, 4:], SPACING, origin=(16.0, -12.5, 11.0)
    )
    images: dict[Phase, PhaseImage] = {
        "pre-contrast": PhaseImage("pre-contrast", first, box=around((6, 18, 20))),
        "arterial": PhaseImage("arterial", second),
    }
    chosen = study(phases=("pre-contrast", "arterial"), normalisation="none")
    prepared = prepare(RawCase("c", "p", images), chosen)
    np.testing.assert_allclose(prepared.volumes_pdhw[0], prepared.volumes_pdhw[1], rtol=2e-3)
    # The first box counts even where its phase is not of the study.
    alone = prepare(RawCase("c", "p", images), study(phases=("arterial",), normalisation="none"))
    assert np.array_equal(alone.volumes_pdhw[0], prepared.volumes_pdhw[1])
    far = write_nifti(tmp_path / "far.nii.gz", blob((6, 18, 20)), SPACING, origin=(900.0, 0.0, 0.0))
    images["arterial"] = PhaseImage("arterial", far)
    with pytest.raises(CaseError, match="lies outside this phase's volume"):
        prepare(RawCase("c", "p", images), chosen)


def test_a_mask_places_the_crop_and_is_the_lesion(tmp_path: Path, write_nifti: Any) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", blob((6, 18, 20)), SPACING)
    mask_dhw = np.zeros(SHAPE, dtype=np.uint8)
    mask_dhw[5:8, 16:21, 19:22] = 3
    mask_dhw[5, 16, 19] = 0
    mask = write_nifti(tmp_path / "m.nii.gz", mask_dhw, SPACING)
    raw = RawCase("c", "p", {"image": PhaseImage("image", image)}, mask=mask)
    chosen = study(phases=("image",), crop={"size": (7, 15, 15), "spacing_mm": SPACING})
    lesion = prepare(raw, chosen).lesion_dhw
    expected = np.zeros((7, 15, 15), dtype=np.uint8)
    expected[2:5, 5:10, 6:9] = 1
    expected[2, 5, 6] = 0
    assert np.array_equal(lesion, expected)

    # A mask that reaches the volume's edge does not go on into the padding.
    edge_dhw = np.zeros(SHAPE, dtype=np.uint8)
    edge_dhw[5:8, :3, 19:22] = 1
    edge = write_nifti(tmp_path / "edge.nii.gz", edge_dhw, SPACING)
    at_edge = np.argwhere(prepare(replace(raw, mask=edge), chosen).lesion_dhw)
    assert (at_edge.min(axis=0).tolist(), at_edge.max(axis=0).tolist()) == ([2, 6, 6], [4, 8, 8])

    shifted = write_nifti(tmp_path / "s.nii.gz", mask_dhw, SPACING, origin=(5.0, 0.0, 0.0))
    with pytest.raises(CaseError, match="the mask's grid is not that of phase image"):
        prepare(replace(raw, mask=shifted), chosen)
    empty = write_nifti(tmp_path / "e.nii.gz", np.zeros(SHAPE, dtype=np.uint8), SPACING)
    with pytest.raises(CaseError, match="mask is empty"):
        prepare(replace(raw, mask=empty), chosen)


def half_voxels(path: Path, write_nifti: Any) -> tuple[RawCase, DataSettings]:
    """Whole numbers, cut halfway between voxels: every sum is exact, whatever the machine."""
    images: dict[Phase, PhaseImage] = {}
    for i, phase in enumerate(PHASES[:3]):
        array = np.random.default_rng(i).integers(200, 800, SHAPE).astype(np.int16)
        # The third phase has every second voxel in plane.
        part = array[:, ::2, ::2] if i == 2 else array
        spacing = (3.0, 3.0, 3.0) if i == 2 else SPACING
        file = write_nifti(path / f"{phase}.nii.gz", part, spacing, origin=(1.5, -3.0, 6.0))
        images[phase] = PhaseImage(phase, file, box=Box((4, 10, 12), (9, 21, 25)) if i == 0 else None)
    chosen = study(
        phases=PHASES[:3], normalisation="none", crop={"size": (8, 16, 16), "spacing_mm": (6.0, 3.0, 3.0)}
    )
    return RawCase("c", "p", images), chosen


def test_cases_whose_phases_are_parallel_keep_every_bit(tmp_path: Path, write_nifti: Any) -> None:
    prepared = prepare(*half_voxels(tmp_path, write_nifti))
    digest = hashlib.sha256(prepared.volumes_pdhw.tobytes() + prepared.lesion_dhw.tobytes()).hexdigest()
    # From the code before phases could lie on turned grids.
    assert digest == "9519d35adc02c5b3e38aaeca8b7590ec2f0dcda85a70349378d102910a42f23c"


def test_a_slice_is_repeated_in_whatever_plane_it_was_cut(tmp_path: Path, write_nifti: Any) -> None:
    coronal = np.ascontiguousarray(blob((6, 18, 20)).transpose(1, 0, 2))
    direction = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    image = PhaseImage(
        "image",
        write_nifti(tmp_path / "a.nii.gz", coronal, (1.5, 3.0, 1.5), direction=direction),
        box=Box((14, 4, 16), (23, 9, 25)),
    )
    prepare(RawCase("c", "p", {"image": image}), study(phases=("image",)))
    coronal[19] = coronal[16]
    write_nifti(tmp_path / "a.nii.gz", coronal, (1.5, 3.0, 1.5), direction=direction)
    with pytest.raises(CaseError, match="a slice is repeated"):
        prepare(RawCase("c", "p", {"image": image}), study(phases=("image",)))


def test_the_lesion_s_phase_carries_the_mask(tmp_path: Path, write_nifti: Any) -> None:
    images: dict[Phase, PhaseImage] = {
        "pre-contrast": PhaseImage(
            "pre-contrast", write_nifti(tmp_path / "pre.nii.gz", blob((6, 18, 20)), SPACING)
        ),
        "delayed": PhaseImage(
            "delayed",
            write_nifti(
                tmp_path / "del.nii.gz", blob((6, 18, 20))[2:, 5:, 4:], SPACING, origin=(6.0, 7.5, 6.0)
            ),
        ),
    }
    mask_dhw = np.zeros((12, 35, 40), dtype=np.uint8)
    mask_dhw[3:6, 11:16, 15:18] = 1
    mask = write_nifti(tmp_path / "m.nii.gz", mask_dhw, SPACING, origin=(6.0, 7.5, 6.0))
    chosen = study(phases=("pre-contrast",), crop={"size": (7, 15, 15), "spacing_mm": SPACING})
    raw = RawCase("c", "p", images, mask=mask, lesion_phase="delayed")
    prepared = prepare(raw, chosen)
    assert peak(prepared.volumes_pdhw[0]) == (3, 7, 7)
    assert np.argwhere(prepared.lesion_dhw).mean(axis=0).tolist() == [3.0, 7.0, 7.0]
    with pytest.raises(CaseError, match="the mask's grid is not that of phase pre-contrast"):
        prepare(replace(raw, lesion_phase=None), chosen)
    with pytest.raises(CaseError, match="drawn on phase arterial, and there is no image of it"):
        replace(raw, lesion_phase="arterial")


def smooth_body(places_mm_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
    """A body that is known everywhere: a lesion at (10, -20, 30) mm, and waves that tell places apart."""
    z, y, x = np.moveaxis(places_mm_zyx, -1, 0)
    away = (z - 10) ** 2 + (y + 20) ** 2 + (x - 30) ** 2
    waves = np.sin(z / 7) + np.sin(y / 6 + 1) + np.sin(x / 5 + 2)
    return np.asarray(400 + 60 * waves + 300 * np.exp(-0.5 * away / 8**2), dtype=np.float32)


def imaged(
    path: Path,
    write_nifti: Any,
    turn: NDArray[np.float64],
    spacing: tuple[float, float, float],
    half_mm: float = 45.0,
) -> Path:
    """The body cut along turned axes (columns z, y, x), its middle at (12, -16, 33) mm."""
    shape = tuple(math.ceil(2 * half_mm / s) for s in spacing)
    matrix = turn * np.array(spacing)
    middle = (np.array(shape) - 1) / 2
    origin = np.array([12.0, -16.0, 33.0]) - matrix @ middle
    places = np.moveaxis(np.indices(shape), 0, -1) @ matrix.T + origin
    return Path(
        write_nifti(
            path, smooth_body(places), spacing, tuple(origin[::-1]), np.ascontiguousarray(turn[::-1, ::-1])
        )
    )


CORONAL = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SAGITTAL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("turn", "spacing"),
    [
        (Rotation.from_euler("xyz", (4, -7, 10), degrees=True).as_matrix(), (2.0, 1.2, 1.2)),
        (Rotation.from_euler("xyz", (40, 35, -44), degrees=True).as_matrix(), (1.5, 1.5, 1.5)),
        (CORONAL, (1.0, 1.4, 1.4)),
        (SAGITTAL, (1.3, 1.1, 1.2)),
        (CORONAL @ Rotation.from_euler("xyz", (5, 12, 3), degrees=True).as_matrix(), (1.6, 1.0, 1.0)),
    ],
)
def test_phases_on_turned_grids_come_to_lie_voxel_on_voxel(
    tmp_path: Path, write_nifti: Any, turn: NDArray[np.float64], spacing: tuple[float, float, float]
) -> None:
    axial = imaged(tmp_path / "pre.nii.gz", write_nifti, np.eye(3), (1.5, 1.0, 1.0))
    other = imaged(tmp_path / "art.nii.gz", write_nifti, turn, spacing)
    with_mask = np.zeros_like(NIBABEL.load(axial).get_fdata())
    header = NIBABEL.load(axial)
    at = np.linalg.solve(header.affine, [-30.0, 20.0, 10.0, 1.0])[:3].round().astype(int)
    with_mask[tuple(slice(i - 4, i + 5) for i in at)] = 1
    NIBABEL.save(NIBABEL.Nifti1Image(with_mask.astype(np.uint8), header.affine), tmp_path / "m.nii.gz")
    images: dict[Phase, PhaseImage] = {
        "pre-contrast": PhaseImage("pre-contrast", axial),
        "arterial": PhaseImage("arterial", other),
    }
    crop = {"size": (16, 24, 24), "spacing_mm": (2.0, 1.5, 1.5)}
    chosen = study(phases=("pre-contrast", "arterial"), normalisation="none", crop=crop)
    first, second = prepare(RawCase("c", "p", images, mask=tmp_path / "m.nii.gz"), chosen).volumes_pdhw
    error = np.abs(first.astype(float) - second.astype(float))
    assert error.max() < 12  # of a range of 660; linear interpolation of waves of 6 mm
    assert float(np.sqrt((error**2).mean())) < 3
    # The same lesion carried by the turned phase: the crop lies along that one's axes then.
    turned_mask = RawCase("c", "p", images, lesion_phase="arterial")
    first, second = prepare(turned_mask, chosen).volumes_pdhw
    assert np.abs(first.astype(float) - second.astype(float)).max() < 12


def test_a_lesion_smaller_than_a_voxel_of_the_crop_does_not_vanish(tmp_path: Path, write_nifti: Any) -> None:
    image = write_nifti(tmp_path / "a.nii.gz", blob((6, 18, 20)), SPACING)
    mask_dhw = np.zeros(SHAPE, dtype=np.uint8)
    mask_dhw[6, 18, 20] = 1
    mask = write_nifti(tmp_path / "m.nii.gz", mask_dhw, SPACING)
    raw = RawCase("c", "p", {"image": PhaseImage("image", image)}, mask=mask)
    coarse = study(phases=("image",), crop={"size": (4, 8, 8), "spacing_mm": (6.0, 5.0, 5.0)})
    lesion = prepare(raw, coarse).lesion_dhw
    assert lesion.any()
    assert np.argwhere(lesion).mean(axis=0) == pytest.approx([1.5, 3.5, 3.5])


def test_without_box_and_mask_the_whole_image_is_the_lesion(tmp_path: Path, write_nifti: Any) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", blob((6.5, 19.5, 21.5)), SPACING)
    raw = RawCase("c", "p", {"image": PhaseImage("image", path)})
    prepared = prepare(raw, study(phases=("image",), normalisation="z-score"))
    assert prepared.lesion_dhw.all()
    assert all(
        m in (n // 2 - 1, n // 2) for m, n in zip(peak(prepared.volumes_pdhw[0]), (8, 16, 16), strict=True)
    )


def test_a_binary_shape_in_memory_becomes_its_signed_distance() -> None:
    grid = np.indices((32, 32, 32)) - 15.5
    shape = (np.sqrt((grid**2).sum(axis=0)) < 9).astype(np.uint8) * 255
    raw = RawCase("c", "p", {"image": PhaseImage("image", None, array_dhw=shape, fitted=True)})
    crop = {"size": (16, 16, 16), "spacing_mm": (2.0, 2.0, 2.0)}
    chosen = study(phases=("image",), normalisation="signed-distance", crop=crop, clip=2.5)
    prepared = prepare(raw, chosen)
    coarse = np.sqrt(((np.indices((16, 16, 16)) - 7.5) ** 2).sum(axis=0)) * 2
    # One unit is an eighth of the crop's 32 mm.
    np.testing.assert_allclose(prepared.volumes_pdhw[0], np.clip((9 - coarse) / 4, -2.5, 2.5), atol=0.2)
    assert np.array_equal(prepared.lesion_dhw == 1, prepared.volumes_pdhw[0] > 0)


Spoil = Callable[[NDArray[np.float32]], None]


def _nan(a: NDArray[np.float32]) -> None:
    a[6, 18, 20] = np.nan


def _infinite(a: NDArray[np.float32]) -> None:
    a[6, 18, 20] = np.inf


def _constant(a: NDArray[np.float32]) -> None:
    a[:] = 4.0


def _repeated(a: NDArray[np.float32]) -> None:
    a[7] = a[5]


def _dark(a: NDArray[np.float32]) -> None:
    a -= 1000


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (_nan, "not numbers"),
        (_infinite, "not numbers"),
        (_constant, "has the value 4"),
        (_repeated, "a slice is repeated"),
        (_dark, "no positive signal"),
    ],
)
def test_spoilt_voxels_end_in_one_line_with_a_remedy(
    four_phases: RawCase, tmp_path: Path, write_nifti: Any, spoil: Spoil, what: str
) -> None:
    array = blob((7, 19, 19))
    spoil(array)
    path = write_nifti(tmp_path / "spoilt.nii.gz", array)
    images = dict(four_phases.images)
    images["arterial"] = replace(images["arterial"], path=path)
    with pytest.raises(CaseError, match=what) as caught:
        prepare(replace(four_phases, images=images), study())
    assert caught.value.remedy
    assert caught.value.where in (str(path), "case c1")


def test_a_box_outside_the_volume_names_the_file(four_phases: RawCase) -> None:
    images = dict(four_phases.images)
    images["delayed"] = replace(images["delayed"], box=Box((5, 18, 30), (8, 24, 50)))
    with pytest.raises(CaseError, match=r"delayed.nii.gz: .* reaches x = 49, outside the volume's 44 voxels"):
        prepare(replace(four_phases, images=images), study())


def test_no_phase_of_the_study_is_no_case(four_phases: RawCase) -> None:
    with pytest.raises(CaseError, match="none of the study's phases"):
        prepare(four_phases, study(phases=("hepatobiliary",)))


def test_voxels_too_large_for_sixteen_bits_are_not_made_infinite(tmp_path: Path, write_nifti: Any) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", blob((6, 18, 20)) * 1e4)
    raw = RawCase("c", "p", {"image": PhaseImage("image", path, SPACING, around((6, 18, 20)))})
    with pytest.raises(CaseError, match="too large"):
        prepare(raw, study(phases=("image",), normalisation="none"))
    huge = write_nifti(tmp_path / "b.nii.gz", blob((6, 18, 20)).astype(np.float64) * 1e300)
    raw = RawCase("c", "p", {"image": PhaseImage("image", huge, SPACING, around((6, 18, 20)))})
    with pytest.raises(CaseError, match="not numbers"):
        prepare(raw, study(phases=("image",)))
