"""The planted signs and the AUC they allow: closed form against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from phcc_model.config import PhantomSettings
from phcc_model.seeds import generator
from phcc_simulation.phantom.oracle import best_possible_auc, oracle_auc
from phcc_simulation.phantom.signs import draw_signs, log_likelihood_ratio, shifted_prevalence

DEFAULT = PhantomSettings()


def test_default_difficulty_is_neither_trivial_nor_hopeless() -> None:
    best = best_possible_auc(DEFAULT)
    assert 0.85 <= best["three signs, AFP and size"] <= 0.93
    assert 0.60 <= best["AFP"] <= 0.70
    assert best["one sign"] < 0.75
    assert best["three signs"] > best["one sign"] + 0.10  # no sign gets near what all three give


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"sign_given_negative": 0.4},
        {"afp_effect": 1.2, "size_effect": 0.0},
        {"afp_effect": -0.5, "prevalence": 0.2},
    ],
)
def test_best_auc_equals_that_of_many_drawn_patients(changed: dict[str, float]) -> None:
    hard = DEFAULT.model_copy(update=changed)
    rng = generator(3, "test", str(changed))
    drawn = [draw_signs(hard, rng) for _ in range(12_000)]
    rows = [
        {"proliferative": s.proliferative, "log_likelihood_ratio": log_likelihood_ratio(hard, s)}
        for s in drawn
    ]
    assert oracle_auc(rows) == pytest.approx(best_possible_auc(hard)["three signs, AFP and size"], abs=0.012)
    label = np.array([s.proliferative for s in drawn])
    afp = np.array([s.afp_score for s in drawn]) * np.sign(hard.afp_effect)
    assert roc_auc_score(label, afp) == pytest.approx(best_possible_auc(hard)["AFP"], abs=0.015)
    assert label.mean() == pytest.approx(hard.prevalence, abs=0.015)


def test_auc_of_afp_alone_is_the_textbook_one() -> None:
    assert best_possible_auc(DEFAULT)["AFP"] == pytest.approx(norm.cdf(DEFAULT.afp_effect / np.sqrt(2.0)))


@given(p0=st.floats(0.0, 1.0), p1=st.floats(0.0, 1.0), afp=st.floats(0.0, 3.0), size=st.floats(0.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_more_to_see_is_never_worse(p0: float, p1: float, afp: float, size: float) -> None:
    best = best_possible_auc(
        DEFAULT.model_copy(
            update={
                "sign_given_negative": p0,
                "sign_given_positive": p1,
                "afp_effect": afp,
                "size_effect": size,
            }
        )
    )
    values = list(best.values())
    assert all(0.5 - 1e-9 <= value <= 1.0 + 1e-9 for value in values)
    assert best["one sign"] <= best["three signs"] + 1e-9
    assert best["three signs"] <= best["three signs, AFP and size"] + 1e-6
    assert best["AFP"] <= best["AFP and size"] + 1e-9


def test_nothing_planted_leaves_chance() -> None:
    nothing = {"sign_given_negative": 0.4, "sign_given_positive": 0.4, "afp_effect": 0.0, "size_effect": 0.0}
    for value in best_possible_auc(DEFAULT.model_copy(update=nothing)).values():
        assert value == pytest.approx(0.5)


def test_mimics_never_stand_beside_their_sign_and_kinetics_only_is_what_it_says() -> None:
    rng = generator(1, "mimics")
    drawn = [draw_signs(DEFAULT, rng) for _ in range(2000)]
    assert not any(s.rim and s.rim_mimic for s in drawn)
    assert not any(s.core and s.core_mimic for s in drawn)
    share = np.mean([s.rim_mimic for s in drawn if not s.rim])
    assert share == pytest.approx(DEFAULT.mimic_probability, abs=0.04)
    only = [s for s in drawn if s.kinetics_only]
    assert len(only) > 100  # part of the cases differ in kinetics only
    assert all(s.washout and not s.rim and not s.core for s in only)


def test_afp_is_log_normal_around_its_median() -> None:
    rng = generator(2, "afp")
    never = DEFAULT.model_copy(update={"prevalence": 0.0})
    logs = np.log([draw_signs(never, rng).afp_ng_ml for _ in range(3000)])
    assert np.exp(np.median(logs)) == pytest.approx(20.0, rel=0.15)
    assert logs.std() == pytest.approx(1.9, rel=0.05)


def test_prevalence_shifts_on_the_scale_of_odds() -> None:
    assert shifted_prevalence(0.42, 0.0) == pytest.approx(0.42)
    assert shifted_prevalence(0.5, np.log(3.0)) == pytest.approx(0.75)
    assert shifted_prevalence(0.0, 5.0) == 0.0
    assert shifted_prevalence(1.0, -5.0) == 1.0


def test_oracle_auc_of_one_class_is_none() -> None:
    assert oracle_auc([{"proliferative": 1, "log_likelihood_ratio": 0.3}]) is None
    assert oracle_auc([]) is None
