from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.check_contrast import BRIGHTER, SPREAD, Change, measure_change
from phcc_client.ingest.examination import SeriesFacts
from phcc_client.ingest.quality_checks import (
    check_body,
    check_enhancement,
    check_mask,
    check_order,
    check_volume,
)
from phcc_client.ingest.record import Finding, Stage
from phcc_model.config import PhantomSettings, Phase
from phcc_simulation.phantom.centres import centres_of
from phcc_simulation.phantom.patient import make_patient

SHAPE = (20, 64, 64)
GRID = Grid.plain(SHAPE, (3.0, 1.5, 1.5))
CENTRE = GRID.to_mm(np.array([10.0, 32.0, 32.0]))


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def noise(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100.0, 5.0, shape).astype(np.float32)


# --- volumes


def test_a_sound_volume_has_no_finding() -> None:
    assert check_volume(noise(), GRID) == ()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda v: v * 0, "volume-constant"),
        (lambda v: v * 0 + 7, "volume-constant"),
        (lambda v: np.where(v > 110, np.nan, v), "volume-not-numbers"),
        (lambda v: np.where(v > 110, np.inf, v), "volume-not-numbers"),
        (lambda v: np.concatenate([v[:10], v[:10]]), "slices-repeated"),
        (lambda v: v[:0], "volume-empty"),
    ],
)
def test_a_spoiled_volume_is_found_and_named(spoil: object, code: str) -> None:
    spoiled = spoil(noise())  # type: ignore[operator]
    (finding,) = check_volume(spoiled, Grid.plain(spoiled.shape, (3.0, 1.5, 1.5)), "arterial")
    assert finding.code == code
    assert finding.text.startswith("arterial: ")
    assert finding.stops is Stage.READABLE
    assert finding.remedy


def test_padding_may_repeat_and_repeats_are_counted() -> None:
    volume = noise()
    volume[:3] = 0
    assert check_volume(volume, GRID) == ()
    volume[10:16] = volume[4]
    (finding,) = check_volume(volume, GRID)
    assert "5 and 11" in finding.text
    assert "3 more" in finding.text


def test_few_slices_and_small_fields_are_found_unless_millimetres_are_not_known() -> None:
    thin = noise(shape=(3, 64, 64))
    assert codes(check_volume(thin, Grid.plain((3, 64, 64), (3.0, 1.5, 1.5)))) == [
        "too-few-slices",
        "field-too-small",
    ]
    crop = noise(shape=(14, 64, 64))
    grid = Grid.plain((14, 64, 64), (1.0, 1.0, 1.0))
    assert codes(check_volume(crop, grid)) == ["field-too-small"]
    assert check_volume(crop, grid, fitted=True) == ()


# --- masks


def ball(radius: float = 6.0, centre: tuple[float, float, float] = (10, 32, 32)) -> NDArray[np.uint8]:
    d, h, w = np.indices(SHAPE)
    away = (3 * (d - centre[0])) ** 2 + (1.5 * (h - centre[1])) ** 2 + (1.5 * (w - centre[2])) ** 2
    return np.asarray(away <= radius**2, dtype=np.uint8)


def test_a_sound_mask_has_no_finding() -> None:
    assert check_mask(ball(), GRID, GRID) == ()


def test_masks_that_are_no_lesion_are_found() -> None:
    speck = np.zeros(SHAPE, np.uint8)
    assert codes(check_mask(speck, GRID, GRID)) == ["mask-empty"]
    speck[5, 5, 5:7] = 1
    assert codes(check_mask(speck, GRID, GRID)) == ["mask-tiny"]
    speck[5, 5, 5:8] = 1
    assert check_mask(speck, GRID, GRID) == ()
    assert codes(check_mask(1 - ball(), GRID, GRID)) == ["mask-too-large"]
    assert codes(check_mask(np.full(SHAPE, np.nan), GRID, GRID)) == ["mask-not-numbers"]
    far = Grid(SHAPE, GRID.matrix, GRID.origin_mm + 500.0)
    assert codes(check_mask(ball(), far, GRID)) == ["mask-outside"]


