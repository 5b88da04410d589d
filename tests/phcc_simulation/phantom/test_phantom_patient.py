"""Fields, anatomy, tissues, scanners and whole patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.config import PhantomSettings, Phase
from phcc_model.errors import ConfigError
from phcc_model.seeds import generator
from phcc_simulation.phantom import PHANTOM_VERSION
from phcc_simulation.phantom import anatomy as a
from phcc_simulation.phantom.centres import centres_of
from phcc_simulation.phantom.fields import RandomField
from phcc_simulation.phantom.patient import (
    PHANTOM_PHASES,
    Box,
    make_patient,
    patient_signs,
    present_phases,
)
from phcc_simulation.phantom.scanner import (
    EXTERNAL_CENTRE,
    TRAINING_CENTRES,
    Receiver,
    ScannerProfile,
    acquire,
)
from phcc_simulation.phantom.signs import PatientSigns
from phcc_simulation.phantom.tissues import draw_physiology, phase_signals

DEFAULT = PhantomSettings()
C1 = TRAINING_CENTRES[0]
PLAIN = PatientSigns(0, 0, 0, 0, 0, 0, 0.0, 0.0)

# External patient 4 of the default phantom, version 1: label, rim, core, wash-out; voxels of the lesion; mean
# and standard deviation of each phase in scanner units.
FROZEN_SIGNS = (1, 1, 0, 1)
FROZEN_VOXELS = 1551
FROZEN_LEVELS: dict[Phase, tuple[float, float]] = {
    "pre-contrast": (150.34, 29.70),
    "arterial": (227.62, 40.46),
    "portal-venous": (370.64, 71.51),
    "delayed": (276.99, 53.41),
}


def test_a_random_field_has_unit_variance_everywhere_and_is_smooth() -> None:
    rng = generator(0, "fields")
    axes = (np.linspace(-20, 20, 9), np.linspace(-30, 30, 25), np.linspace(-30, 30, 25))
    draws = np.stack([RandomField.draw(rng, (20, 30, 30), (8.0, 10.0, 10.0)).at(axes) for _ in range(300)])
    assert draws.std(axis=0).min() > 0.8
    assert draws.std(axis=0).max() < 1.2
    assert draws.std() == pytest.approx(1.0, abs=0.03)
    near = np.corrcoef(draws[:, 4, 12, 12], draws[:, 4, 12, 13])[0, 1]
    far = np.corrcoef(draws[:, 4, 12, 0], draws[:, 4, 12, 24])[0, 1]
    assert near > 0.9
    assert abs(far) < 0.25


def test_a_field_is_the_same_on_every_grid() -> None:
    field = RandomField.draw(generator(0, "grid"), (20, 20, 20), (6.0, 6.0, 6.0))
    fine = np.linspace(-18.0, 18.0, 37)
    coarse = fine[::4]
    on_fine, on_coarse = field.at((fine, fine, fine)), field.at((coarse, coarse, coarse))
    np.testing.assert_allclose(on_fine[::4, ::4, ::4], on_coarse, atol=1e-5)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_box_is_the_smallest_that_holds_its_voxels(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[tuple(np.array(voxels).T)] = True
    box = Box.around(mask)
    inside = mask[tuple(slice(lo, hi) for lo, hi in zip(box.start_zyx, box.stop_zyx, strict=True))]
    assert inside.sum() == mask.sum()
    for axis in range(3):
        assert inside.take(0, axis).any()
        assert inside.take(-1, axis).any()
    with pytest.raises(ValueError, match="empty mask"):
        Box.around(np.zeros((2, 2, 2), dtype=bool))


def mean_signals(washout: bool, profile: ScannerProfile = C1) -> dict[str, np.ndarray]:
    physiology = draw_physiology(profile, washout, generator(0, "mean"), spread=0.0)
    return {str(name): values for name, values in phase_signals(physiology, profile).items()}


@pytest.mark.parametrize("profile", [*TRAINING_CENTRES, EXTERNAL_CENTRE], ids=lambda p: p.centre)
def test_mean_curves_have_the_patterns_that_radiologists_know(profile: ScannerProfile) -> None:
    """Enhancing lesion: brighter than liver in the arterial phase. Wash-out: darker later. METHOD 6."""
    plain, washout = mean_signals(False, profile), mean_signals(True, profile)
    liver = plain["liver"]
    assert liver[0] == pytest.approx(1.0)
    assert liver[2] > liver[3] > liver[0]  # the liver is brightest in the portal venous phase
    assert liver[1] < liver[2]
    for lesion in (plain["lesion"], washout["lesion"]):
        assert lesion[0] / liver[0] < 1.0
        assert 1.3 < lesion[1] / liver[1] < 2.3
    assert washout["lesion"][2] / liver[2] < 0.90
    assert plain["lesion"][3] / liver[3] > 0.97
    for dark in ("fibrosis", "necrosis"):
        assert (plain[dark][1:] < 0.95 * plain["lesion"][1:]).all()
    assert plain["vessel"][2] > liver[2]


def test_a_rim_shows_in_the_arterial_phase_alone_and_leaves_the_lesions_mean() -> None:
    for washout in (False, True):
        signal = mean_signals(washout)
        ratio = signal["rim"] / signal["inner"]
        assert ratio[0] == pytest.approx(1.0)
        assert ratio[1] > 1.3
        assert ratio[2:] == pytest.approx(1.0, abs=0.10)
        balanced = 0.58 * signal["rim"] + 0.42 * signal["inner"]  # a shell of a quarter of the radius
        assert balanced == pytest.approx(signal["lesion"], rel=0.08)


def test_spread_zero_gives_the_mean_patient_and_physiology_is_reproducible() -> None:
    first, again = (draw_physiology(C1, True, generator(4, "p")) for _ in range(2))
    assert first == again
    assert draw_physiology(C1, True, generator(4, "p"), 0.0) == draw_physiology(
        C1, True, generator(9, "q"), 0.0
    )
    assert first.t1_factor["rim"] == first.t1_factor["lesion"]


def test_parts_and_labels_agree() -> None:
    signs = PatientSigns(1, 1, 1, 0, 0, 0, 0.0, 0.0)
    anatomy = a.Anatomy.draw(signs, C1.half_extent_mm, generator(7, "anatomy"))
    parts = anatomy.parts(C1.axes)
    labels = anatomy.label_map(parts, signs)
    assert set(np.unique(labels)) <= {0, *a.LABELS.values()}
    np.testing.assert_array_equal(labels > 0, parts.lesion > 0.5)
    volume = (labels > 0).sum() * np.prod(C1.spacing_zyx)
    assert volume == pytest.approx(4 / 3 * np.pi * np.prod(anatomy.half_axes_mm), rel=0.25)
    core = (labels == a.CORE).sum() / (labels > 0).sum()
    assert 0.15 < core < 0.40  # planted as a fifth or more of the lesion
    assert (labels == a.RIM).any()
    assert not (labels == a.RIM_MIMIC).any()


def test_moving_the_liver_by_one_voxel_moves_everything_by_one_voxel() -> None:
    anatomy = a.Anatomy.draw(PLAIN, C1.half_extent_mm, generator(8, "anatomy"))
    dz, dy, dx = C1.spacing_zyx
    still, moved = anatomy.parts(C1.axes), anatomy.parts(C1.axes, (dz, -dy, 2 * dx))
    for name in ("lesion", "inner", "core", "vessel", "liver_texture"):
        before, after = getattr(still, name), getattr(moved, name)
        np.testing.assert_allclose(after[1:, :-1, 2:], before[:-1, 1:, :-2], atol=2e-3, err_msg=name)


def test_painting_shows_each_sign_where_it_is_planted() -> None:
    drawn = a.Anatomy.draw(PLAIN, C1.half_extent_mm, generator(9, "anatomy"))
    anatomy = replace(drawn, has_capsule=False)  # it would cover the rim in part
    parts = anatomy.parts(C1.axes)
    inside = parts.lesion > 0.9
    outer = inside & (parts.inner < 0.1)
    core = inside & (parts.core > 0.9)

    def contrast(region: np.ndarray, phase: int, **signs: int) -> float:
        """Region over the lesion's deeper part outside the core, relative to the same without signs."""
        rest = inside & (parts.inner > 0.9) & (parts.core < 0.1)
        signal = {name: float(values[phase]) for name, values in mean_signals(False).items()}
        values = []
        for planted in (PatientSigns(**{**PLAIN.as_row(), **signs}), PLAIN):  # type: ignore[arg-type]
            image = anatomy.paint(parts, planted, signal, enhanced=phase > 0)  # type: ignore[arg-type]
            values.append(image[region].mean() / image[rest].mean())
        return float(values[0] / values[1])

    assert contrast(outer, 1, rim=1) > 1.25
    assert contrast(outer, 0, rim=1) == pytest.approx(1.0, abs=0.02)
    assert contrast(outer, 2, rim=1) == pytest.approx(1.0, abs=0.08)
    assert contrast(core, 1, core=1) < 0.85
    assert contrast(core, 2, core=1) < 0.85
    assert all(contrast(outer, phase, rim_mimic=1) > 1.2 for phase in range(4))
    assert all(contrast(core, phase, core_mimic=1) < 0.85 for phase in range(4))


