"""The second phantom: frozen, other scanners, the same disease; and the first one's files as they were."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_model.config import PhantomSettings, Phase, StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.seeds import generator
from phcc_model.study_file import dump_study, load_study
from phcc_simulation.phantom import PHANTOM_VERSION, SECOND_VERSION
from phcc_simulation.phantom.centres import centres_of, external_centre, training_centres
from phcc_simulation.phantom.oracle import best_possible_auc
from phcc_simulation.phantom.patient import make_patient
from phcc_simulation.phantom.scanner import EXTERNAL_CENTRE, TRAINING_CENTRES, ScannerProfile
from phcc_simulation.phantom.second import SECOND_CENTRES, SECOND_EXTERNAL_CENTRE
from phcc_simulation.phantom.tissues import draw_physiology, phase_signals
from phcc_simulation.phantom.write import phantom_digest, write_phantom

FIRST = PhantomSettings()
SECOND = PhantomSettings(scanners="second", training_centres=4)
JUDGES = (*SECOND_CENTRES, SECOND_EXTERNAL_CENTRE)

FROZEN_SCANNERS = "246c330239227c9db36d9fa5c3233be136bcfaa39887949ca69049fd07deb4d8"
"""SHA-256 of every number of every scanner."""
FROZEN_DIGEST = "dfd2ca3409474eecd6b65b20514c363c68787ae8ade009b0777771ff3d874fc2"
# Patient 4 of J5, version second-1: label, rim, core, wash-out; voxels of the lesion; mean and standard deviation
# of each phase in scanner units.
FROZEN_SIGNS = (1, 1, 1, 1)
FROZEN_VOXELS = 1440
FROZEN_LEVELS: dict[Phase, tuple[float, float]] = {
    "pre-contrast": (79.59, 19.39),
    "arterial": (140.63, 57.03),
    "portal-venous": (208.09, 46.75),
    "delayed": (162.6, 38.53),
}
# Of the first phantom, as they were before there was a second one.
FIRST_DIGEST = "8809b769064c4dd8c0ca1f08f31bb3be90d67b9c7da269b5e1e344b585fc21e7"


def test_the_second_phantom_is_frozen() -> None:
    """Whoever changes a scanner raises `SECOND_VERSION`, measures these anew, and says that it judged before."""
    assert SECOND_VERSION == "second-1"
    numbers = json.dumps([asdict(profile) for profile in JUDGES], sort_keys=True)
    assert hashlib.sha256(numbers.encode()).hexdigest() == FROZEN_SCANNERS
    assert phantom_digest(SECOND) == FROZEN_DIGEST
    patient = make_patient(SECOND, SECOND_EXTERNAL_CENTRE, 4)
    signs = patient.signs
    assert (signs.proliferative, signs.rim, signs.core, signs.washout) == FROZEN_SIGNS
    assert (patient.labels_zyx > 0).sum() == pytest.approx(FROZEN_VOXELS, rel=0.002)
    for phase, (mean, sd) in FROZEN_LEVELS.items():
        volume = patient.images[phase].volume_zyx
        assert volume.mean() == pytest.approx(mean, rel=0.001)  # other builds of numpy round otherwise
        assert volume.std() == pytest.approx(sd, rel=0.005)


def test_unsaid_the_scanners_change_no_name_and_no_file(tmp_path: Path) -> None:
    assert PHANTOM_VERSION == "1"
    assert phantom_digest(FIRST) == FIRST_DIGEST
    assert "scanners" not in FIRST.model_dump()
    said = StudyConfig.model_validate({"data": {"phantom": {"scanners": "first"}}})
    assert said.digest == StudyConfig().digest
    assert "scanners" not in dump_study(said)
    file = tmp_path / "study.yaml"
    file.write_text("data: {phantom: {scanners: second}}\n", encoding="utf-8")
    second = load_study(file)
    assert second.digest != said.digest
    file.write_text(dump_study(second), encoding="utf-8")
    assert load_study(file) == second


def test_the_disease_is_the_same() -> None:
    assert best_possible_auc(SECOND) == best_possible_auc(FIRST)


def test_no_scanner_is_one_that_was_trained_on() -> None:
    known = (*TRAINING_CENTRES, EXTERNAL_CENTRE)
    assert not {p.centre for p in JUDGES} & {p.centre for p in known}
    assert not {p.scanner for p in JUDGES} & {p.scanner for p in known}
    names = ("spacing_zyx", "tr_ms", "noise", "delayed_s", "log_odds_shift")
    for one in JUDGES:
        for other in known:
            same = [name for name in names if getattr(one, name) == getattr(other, name)]
            assert len(same) <= 1, (one.centre, other.centre, same)
    assert len({p.centre for p in JUDGES}) == len(JUDGES)
    for p in JUDGES:  # the crop of the shipped studies lies within
        assert all(half >= least for half, least in zip(p.half_extent_mm, (28.0, 46.0, 46.0), strict=True))


@pytest.mark.parametrize("profile", JUDGES, ids=lambda p: p.centre)
def test_mean_curves_have_the_patterns_that_radiologists_know(profile: ScannerProfile) -> None:
    """The first phantom's test, at these scanners. METHOD 6."""
    plain, washout = (
        phase_signals(draw_physiology(profile, sign, generator(0, "mean"), spread=0.0), profile)
        for sign in (False, True)
    )
    liver = plain["liver"]
    assert liver[0] == pytest.approx(1.0)
    assert liver[2] > liver[3] > liver[1] > liver[0]
    for lesion in (plain["lesion"], washout["lesion"]):
        assert 1.3 < lesion[1] / liver[1] < 2.3
    assert washout["lesion"][2] / liver[2] < 0.90
    assert plain["lesion"][3] / liver[3] > 0.97
    rim = plain["rim"] / plain["inner"]
    assert rim[1] > 1.3
    assert rim[2:] == pytest.approx(1.0, abs=0.10)


