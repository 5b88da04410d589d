from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_curves import write_centres

from phcc_model.build import state_of
from phcc_model.errors import TrainingError
from phcc_model.statistics import auc
from phcc_simulation.real.rats import MINUTES, Scans, read_rats
from phcc_simulation.real.temporal import HeadSettings, augment_curves, score_scans, train_head

QUICK = HeadSettings(rounds=2, local_epochs=2)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    return read_rats([write_centres(tmp_path_factory.mktemp("curves"))]).scans


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(scans: Scans) -> None:
    sites = {centre: scans.of([centre]) for centre in ("A", "B")}
    one, same, other = (train_head(sites, QUICK, seed) for seed in (3, 3, 4))
    a, b, c = state_of(one), state_of(same), state_of(other)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["out.weight"], c["out.weight"])


def test_the_order_in_which_sites_are_named_does_not_matter(scans: Scans) -> None:
    sites = {centre: scans.of([centre]) for centre in ("B", "A", "C")}
    one, other = (
        state_of(train_head(sites, QUICK, 0)),
        state_of(train_head(dict(sorted(sites.items())), QUICK, 0)),
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_twice_the_same_site_is_that_site(scans: Scans) -> None:
    """What is drawn is named after the site; without draws two sites alike change the weights as one does."""
    part = scans.of(["A"])
    still = replace(
        QUICK, noise=0.0, dropout=0.0, classifier=QUICK.classifier.model_copy(update={"dropout": 0.0})
    )
    still = replace(still, batch_size=len(part))
    one, two = (state_of(train_head(sites, still, 0)) for sites in ({"a": part}, {"a": part, "b": part}))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], atol=2e-4)


def test_it_learns_and_carries_to_a_centre_of_another_scale(scans: Scans) -> None:
    model = train_head({"all": scans.of(["A", "B"])}, HeadSettings(rounds=8), 0)
    area = auc(scans.of(["C"]).label_n, score_scans(model, scans.of(["C"])))
    assert area is not None
    assert area > 0.95


def test_a_scan_is_scored_by_itself_and_missing_tokens_are_not_read(scans: Scans) -> None:
    model = train_head({"A": scans.of(["A"])}, QUICK, 0)
    whole = score_scans(model, scans)
    np.testing.assert_allclose(score_scans(model, scans.take([5, 2])), whole[[5, 2]], atol=1e-5)
    present_nt = scans.present_nt.copy()
    present_nt[:, -3:] = False
    ratio_nt = scans.ratio_nt.copy()
    hidden = score_scans(model, replace(scans, present_nt=present_nt))
    ratio_nt[:, -3:] = 17.0
    np.testing.assert_allclose(
        score_scans(model, replace(scans, present_nt=present_nt, ratio_nt=ratio_nt)), hidden, atol=1e-6
    )
    assert not np.allclose(hidden, whole, atol=1e-6)


def test_nothing_to_train_on(scans: Scans) -> None:
    with pytest.raises(TrainingError, match="nothing to train on"):
        train_head({"A": scans.take([])}, QUICK, 0)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), dropout=st.floats(0.0, 1.0), gain=st.floats(0.0, 1.0))
def test_augmented_curves(seed: int, dropout: float, gain: float) -> None:
    log_bt = torch.linspace(0.1, 1.0, len(MINUTES)).repeat(4, 1)
    present_bt = torch.ones(log_bt.shape, dtype=torch.bool)
    present_bt[0, 5:] = False
    told = HeadSettings(gain=gain, noise=0.0, dropout=dropout)
    changed_bt, kept_bt = augment_curves(log_bt, present_bt, told, seed)
    ratio_bt = changed_bt / log_bt
    torch.testing.assert_close(ratio_bt, ratio_bt[:, :1].expand_as(ratio_bt))  # a curve as a whole
    assert (ratio_bt > 0).all()
    assert not (kept_bt & ~present_bt).any()
    assert kept_bt.any(dim=1).all()
    again_bt, same_bt = augment_curves(log_bt, present_bt, told, seed)
    assert torch.equal(again_bt, changed_bt)
    assert torch.equal(same_bt, kept_bt)