def test_noise_is_rician_and_scales() -> None:
    receiver = Receiver(np.ones(C1.shape_zyx, dtype=np.float32), 1000.0)
    empty, bright = np.zeros(C1.shape_zyx, np.float32), np.full(C1.shape_zyx, 3.0, np.float32)
    rng = generator(1, "noise")
    sigma = 1000.0 * C1.noise
    # Magnitude of pure complex noise is Rayleigh: mean sigma sqrt(pi/2).
    assert acquire(empty, C1, receiver, rng).mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)
    assert acquire(empty, C1, receiver, rng, 2.0).mean() == pytest.approx(
        2 * sigma * np.sqrt(np.pi / 2), rel=0.02
    )
    image = acquire(bright, C1, receiver, rng)
    assert image.dtype == np.int16
    assert image.mean() == pytest.approx(3000.0, rel=0.01)
    assert image.std() == pytest.approx(sigma, rel=0.03)


def test_every_centre_is_another_scanner() -> None:
    profiles = [*TRAINING_CENTRES, EXTERNAL_CENTRE]
    assert len({p.centre for p in profiles}) == len(profiles)
    assert len({(p.field, p.agent, p.tr_ms, p.flip_deg) for p in profiles}) == len(profiles)
    assert EXTERNAL_CENTRE.scanner not in {p.scanner for p in TRAINING_CENTRES}
    for p in profiles:
        assert all(half >= least for half, least in zip(p.half_extent_mm, (28.0, 46.0, 46.0), strict=True)), (
            p.centre
        )


