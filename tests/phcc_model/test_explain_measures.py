"""Figures of maps by hand, networks drawn anew, and a map that finds what a network has learnt to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import tiny_study
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.build import build_classifier
from phcc_model.explain import heat_maps
from phcc_model.explain_measures import mean_interval, place_of, ratio_interval, redrawn, with_rim


def test_a_map_s_place_by_hand() -> None:
    map_dhw = np.zeros((2, 2, 2), np.float32)
    map_dhw[0, 0, 0], map_dhw[1, 1, 1] = 3.0, 1.0
    region = np.zeros((2, 2, 2), bool)
    region[0, 0] = True
    place = place_of(map_dhw, region)
    assert (place.volume, place.mass, place.pointed, place.concentration) == (0.25, 0.75, True, 3.0)
    assert place_of(map_dhw, ~region).pointed is False
    empty = place_of(np.zeros_like(map_dhw), region)
    assert (empty.mass, empty.pointed, empty.concentration) == (None, None, None)
    with pytest.raises(ValueError, match="region"):
        place_of(map_dhw, region[:1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100.0))
def test_a_map_s_place_does_not_depend_on_its_strength_and_shares_add_up(seed: int, times: float) -> None:
    draw = np.random.default_rng(seed)
    map_dhw = draw.random((3, 4, 5)).astype(np.float32)
    region = draw.random((3, 4, 5)) > 0.5
    inside, outside = place_of(map_dhw, region), place_of(map_dhw, ~region)
    assert inside.mass is not None
    assert outside.mass is not None
    assert inside.mass + outside.mass == pytest.approx(1.0)
    assert place_of(map_dhw * np.float32(times), region).mass == pytest.approx(inside.mass, rel=1e-4)
    assert place_of(np.ones_like(map_dhw), region).mass == pytest.approx(inside.volume)


def test_a_rim_is_counted_in_millimetres() -> None:
    lesion = np.zeros((5, 9, 9), bool)
    lesion[2, 4, 4] = True
    rim = with_rim(lesion, (3.0, 1.0, 1.0), 2.0)
    assert not rim[[1, 3]].any()
    assert rim[2, 4].tolist() == [False, False, True, True, True, True, True, False, False]
    assert not with_rim(np.zeros_like(lesion), (1.0, 1.0, 1.0), 2.0).any()


def test_a_network_is_drawn_anew_from_a_depth_upwards() -> None:
    study = tiny_study()
    trained, other = build_classifier(study), study.model_copy(update={"seed": 9})
    before = {name: value.clone() for name, value in trained.named_parameters()}
    top = trained.encoder.layers
    for depth in range(top + 2):
        mixed = dict(redrawn(trained, build_classifier(other), depth).named_parameters())
        for name, layer in trained.parameter_depths().items():
            fresh = dict(build_classifier(other).named_parameters())[name]
            assert torch.equal(mixed[name], before[name] if layer < depth else fresh)
    assert all(torch.equal(before[name], value) for name, value in trained.named_parameters())


def test_intervals_hold_their_means_and_leave_out_what_is_not_there() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan, 6.0])
    found = mean_interval(values, np.random.default_rng(0))
    assert found.value == 3.0
    assert found.patients == 4
    assert found.low is not None
    assert found.high is not None
    assert 1.0 <= found.low < 3.0 < found.high <= 6.0
    assert found == mean_interval(values, np.random.default_rng(0))
    ratio = ratio_interval(2 * values, values, np.random.default_rng(0))
    assert ratio.value == pytest.approx(2.0)
    assert ratio.low == pytest.approx(2.0)
    assert ratio.high == pytest.approx(2.0)
    assert mean_interval(values[:1], np.random.default_rng(0)).low is None
    assert mean_interval(values[3:4], np.random.default_rng(0)).value is None
    assert ratio_interval(values, np.zeros(5), np.random.default_rng(0)).value is None


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise; in every case something bright in the second phase at a random place, large where the label is 1."""
    source = torch.Generator().manual_seed(seed)
    volumes = 0.3 * torch.randn(count, 2, 4, 32, 32, generator=source)
    label = torch.arange(count) % 2
    where = torch.zeros(count, 4, 32, 32, dtype=torch.bool)
    for i in range(count):
        y, x = torch.randint(0, 25, (2,), generator=source).tolist()
        where[i, :, y : y + 8, x : x + 8] = True
        volumes[i, 1][where[i]] += 2.0 * float(label[i])
    return volumes, label.float(), where


@pytest.mark.parametrize("pooling", ["gap", "found+spread"])
def test_on_a_network_that_has_learnt_its_task_the_map_finds_what_it_was_taught(pooling: str) -> None:
    # Without lesion pooling, and with the sign anywhere in the crop: nothing leads the map there by construction.
    study = tiny_study(
        data={"crop": {"size": [4, 32, 32]}}, model={"classifier": {"pooling": pooling, "dropout": 0.0}}
    )
    model = build_classifier(study).train()
    volumes, label, lesion = blobs(48, 1)
    present = torch.ones(len(volumes), 2, dtype=torch.bool)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(30):
        optimiser.zero_grad()
        kept = model.draw_paths(present)
        f_btc, missed_b = model.features(volumes, present, lesion.float(), kept)
        score_b = model.score(f_btc, present)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score_b, label) + missed_b.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    unseen, truth, where = blobs(80, 2)
    positive = truth > 0
    there = torch.ones(int(positive.sum()), 2, dtype=torch.bool)

    def densities(network: torch.nn.Module) -> np.ndarray:
        maps = heat_maps(network, unseen[positive], there).maps_bpdhw[:, 1].numpy()  # type: ignore[arg-type]
        found = [place_of(m, w.numpy()).concentration for m, w in zip(maps, where[positive], strict=True)]
        return np.array([np.nan if value is None else value for value in found])

    learnt = densities(model)
    random = [densities(build_classifier(study.model_copy(update={"seed": s}))) for s in range(20, 26)]
    by_chance = float(np.nanmean(random))
    assert np.nanmean(learnt) >= 3.0, (np.nanmean(learnt), by_chance)
    assert np.nanmean(learnt) >= 2.0 * by_chance, (np.nanmean(learnt), by_chance)
