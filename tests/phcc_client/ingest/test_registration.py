from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from phcc_client.imaging.case import PhaseImage, RawCase
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.preprocess import prepare
from phcc_client.imaging.volume import read_header, read_voxels
from phcc_client.ingest.registration import Registered, register
from phcc_client.ingest.registration_edges import match
from phcc_client.ingest.registration_residual import residual_shift_mm
from phcc_client.ingest.registration_rigid import Motion
from phcc_model.config import DataSettings, PhantomSettings, Phase
from phcc_model.seeds import generator
from phcc_simulation.phantom.anatomy import Anatomy
from phcc_simulation.phantom.patient import PHANTOM_PHASES, patient_signs
from phcc_simulation.phantom.scanner import TRAINING_CENTRES, Receiver, ScannerProfile, acquire
from phcc_simulation.phantom.tissues import draw_physiology, phase_signals

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
NIBABEL: Any = nibabel
ITK: Any = SimpleITK
Located = tuple[NDArray[np.float32], Grid]
PAIRS: tuple[tuple[Phase, Phase], ...] = (
    ("portal-venous", "pre-contrast"),
    ("pre-contrast", "arterial"),
    ("arterial", "delayed"),
    ("portal-venous", "arterial"),
)
CORONAL = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Pair:
    """Two phases of one phantom patient in one place, noise and contrast their own; the lesion."""

    fixed: Located
    moving: Located
    centre_mm: NDArray[np.float64]
    radius_mm: float

    @property
    def corners(self) -> NDArray[np.float64]:
        signs = np.array(np.meshgrid(*[(-1.0, 1.0)] * 3)).reshape(3, -1).T
        return self.centre_mm + signs * self.radius_mm

    def registered(self, moving: Located, method: Any = "rigid") -> Registered:
        return register(
            self.fixed,
            moving,
            method=method,
            lesion_centre_mm_zyx=self.centre_mm,
            lesion_radius_mm=self.radius_mm,
        )

    def off_by(self, grid: Grid) -> float:
        """How far a corner of the lesion's box is from where it belongs, at most, in mm."""
        index = (self.corners - self.moving[1].origin_mm) @ np.linalg.inv(self.moving[1].matrix).T
        now = index @ grid.matrix.T + grid.origin_mm
        return float(np.linalg.norm(now - self.corners, axis=1).max())


def _scanned(
    anatomy: Anatomy, profile: ScannerProfile, signs: Any, signal: Any, phase: int, seed: int
) -> Located:
    receiver = Receiver.draw(profile, generator(5, "receiver", profile.centre))
    at_phase = {name: float(values[phase]) for name, values in signal.items()}
    painted = anatomy.paint(anatomy.parts(profile.axes), signs, at_phase, enhanced=phase > 0)
    volume = acquire(painted, profile, receiver, np.random.default_rng(seed), 1.0)
    matrix = np.diag(profile.spacing_zyx)
    middle = (np.array(profile.shape_zyx) - 1) / 2
    return volume.astype(np.float32), Grid(profile.shape_zyx, matrix, -matrix @ middle)


@cache
def pair(number: int, other_grid: bool = False) -> Pair:
    profile = TRAINING_CENTRES[number % len(TRAINING_CENTRES)]
    study = PhantomSettings()
    signs = patient_signs(study, profile, number)
    physiology = draw_physiology(profile, bool(signs.washout), generator(5, "physiology", number))
    signal = phase_signals(physiology, profile)
    anatomy = Anatomy.draw(signs, profile.half_extent_mm, generator(5, "anatomy", number))
    second = profile
    if other_grid:
        d, h, w = profile.shape_zyx
        z, y, x = profile.spacing_zyx
        second = replace(profile, shape_zyx=(int(d * 0.8), int(h * 0.9), int(w * 0.9)))
        second = replace(second, spacing_zyx=(z / 0.85, y / 0.92, x / 0.92))
    first, other = (PHANTOM_PHASES.index(phase) for phase in PAIRS[number % len(PAIRS)])
    return Pair(
        _scanned(anatomy, profile, signs, signal, first, 2 * number),
        _scanned(anatomy, second, signs, signal, other, 2 * number + 1),
        np.array(anatomy.centre_mm),
        anatomy.radius_mm,
    )


