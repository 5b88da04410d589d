from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from phcc_client.imaging.normalise import normalise, signed_distance, surroundings
from phcc_model.config import CropSettings, DataSettings
from phcc_model.errors import CaseError

SIZE = (6, 16, 16)
LESION = np.zeros(SIZE, dtype=np.uint8)
LESION[2:4, 5:11, 5:11] = 1


def study(**changes: object) -> DataSettings:
    return DataSettings.model_validate({"crop": CropSettings(size=SIZE), **changes})


def run(
    volumes: NDArray[np.float32], settings: DataSettings, present: list[bool] | None = None
) -> NDArray[np.float32]:
    there = np.array(present or [True] * len(volumes))
    return normalise(volumes, there, np.ones(volumes.shape, dtype=bool), LESION, settings)


def enhancing(liver: list[float], lesion: list[float]) -> NDArray[np.float32]:
    volumes = np.stack([np.full(SIZE, value, dtype=np.float32) for value in liver])
    for volume, value in zip(volumes, lesion, strict=True):
        volume[LESION == 1] = value
    return volumes


def noisy(seed: int = 0, phases: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(200, 800, (phases, *SIZE)).astype(np.float32)


def test_log_ratio_is_the_logarithm_of_enhancement() -> None:
    volumes = enhancing([100, 120, 200, 180], [80, 160, 160, 120])
    result = run(volumes, study(smoothing_voxels=0.0))
    lesion, liver = result[:, LESION == 1], result[:, LESION == 0]
    expected_lesion = np.log([80 / 100, 160 / 80, 160 / 80, 120 / 80])
    expected_liver = np.log([1, 120 / 100, 200 / 100, 180 / 100])
    np.testing.assert_allclose(lesion, np.broadcast_to(expected_lesion[:, None], lesion.shape), atol=1e-5)
    np.testing.assert_allclose(liver, np.broadcast_to(expected_liver[:, None], liver.shape), atol=1e-5)


@pytest.mark.parametrize("why", ["missing", "not asked for"])
def test_without_pre_contrast_every_phase_is_measured_by_its_own_liver(why: str) -> None:
    volumes = enhancing([100, 120, 200, 180], [80, 160, 160, 120])
    if why == "missing":
        volumes[0] = 0
        result = run(volumes, study(smoothing_voxels=0.0), [False, True, True, True])
        assert not result[0].any()
        result = result[1:]
    else:
        phases = ("arterial", "portal-venous", "delayed")
        result = run(volumes[1:], study(smoothing_voxels=0.0, phases=phases))
    expected = np.log([160 / 120, 160 / 200, 120 / 180])
    np.testing.assert_allclose(result[:, 2, 7, 7], expected, atol=1e-5)
    np.testing.assert_allclose(result[:, 0, 0, 0], 0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.01, 100.0), seed=st.integers(0, 20))
