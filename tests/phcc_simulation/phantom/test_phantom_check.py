"""The visibility check in small: every sign learnable, the kinetic one hidden in any single phase."""

from __future__ import annotations

import numpy as np
import pytest

from phcc_model.config import CropSettings, PhantomSettings
from phcc_model.errors import DatasetError
from phcc_model.seeds import generator
from phcc_simulation.phantom.check import (
    ALL_PHASES,
    EXTERNAL_ROW,
    HIDDEN,
    LABEL_ROW,
    TARGETS,
    VisibilityRow,
    check_visibility,
    judge,
    region_visibility,
)
from phcc_simulation.phantom.crops import crop_patient, network_input
from phcc_simulation.phantom.patient import PHANTOM_PHASES, make_patient
from phcc_simulation.phantom.scanner import TRAINING_CENTRES
from phcc_simulation.phantom.signs import SIGNS
from phcc_simulation.phantom.signs_net import predict_signs, train_signs_net

SMALL_GRID = CropSettings(size=(8, 24, 24), spacing_mm=(4.0, 3.2, 3.2))


def test_signs_are_visible_and_wash_out_hides_in_a_single_phase() -> None:
    """The full check in small: true regions and logistic regression instead of networks, 100 patients.

    An AUC of 100 patients has a standard error of about .05, so the bounds are looser than the full check's.
    """
    seen = region_visibility(PhantomSettings(), 100)
    for sign in SIGNS:
        assert seen[ALL_PHASES][sign] >= 0.93, sign
    for phase in PHANTOM_PHASES:
        assert seen[phase]["washout"] <= 0.70, phase
        assert seen[phase]["washout"] < seen[ALL_PHASES]["washout"] - 0.25
    assert 0.65 < seen[ALL_PHASES]["proliferative"] < 0.95


def rows(**changed: float) -> list[VisibilityRow]:
    """A table on which every rule holds, but for what is changed (``phase_sign``)."""
    table = {name: dict.fromkeys(TARGETS, 0.95) for name in (ALL_PHASES, EXTERNAL_ROW, LABEL_ROW)}
    table |= {phase: {**dict.fromkeys(TARGETS, 0.8), "washout": 0.55} for phase in HIDDEN}
    for key, value in changed.items():
        name, sign = key.split("__")
        table[name.replace("_", " ") if "all" in name else name][sign] = value
    return [VisibilityRow(name, auc) for name, auc in table.items()]


def test_the_rules_name_what_they_find() -> None:
    assert judge(rows()) == ()
    assert "rim cannot be seen" in judge(rows(all_phases__rim=0.85))[0]
    assert "arterial phase alone" in judge(rows(arterial__washout=0.66))[0]
    assert judge(rows(arterial__washout=0.64)) == ()
    assert "delayed phase alone" in judge(rows(delayed__washout=0.61))[0]
    label_row = rows()
    label_row[2].auc["core"] = 0.55
    assert "core plays no part" in judge(label_row)[0]
    assert any("dominates" in line for line in judge(rows(all_phases__core=1.0, all_phases__rim=0.80)))


def test_the_full_check_runs_end_to_end_in_miniature() -> None:
    """Its numbers mean nothing at this size; tested is that it goes all the way and reports."""
    stages: list[tuple[str, int, int]] = []
    report = check_visibility(
        PhantomSettings(training_centres=2), cases=16, test_cases=14, external_cases=14, epochs=1,
        crop=SMALL_GRID, progress=lambda *stage: stages.append(stage),
    )  # fmt: skip
    assert [line[0] for line in report.table()] == [
        "inputs", ALL_PHASES, EXTERNAL_ROW, *PHANTOM_PHASES, LABEL_ROW,
    ]  # fmt: skip
    assert all(len(line) == 1 + len(TARGETS) for line in report.table())
    assert report.failures == judge(list(report.rows))
    assert not report.passed  # 16 cases teach no network
    assert ("patients", 44, 44) in stages
    assert len({stage for stage, _, _ in stages}) == 7
    assert 0.0 <= report.ratio_auc <= 1.0


def test_a_network_learns_a_plain_pattern_and_does_so_twice_alike() -> None:
    rng = generator(0, "plain pattern")
    target = rng.integers(0, 2, (48, 1))
    x = (rng.standard_normal((48, 1, 4, 12, 12)) + target[:, :, None, None, None]).astype(np.float32)
    box = np.ones((48, 4, 12, 12), dtype=np.float32)
    nets = [train_signs_net(x[:32], box[:32], target[:32], epochs=12, seed=3) for _ in range(2)]
    scores = [predict_signs(net, x[32:], box[32:])[:, 0] for net in nets]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert scores[0][target[32:, 0] == 1].min() > scores[0][target[32:, 0] == 0].max()


def test_a_sign_that_never_occurs_is_refused() -> None:
    never = PhantomSettings(sign_given_negative=0.0, sign_given_positive=0.0)
    with pytest.raises(DatasetError, match="cannot be scored"):
        check_visibility(never, cases=8, test_cases=8, external_cases=0, epochs=1, crop=SMALL_GRID)


def test_network_inputs_cancel_the_scanners_gain() -> None:
    patient = make_patient(PhantomSettings(), TRAINING_CENTRES[1], 3)
    crop = crop_patient(patient, CropSettings())
    assert crop.images_pdhw.shape == (4, 12, 48, 48)
    louder = type(crop)(crop.images_pdhw * 7.0, crop.box_dhw)
    for phase in (None, *PHANTOM_PHASES):
        x = network_input(crop, phase)
        assert x.shape == ((4 if phase is None else 1), 12, 48, 48)
        np.testing.assert_allclose(x, network_input(louder, phase), atol=1e-4)
    # A single phase's input holds nothing of the other phases.
    changed = crop.images_pdhw.copy()
    changed[[0, 2, 3]] = 1.0 + np.arange(changed[0].size).reshape(changed[0].shape)
    alone = network_input(type(crop)(changed, crop.box_dhw), "arterial")
    np.testing.assert_array_equal(alone, network_input(crop, "arterial"))


def test_crops_hold_the_lesion_in_their_middle() -> None:
    patient = make_patient(PhantomSettings(), TRAINING_CENTRES[0], 1)
    crop = crop_patient(patient, CropSettings())
    box = np.argwhere(crop.box_dhw > 0)
    centre = (box.min(axis=0) + box.max(axis=0)) / 2
    np.testing.assert_allclose(centre, (np.array(crop.box_dhw.shape) - 1) / 2)
    size = (np.ptp(box, axis=0) + 1) * CropSettings().spacing_mm
    true = np.subtract(patient.images["arterial"].box.stop_zyx, patient.images["arterial"].box.start_zyx)
    true_mm = np.minimum(true * patient.profile.spacing_zyx, np.multiply((12, 48, 48), (3.0, 1.6, 1.6)))
    assert np.abs(size - true_mm).max() <= 2 * 3.0