def moved(grid: Grid, shift_mm: Any, degrees: Any, about_mm: NDArray[np.float64]) -> Grid:
    """The same image elsewhere: turned about a place, then shifted."""
    turn = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
    return replace(
        grid, matrix=turn @ grid.matrix, origin_mm=turn @ (grid.origin_mm - about_mm) + about_mm + shift_mm
    )


def within_a_ball(radius: float) -> st.SearchStrategy[NDArray[np.float64]]:
    direction = (
        st.tuples(*[st.floats(-1.0, 1.0)] * 3).map(np.array).filter(lambda v: np.linalg.norm(v) > 0.05)
    )
    return st.builds(lambda v, r: v / np.linalg.norm(v) * r, direction, st.floats(0.0, radius))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    number=st.integers(0, 11),
    other_grid=st.booleans(),
    shift_mm=within_a_ball(8.0),
    degrees=within_a_ball(3.0),
)
def test_a_shift_of_up_to_8_mm_and_3_degrees_is_undone(
    number: int, other_grid: bool, shift_mm: NDArray[np.float64], degrees: NDArray[np.float64]
) -> None:
    case = pair(number, other_grid)
    found = case.registered((case.moving[0], moved(case.moving[1], shift_mm, degrees, case.centre_mm)))
    assert found.note == ""
    assert case.off_by(found.grid) < 0.5  # 1 mm is what was asked for
    assert found.array_dhw is case.moving[0]  # the voxels stay as they were measured
    assert found.shift_mm == pytest.approx(float(np.linalg.norm(shift_mm)), abs=0.4)


def test_a_breath_of_22_mm_is_undone() -> None:
    case = pair(1)
    away = moved(case.moving[1], (20.0, -8.0, 3.0), (5.0, 2.0, -3.0), case.centre_mm)
    assert case.off_by(case.registered((case.moving[0], away)).grid) < 0.5


@pytest.mark.parametrize("number", range(6))
def test_what_did_not_move_stays(number: int) -> None:
    case = pair(number, number % 2 == 1)
    found = case.registered(case.moving)
    assert case.off_by(found.grid) < 0.3
    assert found.residual_mm is not None
    assert found.residual_mm < 0.5


def test_a_phase_cut_in_another_plane_is_brought_to_the_axial_one() -> None:
    case = pair(4)
    array, grid = case.moving
    # The same voxels as a coronal stack: other axes, other order.
    stored = np.ascontiguousarray(array.transpose(1, 0, 2)[::-1])
    coronal = Grid(
        (array.shape[1], array.shape[0], array.shape[2]),
        np.stack([-grid.matrix[:, 1], grid.matrix[:, 0], grid.matrix[:, 2]], axis=1),
        grid.to_mm(np.array([0.0, array.shape[1] - 1.0, 0.0])),
    )
    away = moved(coronal, (4.0, -3.0, 2.0), (1.0, 2.0, -1.0), case.centre_mm)
    found = case.registered((stored, away))
    index = (case.corners - coronal.origin_mm) @ np.linalg.inv(coronal.matrix).T
    now = index @ found.grid.matrix.T + found.grid.origin_mm
    assert found.aligned == "rigid"
    assert np.linalg.norm(now - case.corners, axis=1).max() < 0.5


def test_twice_is_the_same_to_the_last_bit() -> None:
    case = pair(0)
    away = moved(case.moving[1], (5.0, 3.0, -2.0), (1.0, -2.0, 1.0), case.centre_mm)
    for method in ("rigid", "deformable"):
        one, two = (case.registered((case.moving[0].copy(), away), method) for _ in range(2))
        assert one.grid.matrix.tobytes() == two.grid.matrix.tobytes()
        assert one.grid.origin_mm.tobytes() == two.grid.origin_mm.tobytes()
        assert np.array_equal(one.array_dhw, two.array_dhw)
        assert (one.residual_mm, one.shift_mm) == (two.residual_mm, two.shift_mm)