@given(st.integers(4, 2000), st.integers(1, 6), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_patients_are_dealt_completely(patients: int, centres: int, external: int) -> None:
    chosen = DEFAULT.model_copy(
        update={"patients": patients, "training_centres": centres, "external_patients": external}
    )
    if patients < centres:
        with pytest.raises(ConfigError, match="cannot be dealt"):
            centres_of(chosen)
        return
    dealt = centres_of(chosen)
    training = [count for profile, count in dealt if profile.centre != EXTERNAL_CENTRE.centre]
    assert len(training) == centres
    assert min(training) >= 1
    assert sum(training) == patients
    assert sum(count for _, count in dealt) == patients + external


def test_a_patient_depends_on_seed_centre_and_number_only() -> None:
    few = make_patient(PhantomSettings(patients=4, external_patients=0), C1, 2)
    many = make_patient(PhantomSettings(patients=900, external_patients=300, training_centres=6), C1, 2)
    assert few.signs == many.signs
    assert few.origin_xyz == many.origin_xyz
    for phase, image in few.images.items():
        np.testing.assert_array_equal(image.volume_zyx, many.images[phase].volume_zyx)
        assert image.box == many.images[phase].box
    other = make_patient(PhantomSettings(seed=1), C1, 2)
    assert (other.images["arterial"].volume_zyx != few.images["arterial"].volume_zyx).mean() > 0.5
    assert patient_signs(DEFAULT, C1, 2) == few.signs


def test_missing_phases_are_few_and_never_two() -> None:
    numbers = range(1500)
    present = [present_phases(DEFAULT, C1, number) for number in numbers]
    incomplete = [phases for phases in present if len(phases) < len(PHANTOM_PHASES)]
    assert all(len(phases) == 3 for phases in incomplete)
    assert 0.02 < len(incomplete) / len(numbers) < 0.06
    assert {phase for phases in incomplete for phase in PHANTOM_PHASES if phase not in phases} == set(
        PHANTOM_PHASES
    )
    number = next(i for i in numbers if "delayed" not in present[i])
    assert tuple(make_patient(DEFAULT, C1, number).images) == present[number]


def test_boxes_follow_the_breath_and_hold_the_lesion() -> None:
    moved = 0
    for number in range(4):
        patient = make_patient(DEFAULT, C1, number)
        box = patient.images["pre-contrast"].box
        assert box == Box.around(patient.labels_zyx > 0)
        moved += sum(image.box != box for image in patient.images.values())
        for image in patient.images.values():
            assert np.abs(np.array(image.box.centre_zyx) - box.centre_zyx).max() <= 3.0
    assert moved >= 4  # most phases lie a voxel elsewhere


def test_the_phantom_is_frozen() -> None:
    """Whoever changes what a patient looks like raises `PHANTOM_VERSION` and measures these anew."""
    assert PHANTOM_VERSION == "1"
    patient = make_patient(DEFAULT, EXTERNAL_CENTRE, 4)
    signs = patient.signs
    assert (signs.proliferative, signs.rim, signs.core, signs.washout) == FROZEN_SIGNS
    assert (patient.labels_zyx > 0).sum() == pytest.approx(FROZEN_VOXELS, rel=0.002)
    for phase, (mean, sd) in FROZEN_LEVELS.items():
        volume = patient.images[phase].volume_zyx
        assert volume.mean() == pytest.approx(mean, rel=0.001)  # other builds of numpy round otherwise
        assert volume.std() == pytest.approx(sd, rel=0.005)