@given(shift=st.floats(-200.0, 200.0), axis=st.integers(0, 2))
def test_a_mask_is_outside_exactly_as_far_as_it_lies_outside(shift: float, axis: int) -> None:
    mask = ball()
    moved = Grid(SHAPE, GRID.matrix, GRID.origin_mm + shift * np.eye(3)[axis])
    found = codes(check_mask(mask, moved, GRID))
    at = np.argwhere(mask) + np.round(shift * np.eye(3)[axis] / GRID.spacing_mm_dhw, 9)
    share = float(np.mean(((at >= -0.5) & (at <= np.array(SHAPE) - 0.5)).all(axis=1)))
    expected = "mask-outside" if share < 0.5 else "mask-partly-outside" if share < 1 else None
    assert found[:1] == ([expected] if expected else [])


def test_pieces_and_the_border_are_remarked() -> None:
    two = ball(centre=(10, 16, 16)) | ball(centre=(10, 48, 48))
    (finding,) = check_mask(two, GRID, GRID)
    assert (finding.code, finding.stops) == ("mask-scattered", None)
    assert "2 pieces" in finding.text
    crumbs = ball(radius=12.0)
    crumbs[2, 2, 2] = 1
    assert check_mask(crumbs, GRID, GRID) == ()
    assert codes(check_mask(ball(centre=(0, 32, 32)), GRID, GRID)) == ["lesion-at-border"]


# --- bodies


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        (SeriesFacts(modality="MR", body_part="LIVER"), None),
        (SeriesFacts(modality="MR", body_part="ABDOMEN", description="t1 vibe art"), None),
        (SeriesFacts(modality="MR", description="Leber nativ"), None),
        (SeriesFacts(modality="MR", description="肝臓 動脈相"), None),
        (SeriesFacts(modality="MR", body_part="ABDOMEN^PELVIS"), None),
        (SeriesFacts(), None),
        (SeriesFacts(modality="MR", description="t1 vibe art"), "body-part-unknown"),
        (SeriesFacts(modality="CT", body_part="LIVER"), "wrong-modality"),
        (SeriesFacts(modality="US"), "wrong-modality"),
        (SeriesFacts(modality="Hans Meier"), "wrong-modality"),
        (SeriesFacts(modality="SR"), "no-image"),
        (SeriesFacts(modality="MR", body_part="HEAD"), "wrong-body-part"),
        (SeriesFacts(modality="MR", description="KNIE links"), "wrong-body-part"),
        (SeriesFacts(modality="MR", description="头部 T1"), "wrong-body-part"),
        (SeriesFacts(modality="MR", body_part="HEAD", description="LIVER dyn"), "body-part-contradicts"),
        (SeriesFacts(modality="MR", body_part="KNEEABLE"), None),
    ],
)
def test_modality_and_body_part(facts: SeriesFacts, code: str | None) -> None:
    assert codes(check_body(facts)) == ([code] if code else [])


@given(st.text(), st.text(), st.text())
def test_of_a_header_only_known_words_are_repeated(modality: str, part: str, description: str) -> None:
    secret = "Zzyzx Qwertz"
    facts = SeriesFacts(modality + secret, part + secret, description + secret)
    for finding in check_body(facts):
        assert "zzyzx" not in finding.text.lower()


# --- order and enhancement


def test_the_clock_tells_phases_out_of_order() -> None:
    assert check_order({"pre-contrast": 0, "arterial": 60, "portal-venous": 100, "delayed": 100}) == ()
    assert check_order({"arterial": 5.0}) == check_order({}) == ()
    (finding,) = check_order({"delayed": 300, "portal-venous": 60, "arterial": 100, "pre-contrast": 0})
    assert finding.stops is Stage.PHASES
    assert finding.text == "arterial was acquired 40 s after portal-venous"


Phases = dict[Phase, tuple[NDArray[np.generic], Grid]]


def phantom(centre: int, number: int) -> tuple[Phases, NDArray[np.float64], float]:
    profile, _ = centres_of(PhantomSettings())[centre]
    patient = make_patient(PhantomSettings(), profile, number)
    grid = Grid.plain(profile.shape_zyx, profile.spacing_zyx)
    phases: Phases = {phase: (image.volume_zyx, grid) for phase, image in patient.images.items()}
    box = next(iter(patient.images.values())).box
    return phases, grid.to_mm(np.array(box.centre_zyx)), patient.anatomy.radius_mm