def test_the_receiver_s_gain_cancels(gain: float, seed: int) -> None:
    volumes = noisy(seed)
    for way in ("log-ratio", "own-liver", "z-score"):
        chosen = study(normalisation=way)
        np.testing.assert_allclose(run(volumes * np.float32(gain), chosen), run(volumes, chosen), atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(gains=st.tuples(*[st.floats(0.1, 10.0)] * 4))
def test_own_liver_cancels_a_gain_of_each_phase(gains: tuple[float, ...]) -> None:
    scaled = noisy() * np.array(gains, dtype=np.float32)[:, None, None, None]
    chosen = study(normalisation="own-liver")
    np.testing.assert_allclose(run(scaled, chosen), run(noisy(), chosen), atol=2e-4)


def test_brightness_of_a_patient_s_lesion_cancels_in_the_ratios() -> None:
    plain = enhancing([100, 120, 200, 180], [80, 160, 160, 120])
    bright = enhancing([100, 120, 200, 180], [120, 240, 240, 180])
    a, b = (run(v, study(smoothing_voxels=0.0)) for v in (plain, bright))
    np.testing.assert_allclose(a[1:], b[1:], atol=1e-5)
    assert abs(a[0] - b[0]).max() > 0.3


def test_air_noise_and_negative_voxels_stay_within_the_clip() -> None:
    volumes = noisy()
    volumes[:, :, :3] = 0.0
    volumes[1, :, 3:5] = -5.0
    volumes[2, :, 5] = 1e6
    for way in ("log-ratio", "own-liver"):
        result = run(volumes, study(normalisation=way, clip=1.5, smoothing_voxels=0.0))
        assert np.isfinite(result).all()
        assert abs(result).max() == pytest.approx(1.5)


def test_smoothing_is_in_plane_only() -> None:
    volumes = np.full((1, *SIZE), 100, dtype=np.float32)
    volumes[0, 1, 4, 4] = 400
    sharp, smooth = (
        run(volumes, study(phases=("arterial",), smoothing_voxels=sigma))[0] for sigma in (0.0, 0.8)
    )
    assert smooth[1, 4, 4] < sharp[1, 4, 4]
    assert smooth[1, 4, 5] > 0
    assert not smooth[[0, 2]].any()


def test_z_score_counts_image_and_not_padding() -> None:
    volumes = noisy(phases=1)
    inside = np.ones(volumes.shape, dtype=bool)
    inside[0, 3:] = False
    volumes[0, 3:] = 10_000
    chosen = study(phases=("image",), normalisation="z-score")
    result = normalise(volumes, np.array([True]), inside, LESION, chosen)
    assert result[0, :3].mean() == pytest.approx(0, abs=1e-4)
    assert result[0, :3].std() == pytest.approx(1, abs=1e-4)


def test_a_phase_without_signal_or_contrast_is_refused() -> None:
    volumes = noisy()
    volumes[2] = 0
    with pytest.raises(CaseError, match="phase portal-venous has no positive signal"):
        run(volumes, study())
    with pytest.raises(CaseError, match="phase portal-venous does not vary"):
        run(volumes, study(normalisation="z-score"))


def test_none_leaves_the_scanner_s_units() -> None:
    assert np.array_equal(run(noisy(), study(normalisation="none")), noisy())


def test_the_surroundings_speak_for_the_liver_even_where_the_lesion_fills_the_crop() -> None:
    inside = np.ones(SIZE, dtype=bool)
    inside[:, :4] = False
    assert np.array_equal(surroundings(LESION, inside), inside & (LESION == 0))
    rim = surroundings(np.ones(SIZE, dtype=np.uint8), inside)
    assert rim[:, 14:].all()
    assert rim[:, 4:, :2].all()
    assert not rim[:, 4:14, 2:14].any()
    assert not rim[:, :4].any()


@settings(max_examples=20, deadline=None)
@given(spacing=st.tuples(*[st.floats(0.5, 4.0)] * 3), seed=st.integers(0, 50), share=st.floats(0.02, 0.6))
def test_signed_distance_is_exact_on_both_sides(
    spacing: tuple[float, float, float], seed: int, share: float
) -> None:
    shape = np.random.default_rng(seed).random((7, 9, 8)) < share
    shape[3, 4, 4], shape[0, 0, 0] = True, False
    half = min(spacing) / 2
    inside = distance_transform_edt(shape, sampling=spacing) - half
    outside = half - distance_transform_edt(~shape, sampling=spacing)
    result = signed_distance((shape * 255).astype(np.uint8), spacing)
    np.testing.assert_allclose(result, np.where(shape, inside, outside), atol=1e-4)


def test_signed_distance_of_a_ball_is_its_radius_minus_the_distance_to_its_centre() -> None:
    grid = np.indices((33, 33, 33)) - 16.0
    away = np.sqrt((grid**2).sum(axis=0))
    result = signed_distance(away <= 10, (1.0, 1.0, 1.0))
    assert abs(result - (10.25 - away)).max() < 0.8
    assert result[16, 16, 16] > 0 > result[0, 0, 0]