@given(st.integers(4, 600), st.integers(1, 4), st.integers(0, 100))
def test_its_patients_are_dealt_completely_and_to_its_scanners(
    patients: int, centres: int, external: int
) -> None:
    chosen = PhantomSettings(
        scanners="second", patients=patients, training_centres=centres, external_patients=external
    )
    dealt = centres_of(chosen)
    assert sum(count for _, count in dealt) == patients + external
    assert {profile.centre for profile, _ in dealt} <= {profile.centre for profile in JUDGES}
    counts = [count for profile, count in dealt if profile is not SECOND_EXTERNAL_CENTRE]
    assert max(counts) - min(counts) <= 1  # equal shares
    assert training_centres(chosen) == SECOND_CENTRES[:centres]
    assert external_centre(chosen) is SECOND_EXTERNAL_CENTRE


def test_a_fifth_training_centre_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("data: {phantom: {scanners: second, training_centres: 5}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="scanners second has 4 training centres"):
        load_study(file)


def test_the_folder_says_which_phantom_it_holds(tmp_path: Path) -> None:
    settings = PhantomSettings(scanners="second", patients=4, external_patients=1, training_centres=2, seed=3)
    summary = write_phantom(tmp_path / "data", settings)
    manifest = json.loads((tmp_path / "data" / "phantom.json").read_text())
    assert manifest["phantom_version"] == SECOND_VERSION
    assert manifest["settings"]["scanners"] == "second"
    assert set(summary.by_centre) == {"J1", "J2", "J5"}
    assert summary.digest == manifest["digest"] != phantom_digest(FIRST)


def test_timing_and_gain_vary_as_the_profile_says() -> None:
    """An arterial phase follows the bolus; its spread and the gain's are the profile's own."""
    for profile in (SECOND_CENTRES[2], SECOND_CENTRES[3]):
        drawn = [draw_physiology(profile, False, generator(n, "timing")) for n in range(400)]
        lag = np.array([one.phase_s[0] - one.arrival_s for one in drawn])
        assert lag.mean() == pytest.approx(profile.arterial_lag_s, abs=0.5)
        assert lag.std() == pytest.approx(profile.arterial_lag_sd_s, rel=0.15)
