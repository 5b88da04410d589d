"""Pooling: places that are given, and places that a network finds after it was told where to look."""

from __future__ import annotations

import math

import numpy as np
import torch
from builders import tiny_study
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.build import build_classifier
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.pooling import CORE_TO, RIM_FROM, Pooling, lesion_zones, missed
from phcc_model.training.finetuning import finetune_round

GRID = (2, 8, 8)


def pool(map_ncdhw: torch.Tensor, lesion_ndhw: torch.Tensor, pooling: str) -> torch.Tensor:
    return Pooling(pooling, map_ncdhw.shape[1])(map_ncdhw, lesion_ndhw).f_nc


def test_pooling_weighs_cells_by_their_share_of_lesion() -> None:
    map_ncdhw = torch.randn(2, 5, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    lesion = torch.zeros(2, *GRID)
    lesion[0, 0, 0:4, 0:4] = 1.0  # one slice, one quarter: the whole of cell (0, 0, 0)
    lesion[0, 1, 4:6, 4:8] = 1.0  # half of cell (1, 1, 1)
    mean = map_ncdhw.mean((2, 3, 4))
    inside = pool(map_ncdhw, lesion, "lesion")
    torch.testing.assert_close(inside[0], (map_ncdhw[0, :, 0, 0, 0] + 0.5 * map_ncdhw[0, :, 1, 1, 1]) / 1.5)
    torch.testing.assert_close(inside[1], mean[1])  # no lesion: the mean over all cells
    torch.testing.assert_close(pool(map_ncdhw, lesion, "gap"), mean)
    torch.testing.assert_close(pool(map_ncdhw, lesion, "gap+lesion"), torch.cat([mean, inside], dim=1))


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), height=st.floats(-3.0, 3.0), gain=st.floats(-4.0, 4.0))
def test_the_spread_is_that_of_the_lesions_cells_whatever_their_height(
    seed: int, height: float, gain: float
) -> None:
    source = torch.Generator().manual_seed(seed)
    map_ncdhw = torch.randn(2, 5, 2, 2, 2, generator=source)
    lesion = torch.zeros(2, *GRID)  # the second case has none: the spread over all cells
    lesion[0, 0, :, 0:4] = 1.0  # cells (0, 0, 0) and (0, 1, 0), whole
    spread = pool(height + gain * map_ncdhw, lesion, "gap+lesion+spread")[:, 10:]
    of_lesion = map_ncdhw[0, :, 0, :, 0].std(dim=1, correction=0)
    of_all = map_ncdhw[1].flatten(1).std(dim=1, correction=0)
    expected = abs(gain) * torch.stack([of_lesion, of_all])
    torch.testing.assert_close(spread, expected, atol=2e-3, rtol=1e-3)  # the root starts at 1e-3, not at 0


def test_a_lesion_within_one_cell_has_no_spread_and_a_finite_gradient() -> None:
    map_ncdhw = torch.randn(1, 5, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    lesion = torch.zeros(1, *GRID)
    lesion[0, 0, 0:2, 0:2] = 1.0
    pooled = pool(map_ncdhw, lesion, "gap+lesion+spread")
    torch.testing.assert_close(pooled[:, 5:10], map_ncdhw[:, :, 0, 0, 0])
    assert pooled[:, 10:].detach().max() < 2e-3
    (gradient,) = torch.autograd.grad(pooled.sum(), map_ncdhw)
    assert gradient.isfinite().all()


def test_rim_and_core_are_those_of_the_ellipsoid_in_the_lesions_box() -> None:
    """Of a ball, by its radius; a box around it has nearly the same; where there is no lesion, none."""
    d, h, w = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (24, 40, 40)), indexing="ij")
    radius = (d**2 + h**2 + w**2).sqrt() / 9.0
    ball = radius <= 1.0
    boxed = (d.abs() <= 9) & (h.abs() <= 9) & (w.abs() <= 9)
    rim, core = lesion_zones(torch.stack([ball, boxed, torch.zeros_like(ball)]))
    for zone, true in ((rim, (radius >= RIM_FROM) & ball), (core, radius <= CORE_TO)):
        for case in (0, 1):
            overlap = 2.0 * (zone[case] & true).sum() / (zone[case].sum() + true.sum())
            assert float(overlap) > 0.93
        assert not zone[2].any()
    assert not (rim & core).any()