def test_off_moves_nothing_and_measures_the_shift() -> None:
    case = pair(6)
    away = moved(case.moving[1], (0.0, 6.0, 0.0), (0.0, 0.0, 0.0), case.centre_mm)
    found = case.registered((case.moving[0], away), "off")
    assert (found.aligned, found.shift_mm, found.grid) == ("off", 0.0, away)
    assert found.residual_mm == pytest.approx(6.0, abs=0.5)
    assert case.registered((case.moving[0], away)).residual_mm == pytest.approx(0.0, abs=0.5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    number=st.integers(0, 11),
    other_grid=st.booleans(),
    shift_mm=within_a_ball(8.0),
    degrees=within_a_ball(3.0),
)
def test_the_residual_is_measured_to_half_a_millimetre(
    number: int, other_grid: bool, shift_mm: NDArray[np.float64], degrees: NDArray[np.float64]
) -> None:
    case = pair(number, other_grid)
    away = moved(case.moving[1], shift_mm, degrees, case.centre_mm)
    measured = residual_shift_mm(case.fixed, (case.moving[0], away), case.centre_mm, case.radius_mm + 35)
    assert measured == pytest.approx(float(np.linalg.norm(shift_mm)), abs=0.7)


def test_the_slope_of_the_criterion_is_its_slope() -> None:
    case = pair(3)
    level = match(
        case.fixed, case.moving, case.centre_mm, np.full(3, 45.0), scale_mm=2.0, step_mm=4.0, far_mm=20.0
    )
    assert level is not None
    turn, shift = Rotation.from_rotvec([0.05, -0.02, 0.03]).as_matrix(), np.array([1.0, 2.0, -1.5])
    _, slope = level.score_and_slope(turn, shift)
    step = 1e-5
    turns = [
        tuple(level.score(Rotation.from_rotvec(s * step * axis).as_matrix() @ turn, shift) for s in (1, -1))
        for axis in np.eye(3)
    ]
    shifts = [tuple(level.score(turn, shift + s * step * axis) for s in (1, -1)) for axis in np.eye(3)]
    numeric = [(ahead - behind) / (2 * step) for ahead, behind in (*turns, *shifts)]
    np.testing.assert_allclose(slope, numeric, rtol=0.02, atol=2e-4)


def bent_by(
    array: NDArray[np.float32], grid: Grid, most_mm: float
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """An image as if its tissue had shifted smoothly, and the shifts in mm (z, y, x)."""
    noise = np.random.default_rng(0).standard_normal((3, *array.shape))
    spread = 20.0 / grid.spacing_mm_dhw
    shifts = np.stack([gaussian_filter(part, spread, mode="wrap") for part in noise])
    shifts *= most_mm / np.abs(shifts).max()
    places = np.indices(array.shape) + shifts / grid.spacing_mm_dhw[:, None, None, None]
    return map_coordinates(array, places, order=3, mode="nearest").astype(np.float32), shifts


def test_a_bent_liver_is_brought_closer_than_by_a_rigid_motion() -> None:
    case = pair(3)
    array, grid = case.moving
    bent, _ = bent_by(array, grid, 6.0)
    rigid, deformable = (case.registered((bent, grid), method) for method in ("rigid", "deformable"))
    assert (deformable.aligned, deformable.note) == ("deformable", "")
    steps = np.arange(-case.radius_mm, case.radius_mm + 1, 2.0)
    places = (
        np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3) + case.centre_mm
    )

    def seen(image: NDArray[np.float32], where: Grid) -> NDArray[np.float64]:
        smooth = gaussian_filter(image, 0.8)
        index = (places - where.origin_mm) @ np.linalg.inv(where.matrix).T
        return np.asarray(map_coordinates(smooth, index.T, order=1, mode="nearest"), dtype=np.float64)

    truth = seen(array, grid)
    errors = [float(np.sqrt(((seen(r.array_dhw, r.grid) - truth) ** 2).mean())) for r in (rigid, deformable)]
    assert errors[1] < 0.8 * errors[0]
    # It lies on the reference's own voxels.
    index = np.linalg.solve(case.fixed[1].matrix, deformable.grid.origin_mm - case.fixed[1].origin_mm)
    np.testing.assert_allclose(index, index.round(), atol=1e-6)


