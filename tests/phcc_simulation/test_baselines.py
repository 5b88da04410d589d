"""Arms without a network: features measured by hand, and what AFP adds to a score that knows something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from phcc_model.cases import CaseSet
from phcc_model.config import StudyConfig
from phcc_model.errors import DatasetError
from phcc_simulation.baselines import fit_baseline, fit_combined
from phcc_simulation.kinetics import REGIONAL, kinetic_features, ratio_feature

PHASES = StudyConfig().data.phases
GRID = (6, 16, 16)


def ball() -> NDArray[np.bool_]:
    d, h, w = np.indices(GRID)
    return np.asarray(((d - 2.5) / 3) ** 2 + ((h - 7.5) / 5) ** 2 + ((w - 7.5) / 5) ** 2 <= 1)


def cases(
    volumes_npdhw: NDArray[np.floating], label: list[int], present: NDArray[np.bool_] | None = None
) -> CaseSet:
    n, p = volumes_npdhw.shape[:2]
    return CaseSet(
        case=tuple(f"c{i}" for i in range(n)),
        patient=tuple(f"p{i}" for i in range(n)),
        volumes_npdhw=volumes_npdhw.astype(np.float16),
        present_np=np.ones((n, p), np.bool_) if present is None else present,
        lesion_ndhw=np.repeat(ball()[None].astype(np.uint8), n, axis=0),
        label_n=np.array(label, np.int8),
        afp_n=np.full(n, np.nan, np.float32),
    )


def enhancing(inside: list[float], liver: float = 0.5) -> NDArray[np.float64]:
    """One case: each phase has one value in the lesion and another in the liver."""
    return np.stack([np.where(ball(), value, liver) for value in inside])[None]


def test_a_curve_is_measured_against_the_liver() -> None:
    found = kinetic_features(cases(enhancing([0.0, 1.5, 1.0, 0.75]), [1]), REGIONAL)[0]
    curve, change = found[:16].reshape(4, 4), found[16:].reshape(3, 4)
    for column in (0, 2, 3):  # mean, rim, core
        np.testing.assert_allclose(curve[:, column], [-0.5, 1.0, 0.5, 0.25], atol=1e-3)
        np.testing.assert_allclose(change[:, column], [1.5, -0.5, -0.25], atol=1e-3)
    np.testing.assert_allclose(curve[:, 1], 0.0, atol=1e-3)
    assert ratio_feature(cases(enhancing([0.0, 1.5, 1.0, 0.75]), [1]), PHASES)[0, 0] == pytest.approx(0.5)


def test_a_rim_and_a_core_are_told_apart() -> None:
    d, h, w = np.indices(GRID)
    middle = ((d - 2.5) / 3) ** 2 + ((h - 7.5) / 5) ** 2 + ((w - 7.5) / 5) ** 2 <= 0.55**2
    volume = enhancing([0.0, 1.0, 1.0, 1.0])
    volume[0, 1][middle] = 0.0
    rim, core = kinetic_features(cases(volume, [1]), REGIONAL)[0][:16].reshape(4, 4)[1, 2:]
    assert rim == pytest.approx(0.5, abs=1e-3)
    assert core == pytest.approx(-0.5, abs=1e-3)


def test_a_missing_phase_gives_no_number_and_still_a_score() -> None:
    rng = np.random.default_rng(0)
    label = [i % 2 for i in range(60)]
    volumes = np.concatenate([enhancing([0.0, 1 + 0.3 * y + 0.1 * rng.normal(), 1.0, 0.7]) for y in label])
    present = np.ones((60, 4), np.bool_)
    present[::7, 1] = False
    given_cases = cases(volumes, label, present)
    assert np.isnan(kinetic_features(given_cases)[0]).any()
    for arm in ("kinetics", "regions", "ratio"):
        model = fit_baseline(arm, given_cases, StudyConfig())
        scores = model.score(given_cases)
        assert np.isfinite(scores).all()
        known = present[:, 1]
        assert roc_auc_score(np.array(label)[known], scores[known]) > 0.95


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(-1.0, 1.0))
def test_what_all_voxels_share_says_nothing(gain: float) -> None:
    """On logarithms a receive gain is an offset: the liver has it too."""
    plain, shifted = enhancing([0.0, 1.5, 1.0, 0.75]), enhancing([0.0, 1.5, 1.0, 0.75])
    shifted[0, 2] += gain
    features = [kinetic_features(cases(volume, [1]), REGIONAL) for volume in (plain, shifted)]
    np.testing.assert_allclose(features[0], features[1], atol=4e-3)  # float16


def test_the_ratio_needs_its_two_phases() -> None:
    with pytest.raises(DatasetError, match="arterial and the portal venous"):
        ratio_feature(cases(enhancing([0.0, 1.0]), [1]), ("pre-contrast", "arterial"))


def test_one_class_teaches_nothing() -> None:
    with pytest.raises(DatasetError, match="arm kinetics: the 2 labelled cases are not of two classes"):
        fit_baseline(
            "kinetics", cases(np.repeat(enhancing([0.0, 1.0, 1.0, 1.0]), 2, 0), [1, 1]), StudyConfig()
        )


def test_afp_adds_what_the_network_does_not_know() -> None:
    rng = np.random.default_rng(1)
    label = (rng.random(600) < 0.4).astype(int)
    network = 1 / (1 + np.exp(-(0.8 * label + rng.normal(size=600))))
    plain = cases(np.zeros((600, 4, *GRID), np.float16), label.tolist())
    afp = np.exp(3 + 2 * (rng.standard_normal(600) + 0.8 * label)).astype(np.float32)
    afp[::50] = np.nan
    held_out = replace(plain, afp_n=afp)
    model = fit_combined("full+afp", lambda given: network[: len(given)], held_out)
    both, alone = (roc_auc_score(label, s) for s in (model.score(held_out), network))
    # Two independent unit normals: .8 apart each gives Phi(.8 / sqrt 2) = .714, both Phi(.8) = .788.
    assert both == pytest.approx(0.788, abs=0.03)
    assert both > alone + 0.03