@given(shift=st.tuples(*(st.integers(-3, 3) for _ in range(3))), flip=st.sampled_from([(), (1,), (2, 3)]))
@settings(deadline=None, max_examples=20)
def test_zones_move_with_the_lesion(shift: tuple[int, int, int], flip: tuple[int, ...]) -> None:
    lesion = torch.zeros(1, 14, 16, 16, dtype=torch.bool)
    lesion[0, 4:9, 4:11, 5:12] = True
    lesion[0, 4, 4, :] = False
    moved = lesion.roll(shift, (1, 2, 3)).flip(flip)
    for zone, expected in zip(lesion_zones(moved), lesion_zones(lesion), strict=True):
        assert torch.equal(zone, expected.roll(shift, (1, 2, 3)).flip(flip))


def test_a_rim_is_pooled_apart_from_the_core() -> None:
    lesion = torch.zeros(1, 8, 16, 16)
    lesion[:, 1:7, 2:14, 2:14] = 1.0
    rim, core = lesion_zones(lesion > 0)
    map_ncdhw = torch.stack([rim, core], dim=1).float()
    pooled = pool(map_ncdhw, lesion, "gap+lesion+rim+core")
    torch.testing.assert_close(pooled[0, 4:], torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert pool(map_ncdhw, torch.zeros_like(lesion), "gap+lesion+rim+core").isfinite().all()


def test_a_look_is_a_mean_over_a_place_of_its_own() -> None:
    """One that is sure of a cell gives that cell's features; an unsure one gives the mean over all."""
    pooling = Pooling("found+spread", 5)
    map_ncdhw = torch.randn(2, 5, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooling.look.weight.zero_()
    flat = map_ncdhw.flatten(2)
    f_nc, _ = pooling(map_ncdhw, torch.zeros(2, *GRID))
    assert f_nc.shape == (2, pooling.features) == (2, 10)
    torch.testing.assert_close(f_nc[:, :5], flat.mean(dim=2))
    torch.testing.assert_close(f_nc[:, 5:], (flat.var(dim=2, correction=0) + 1e-6).sqrt())
    with torch.no_grad():
        pooling.look.weight[0, 3] = 1e4  # it wants the fourth channel, as far as it goes
    best_n = pooling.look_norm(flat.transpose(1, 2))[:, :, 3].argmax(dim=1)
    f_nc, _ = pooling(map_ncdhw, torch.zeros(2, *GRID))
    torch.testing.assert_close(f_nc[:, :5], flat[torch.arange(2), :, best_n])
    torch.testing.assert_close(pooling.looks(flat).sum(dim=1), torch.ones(2))


@given(within=st.floats(0.01, 1.0))
def test_how_far_a_look_lies_beside_the_lesion(within: float) -> None:
    """By hand: -log of the share within, wherever within; nothing where no lesion is given."""
    lesion = torch.zeros(3, *GRID)
    lesion[:, 0, :, 0:4] = 1.0  # cells 0 and 2 of 8, whole
    lesion[1] = 0.0
    look_nk = torch.zeros(3, 8)
    look_nk[:2, 0] = within
    look_nk[2, [0, 2]] = within / 2
    look_nk[:, 5] = 1.0 - within
    expected = -math.log(within)
    found = missed(look_nk, lesion, (2, 2, 2))
    torch.testing.assert_close(found, torch.tensor([expected, 0.0, expected]), atol=1e-5, rtol=1e-5)


def test_how_much_of_a_look_lies_in_the_lesion() -> None:
    pooling = Pooling("found", 5)
    lesion = torch.zeros(2, *GRID)
    lesion[0, 0, :, 0:4] = 1.0
    lesion[1, :, :, 0:2] = 1.0
    with torch.no_grad():
        pooling.look.weight.zero_()  # it looks everywhere alike
    within = pooling.within(torch.randn(2, 5, 2, 2, 2), lesion)
    torch.testing.assert_close(within, torch.tensor([0.25, 0.25]))


def scattered(count: int, seed: int, shown_in: tuple[int, ...] = (0, 1)) -> CaseSet:
    """Noise, and a lesion anywhere, bright in positives and dark in negatives: to judge it is to find it.

    Args:
        count: cases.
        seed: of all that is drawn.
        shown_in: the phases, of two, that show the lesion.
    """
    draw = np.random.default_rng(seed)
    label_n = (np.arange(count) % 2).astype(np.int8)
    volumes = 0.3 * draw.standard_normal((count, 2, 4, 32, 32))
    lesion = np.zeros((count, 4, 32, 32), np.uint8)
    for i, (y, x) in enumerate(draw.integers(0, 25, (count, 2))):
        lesion[i, :, y : y + 8, x : x + 8] = 1
        volumes[i, shown_in] += (1.5 if label_n[i] else -1.5) * lesion[i]
    return CaseSet(
        case=tuple(f"case-{i}" for i in range(count)),
        patient=tuple(f"patient-{i}" for i in range(count)),
        volumes_npdhw=volumes.astype(np.float16),
        present_np=np.ones((count, 2), bool),
        lesion_ndhw=lesion,
        label_n=label_n,
        afp_n=np.full(count, np.nan, np.float32),
    )


def beside(model: Classifier, cases: CaseSet) -> float:
    """The mean over cases of `Pooled.missed_n`."""
    volumes, present = torch.from_numpy(cases.volumes_npdhw).float(), torch.from_numpy(cases.present_np)
    lesion = torch.from_numpy(cases.lesion_ndhw).float()
    with torch.no_grad():
        _, missed_b = model.eval().features(volumes, present, lesion, model.draw_paths(present))
    return float(missed_b.mean())


def test_a_network_that_was_told_where_to_look_finds_lesions_by_itself() -> None:
    """After rounds of fine-tuning it looks at lesions of cases never seen; with weight 0 it does not learn to."""
    unseen = scattered(24, 2)
    ends = []
    for weight in (1.0, 0.0):
        study = tiny_study(
            data={"crop": {"size": [4, 32, 32]}},
            model={"classifier": {"pooling": "found+spread", "dropout": 0.0}},
            finetune={
                "rounds": 6,
                "local_epochs": 3,
                "batch_size": 8,
                "learning_rate": 0.01,
                "find_weight": weight,
            },
        )
        model = build_classifier(study)
        start = beside(model, unseen)
        for round_index in range(6):
            finetune_round(
                model, scattered(32, 1), study, round_index=round_index, site="a", device=torch.device("cpu")
            )
        ends.append(beside(model, unseen))
    told, untold = ends
    assert told < 0.5 < start - 0.5, (told, start)
    assert told < untold - 0.5, (told, untold)


def test_the_loss_that_is_told_is_that_of_the_scores() -> None:
    """One step: its loss is taken before the weights move, and being told where to look is no part of it."""
    told = []
    for weight in (0.0, 5.0):
        study = tiny_study(
            data={"crop": {"size": [4, 32, 32]}},
            model={"classifier": {"pooling": "found", "dropout": 0.0}},
            finetune={"batch_size": 8, "find_weight": weight},
        )
        model, cases = build_classifier(study), scattered(8, 3)
        result = finetune_round(model, cases, study, round_index=0, site="a", device=torch.device("cpu"))
        assert result.steps == 1
        told.append((result.loss, beside(model, cases)))
    assert told[0][0] == told[1][0]
    assert told[0][1] != told[1][1]
