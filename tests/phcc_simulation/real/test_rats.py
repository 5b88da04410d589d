from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_curves import ARRIVAL_S, STEP_S, curve, recording, write_archive, write_centres

from phcc_model.errors import CaseError, DatasetError
from phcc_model.statistics import auc
from phcc_simulation.real.rats import MINUTES, label_of, read_rats, tokens_of
from phcc_simulation.real.rats_study import fit_baseline

SHARED = Path(os.environ.get("PHCC_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))


@given(scale=st.floats(1e-4, 1e4), late_s=st.floats(-200.0, 5000.0), peak=st.floats(-0.5, 4.0))
def test_neither_the_receive_gain_nor_the_clock_matters(scale: float, late_s: float, peak: float) -> None:
    signal = curve(peak)
    ratio_t, present_t = tokens_of(recording(signal))
    time = STEP_S * np.arange(len(signal)) + late_s
    other_t, there_t = tokens_of(recording(scale * signal, time, BAT=str(ARRIVAL_S + late_s)))
    np.testing.assert_allclose(other_t, ratio_t, rtol=1e-9)
    assert present_t[:-1].all()
    assert there_t[:-1].all()


@given(slope=st.floats(0.0, 0.2), every=st.floats(5.0, 110.0))
def test_a_straight_curve_is_read_exactly_whatever_its_sampling(slope: float, every: float) -> None:
    time = every * np.arange(int(1700.0 / every))
    arrival = 6 * every
    signal = 2.0 * (1.0 + slope * np.clip(time - arrival, 0.0, None) / 60.0)
    ratio_t, present_t = tokens_of(recording(signal, time, BAT=str(arrival)))
    expected_t = 1.0 + slope * np.array(MINUTES)
    np.testing.assert_allclose(ratio_t[present_t], expected_t[present_t], rtol=1e-9)
    assert (ratio_t[~present_t] == 1.0).all()
    np.testing.assert_array_equal(present_t, arrival + 60.0 * np.array(MINUTES) <= time[-1])


def test_without_a_bolus_time_the_first_sample_after_the_baseline_counts() -> None:
    told, _ = tokens_of(recording(curve(1.5), BAT=str(4 * STEP_S)))
    untold, _ = tokens_of(recording(curve(1.5), BAT=""))
    np.testing.assert_array_equal(told, untold)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"signal": np.full(30, np.nan)}, "0 samples"),
        ({"signal": -curve(1.0)}, "pre-contrast mean is -3"),
        ({"signal": np.where(np.arange(30) > 20, -1.0, curve(1.0))}, "not positive"),
        ({"signal": curve(1.0, samples=12)}, "minutes after contrast only"),
        ({"time": np.zeros(30)}, "do not rise"),
        ({"n0": "four"}, "'four', not a number"),
        ({"n0": "0"}, "do not rise"),
        ({"n0": ""}, "n0 is not given"),
    ],
)
def test_a_curve_that_cannot_be_used(changes: dict[str, object], what: str) -> None:
    with pytest.raises(CaseError, match=what):
        tokens_of(recording(**changes))  # type: ignore[arg-type]


def test_substances() -> None:
    for name in ("Rifampicin", "Cyclosporine", "rifampicin (2 mg/kg)"):
        assert label_of(name) == 1
    for name in ("Placebo", "Bosentan (high dose)", "Ketoconazole", "Saline"):
        assert label_of(name) == 0
    with pytest.raises(CaseError, match="'Metformin' inhibits uptake is not known"):
        label_of("Metformin")


def test_animals_are_told_apart_by_centre_and_not_by_file(tmp_path: Path) -> None:
    told = {"center": "A", "substance": "Placebo"}
    write_archive(tmp_path / "one.dmr.zip", [("R1", "Day_1", curve(1.0), told)])
    write_archive(tmp_path / "two.dmr.zip", [("R1", "Day_1", curve(1.1), told)])
    write_archive(
        tmp_path / "three.dmr.zip",
        [
            ("R1", "Day_1", curve(1.2), told | {"center": "B"}),
            ("R2", "Day_1", curve(1.2), told | {"substance": "Metformin"}),
        ],
    )
    rats = read_rats([tmp_path])
    assert rats.scans.animal == ("A/R1", "B/R1", "A/R1")
    assert [name for name, _ in rats.aside] == ["three/R2/Day_1"]
    with pytest.raises(DatasetError, match="this scan is there twice"):
        read_rats([tmp_path, tmp_path])


def test_nothing_of_use(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.dmr.zip", [("R1", "Day_1", curve(1.0), {"center": "A", "substance": "?"})])
    with pytest.raises(DatasetError, match="none of 1 scans can be used"):
        read_rats([tmp_path])


def test_of_centres(tmp_path: Path) -> None:
    scans = read_rats([write_centres(tmp_path)]).scans
    part = scans.of(["C", "A"])
    assert set(part.centre) == {"A", "C"}
    assert len(part) == part.animals * 2 == 24
    np.testing.assert_array_equal(part.ratio_nt[12:], scans.ratio_nt[24:])


def test_real_rats() -> None:
    folder = SHARED / "tristan_rat_liver_dce"
    if not folder.is_dir():
        pytest.skip("the rats' curves are not on this machine")
    rats = read_rats([folder])
    scans = rats.scans
    assert rats.aside == ()
    assert {c: (len(scans.of([c])), int(scans.of([c]).label_n.sum())) for c in scans.centres} == {
        "D": (22, 3),
        "E": (32, 3),
        "G": (78, 17),
    }
    for centre in scans.centres:
        model = fit_baseline(scans.of(set(scans.centres) - {centre}))
        test = scans.of([centre])
        ratio_nt = np.where(test.present_nt, test.ratio_nt, np.nan)
        area = auc(test.label_n, model.decision_function(ratio_nt))
        assert area is not None
        assert area > 0.985