def _empty(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.zeros_like(array)


def _one_value(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full_like(array, 7.0)


def _noise(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 100, array.shape).astype(np.float32)


def _bright(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array * np.float32(1e12)


def _dark(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return array * np.float32(1e-12)


@pytest.mark.parametrize(
    ("spoil", "method"),
    [
        *((spoil, method) for spoil in (_empty, _one_value) for method in ("off", "rigid", "deformable")),
        *((spoil, "rigid") for spoil in (_noise, _bright, _dark)),
    ],
)
def test_images_without_sense_are_left_where_they_are(
    spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]], method: str
) -> None:
    case = pair(2)
    found = case.registered((spoil(case.moving[0]), case.moving[1]), method)
    assert np.isfinite(found.array_dhw).all()
    assert np.isfinite(found.grid.matrix).all()
    if spoil in (_empty, _one_value):
        assert (found.aligned, found.residual_mm) == ("off", None)
        assert method == "off" or "too little of both phases" in found.note
    if spoil in (_bright, _dark) and method == "rigid":
        assert case.off_by(found.grid) < 0.5


@pytest.mark.parametrize("method", ["off", "rigid", "deformable"])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 5, 5), (1, 1, 1), (3, 64, 2)])
def test_images_that_are_too_thin_are_left_where_they_are(shape: tuple[int, int, int], method: Any) -> None:
    case = pair(0)
    d, h, w = shape
    thin = np.ascontiguousarray(case.moving[0][8 : 8 + d, :h, :w])
    found = case.registered((thin, replace(case.moving[1], shape_dhw=shape)), method)
    assert found.aligned == "off"
    other = register(
        (thin, replace(case.moving[1], shape_dhw=shape)),
        case.moving,
        method=method,
        lesion_centre_mm_zyx=case.centre_mm,
    )
    assert other.aligned == "off"


def test_a_phase_somewhere_else_is_left_there() -> None:
    case = pair(0)
    for shift in (55.0, 400.0):
        away = moved(case.moving[1], (0.0, shift, 0.0), (0.0, 0.0, 0.0), case.centre_mm)
        found = case.registered((case.moving[0], away))
        assert found.aligned == "off" or case.off_by(found.grid) < 0.5
        assert found.aligned != "off" or (found.grid is away and found.note)


def test_another_patient_s_images_are_not_made_to_fit_far_away() -> None:
    case, stranger = pair(0), pair(9)
    found = case.registered(stranger.moving)
    if found.aligned == "rigid":
        assert found.shift_mm < 40
    else:
        assert found.note


def test_motion_and_its_undoing() -> None:
    grid = Grid((5, 6, 7), np.diag([3.0, 1.0, 2.0]), np.array([4.0, 5.0, 6.0]))
    turn = Rotation.from_euler("xyz", (2, 3, -4), degrees=True).as_matrix()
    motion = Motion(turn, np.array([3.0, -2.0, 1.0]), np.array([9.0, 8.0, 7.0]))
    back = motion.undone(
        moved(grid, motion.shift_mm, Rotation.from_matrix(turn).as_rotvec(True), motion.centre_mm)
    )
    np.testing.assert_allclose(back.matrix, grid.matrix, atol=1e-12)
    np.testing.assert_allclose(back.origin_mm, grid.origin_mm, atol=1e-12)