@pytest.mark.parametrize("centre", range(4))
@pytest.mark.parametrize("number", range(4))
def test_every_phantom_patient_is_enhanced_whatever_the_gain_of_all(centre: int, number: int) -> None:
    phases, place, radius = phantom(centre, number)
    assert check_enhancement(phases, place, radius) == ()
    doubled: Phases = {
        phase: (np.asarray(array, dtype=np.float32) * 7, grid) for phase, (array, grid) in phases.items()
    }
    assert check_enhancement(doubled, place, radius) == ()


def again(array: NDArray[np.generic], seed: int, shift: int = 1) -> NDArray[np.generic]:
    """The same tissue once more: fresh noise, and a breath of one voxel."""
    fresh = np.random.default_rng(seed).normal(1.0, 0.04, array.shape)
    return np.asarray(np.roll(array, shift, axis=1) * fresh, dtype=np.float32)


@pytest.mark.parametrize("centre", range(4))
@pytest.mark.parametrize("number", [0, 2])
def test_contrast_that_never_arrives_is_found(centre: int, number: int) -> None:
    phases, place, radius = phantom(centre, number)
    before, grid = phases["pre-contrast"]
    none: Phases = {"pre-contrast": (before, grid)}
    later: tuple[Phase, ...] = ("arterial", "portal-venous", "delayed")
    none.update({phase: (again(before, seed), grid) for seed, phase in enumerate(later)})
    (finding,) = check_enhancement(none, place, radius)
    assert (finding.code, finding.stops) == ("no-enhancement", Stage.USABLE)
    assert "arterial" in finding.text


def test_one_phase_without_contrast_is_a_remark() -> None:
    phases, place, radius = phantom(0, 0)
    before, grid = phases["pre-contrast"]
    (finding,) = check_enhancement({**phases, "delayed": (again(before, 1), grid)}, place, radius)
    assert (finding.code, finding.stops) == ("phase-not-enhanced", None)
    assert "delayed" in finding.text


def test_swapped_phases_are_remarked() -> None:
    phases, place, radius = phantom(0, 1)
    swapped = {**phases, "arterial": phases["portal-venous"], "portal-venous": phases["arterial"]}
    assert codes(check_enhancement(swapped, place, radius)) == ["arterial-brighter-than-portal"]
    late = {**phases, "pre-contrast": phases["portal-venous"], "portal-venous": phases["pre-contrast"]}
    assert "darker-after-contrast" in codes(check_enhancement(late, place, radius))


def test_phases_on_other_grids_are_compared_place_by_place() -> None:
    phases, place, radius = phantom(1, 0)
    array, grid = phases["arterial"]
    whole = measure_change(phases["pre-contrast"], (array, grid), place, radius)
    turned_grid = Grid(
        (array.shape[1], array.shape[2], array.shape[0]), grid.matrix[:, [1, 2, 0]], grid.origin_mm
    )
    turned = measure_change(
        phases["pre-contrast"], (np.transpose(array, (1, 2, 0)), turned_grid), place, radius
    )
    assert whole is not None
    assert turned is not None
    np.testing.assert_allclose(turned, whole, atol=1e-5)


def test_nothing_is_said_where_nothing_can_be() -> None:
    phases, place, radius = phantom(0, 0)
    assert check_enhancement({"portal-venous": phases["portal-venous"]}, place, radius) == ()
    assert check_enhancement({"image": phases["arterial"]}, place, radius) == ()
    far = place + 1000.0
    assert codes(check_enhancement(phases, far, radius)) == ["enhancement-not-checked"]
    empty = {phase: (np.zeros_like(array), grid) for phase, (array, grid) in phases.items()}
    assert codes(check_enhancement(empty, place, radius)) == ["enhancement-not-checked"]


@given(gain=st.floats(0.05, 20.0))
def test_spread_does_not_see_a_gain(gain: float) -> None:
    volume = noise(1) + np.linspace(0, 200, SHAPE[2], dtype=np.float32)
    one = measure_change((noise(2), GRID), (volume, GRID), CENTRE, 10.0)
    other = measure_change((noise(2), GRID), (volume * gain, GRID), CENTRE, 10.0)
    assert one is not None
    assert other is not None
    assert other.spread == pytest.approx(one.spread, abs=1e-4)
    assert other.brightening == pytest.approx(one.brightening + np.log(gain), abs=1e-4)


def test_both_measures_must_miss_the_contrast() -> None:
    assert Change(BRIGHTER / 2, SPREAD / 2).none
    assert not Change(BRIGHTER * 2, SPREAD / 2).none
    assert not Change(BRIGHTER / 2, SPREAD * 2).none