def write(path: Path, array: NDArray[Any], grid: Grid) -> Path:
    affine = np.eye(4)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = to_ras @ grid.matrix[::-1, ::-1]
    affine[:3, 3] = to_ras @ grid.origin_mm[::-1]
    NIBABEL.save(NIBABEL.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def test_a_registered_case_is_prepared_like_one_that_never_moved(tmp_path: Path) -> None:
    """From registration through files to the crops that training sees."""
    case = pair(7)
    fixed_phase, phase = PAIRS[3]
    array, grid = case.moving
    away = moved(grid, (6.0, -4.0, 3.0), (2.0, -1.5, 1.0), case.centre_mm)
    found = case.registered((array, away))
    fixed = write(tmp_path / "fixed.nii.gz", *case.fixed)
    steps = np.moveaxis(np.indices(case.fixed[1].shape_dhw), 0, -1) @ case.fixed[1].matrix.T
    from_centre = np.linalg.norm(steps + case.fixed[1].origin_mm - case.centre_mm, axis=-1)
    mask = write(tmp_path / "m.nii.gz", (from_centre < case.radius_mm).astype(np.uint8), case.fixed[1])
    study = DataSettings.model_validate(
        {
            "source": "nifti-csv",
            "phases": ("arterial", "portal-venous"),
            "normalisation": "none",
            "crop": {"size": (16, 28, 28), "spacing_mm": (2.5, 1.5, 1.5)},
        }
    )

    def crops(name: str, where: Grid) -> NDArray[np.float64]:
        images: dict[Phase, PhaseImage] = {
            fixed_phase: PhaseImage(fixed_phase, fixed),
            phase: PhaseImage(phase, write(tmp_path / f"{name}.nii.gz", array, where)),
        }
        raw = RawCase(name, name, images, mask=mask, lesion_phase=fixed_phase)
        return prepare(raw, study).volumes_pdhw.astype(np.float64)

    never, still_away, registered = crops("never", grid), crops("away", away), crops("registered", found.grid)
    assert np.array_equal(never[1], registered[1])  # the reference phase
    before, after = (np.sqrt(((c[0] - never[0]) ** 2).mean()) for c in (still_away, registered))
    assert after < 0.25 * before
    assert np.corrcoef(never[0].ravel(), registered[0].ravel())[0, 1] > 0.97


def load(path: Path) -> Located:
    if path.suffix != ".nrrd":
        header = read_header(path)
        return np.ascontiguousarray(header.scaled(read_voxels(header))), header.grid
    image = ITK.ReadImage(str(path))
    stored = ITK.GetArrayFromImage(image).astype(np.float32)
    matrix = (np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing()))[::-1, ::-1]
    grid = Grid.turned(stored.shape, matrix, np.array(image.GetOrigin())[::-1])
    return np.ascontiguousarray(grid.turn(stored), dtype=np.float32), grid


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real volumes are not here")
@pytest.mark.parametrize(
    ("image", "label", "value"),
    [
        ("totalsegmentator/example_mr_sm.nii.gz", "totalsegmentator/example_seg_mr.nii.gz", 5),
        *(
            (f"pyradiomics_mr/data/{n}_image.nrrd", f"pyradiomics_mr/data/{n}_label.nrrd", 1)
            for n in ("brain1", "brain2", "breast1")
        ),
    ],
)
def test_real_mr_moved_by_a_known_motion_comes_back(image: str, label: str, value: int) -> None:
    array, grid = load(SHARED / image)
    mask = load(SHARED / label)[0] == value
    centre = grid.to_mm(np.argwhere(mask).mean(axis=0))
    volume = float(mask.sum()) * abs(float(np.linalg.det(grid.matrix)))
    radius = min(max((3 * volume / (4 * np.pi)) ** (1 / 3), 8.0), 25.0)
    # Another contrast (dark and bright change places in part), a bias field and noise.
    level = array / np.percentile(array, 99)
    y, x = (np.linspace(-0.3, 0.3, n) for n in array.shape[1:])
    other = (np.abs(np.sin(2.2 * level)) + 0.15 * level) * np.exp(y[:, None] + x)
    other += 0.05 * np.random.default_rng(0).standard_normal(array.shape)
    case = Pair((array, grid), (other.astype(np.float32), grid), centre, radius)
    away = moved(grid, (5.0, -4.0, 3.0), (1.5, -2.0, 1.0), centre)
    found = case.registered((case.moving[0], away))
    assert found.aligned == "rigid"
    assert case.off_by(found.grid) < 0.5
