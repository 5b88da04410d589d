"""Where a network looks by itself: each phase alone, or all phases of a case together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import tiny_study
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pooling import scattered
from torch import Tensor

from phcc_model.augmentation import augment, moved
from phcc_model.build import build_classifier
from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.config import StudyConfig
from phcc_model.heads import CaseNorm
from phcc_model.look import CommonLook, OwnLook, Samples
from phcc_model.seeds import derive_seed
from phcc_model.training.batches import Batch
from phcc_model.training.finetuning import _forward, finetune_round
from phcc_model.training.sharing import Share

presence = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4)


def samples_of(present_bp: Tensor) -> Samples:
    case_n, token_n = present_bp.nonzero(as_tuple=True)
    return Samples(case_n, token_n, present_bp)


def spoken(look: CommonLook, cells_bpkc: Tensor, present_bp: Tensor) -> Tensor:
    samples = samples_of(present_bp)
    with torch.no_grad():
        out: Tensor = look(cells_bpkc[samples.case_n, samples.token_n], samples)
    return out


@settings(deadline=None)
@given(present=presence, seed=st.integers(0, 999))
def test_a_common_look_is_the_mean_of_what_the_phases_that_are_there_show(
    present: list[list[bool]], seed: int
) -> None:
    """By hand, case by case; no case moves another's, and what stands in a missing phase is not read."""
    present_bp = torch.tensor(present)
    draw = torch.Generator().manual_seed(seed)
    cells_bpkc = torch.randn(len(present), 3, 5, 4, generator=draw)
    look = CommonLook(3, 4)
    with torch.no_grad():
        look.weight_tc.copy_(torch.randn(3, 4, generator=draw))
    speaks_nk = spoken(look, cells_bpkc, present_bp)
    each_bpk = torch.einsum("bpkc,pc->bpk", cells_bpkc, look.weight_tc.detach())
    for n, (case, _) in enumerate(present_bp.nonzero().tolist()):
        torch.testing.assert_close(speaks_nk[n], each_bpk[case, present_bp[case]].mean(dim=0))


def test_a_phase_that_does_not_count_is_looked_at_and_not_asked() -> None:
    cells_bpkc = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    look = CommonLook(3, 4)
    all_bp = torch.ones(2, 3, dtype=torch.bool)
    two_bp = torch.tensor([[True, False, True]]).expand(2, -1)
    all_of_them = samples_of(all_bp)._replace(counted_bt=two_bp)
    with torch.no_grad():
        speaks_nk = look(cells_bpkc.flatten(0, 1), all_of_them)
    torch.testing.assert_close(speaks_nk[::3], spoken(look, cells_bpkc, two_bp)[::2])
    torch.testing.assert_close(speaks_nk[1::3], speaks_nk[::3])  # where the others look


def test_a_look_of_its_own_asks_no_other_map() -> None:
    look = OwnLook(4)
    cells_nkc = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    together = look(cells_nkc, samples_of(torch.ones(2, 3, dtype=torch.bool)))
    for n in range(6):
        torch.testing.assert_close(
            together[n : n + 1], look(cells_nkc[n : n + 1], Samples.alone(cells_nkc[:1]))
        )


def finder(look: str, phases: str = "shared", **finetune: object) -> StudyConfig:
    head = {"pooling": "found+spread", "dropout": 0.0, "look": look, "projection": "per-phase"}
    return tiny_study(
        data={"crop": {"size": [4, 32, 32]}},
        model={"phases": phases, "classifier": head},
        finetune={"rounds": 6, "local_epochs": 3, "batch_size": 8, "learning_rate": 0.01, **finetune},
    )


def trained(study: StudyConfig, cases: CaseSet) -> Classifier:
    model = build_classifier(study)
    for index in range(study.finetune.rounds):
        finetune_round(model, cases, study, round_index=index, site="a", device=torch.device("cpu"))
    return model


def test_where_phases_are_channels_there_is_one_look_anyhow() -> None:
    """The setting changes nothing there but a name: one token, one look."""
    model = build_classifier(finder("common", phases="joint"))
    assert isinstance(model.pool.look, CommonLook)
    assert model.pool.look.weight_tc.shape[0] == 1


def shown_by_one(count: int, seed: int) -> CaseSet:
    """A lesion anywhere that the second phase alone shows."""
    return scattered(count, seed, shown_in=(1,))


def within(model: Classifier, cases: CaseSet) -> float:
    """The share of the looks that lies in the lesions, the mean over cases and phases."""
    volumes, present = torch.from_numpy(cases.volumes_npdhw).float(), torch.from_numpy(cases.present_np)
    with torch.no_grad():
        within_b = model.eval().looked_within(volumes, present, torch.from_numpy(cases.lesion_ndhw).float())
    assert within_b is not None
    return float(within_b.mean())


def test_a_lesion_that_one_phase_hides_is_found_in_all_phases_by_the_common_look() -> None:
    """The fault that it mends: a phase that looks by itself cannot find what it does not show."""
    found = {}
    for look in ("own", "common"):
        found[look] = within(trained(finder(look), shown_by_one(32, 1)), shown_by_one(24, 2))
    assert found["common"] > 0.8, found
    assert found["own"] < 0.6, found  # one of two phases: half, and what chance leaves of the other


def test_a_share_of_a_batch_is_looked_for_once_more_elsewhere_in_its_crop() -> None:
    """By hand: the first cases again, image and lesion moved alike, told beside what the others are told."""
    study = finder("common", find_moved=0.5)
    model = build_classifier(study).eval()
    batch = Batch.of(shown_by_one(5, 3), np.arange(5), torch.device("cpu"))
    with torch.no_grad():
        logit_b, missed_b = _forward(model, batch, study, 7, Share())
    assert (len(logit_b), len(missed_b)) == (5, 7)
    seen = augment(batch.volumes_bpdhw, batch.present_bp, batch.lesion_bdhw, study.finetune.augmentation, 7)
    volumes, present, lesion = seen
    by = derive_seed(7, "moved")
    lesions_then = moved(lesion[:2, None], by)[:, 0]
    again = (torch.cat([volumes, moved(volumes[:2], by)]), present[[0, 1, 2, 3, 4, 0, 1]])
    lesions = torch.cat([lesion, lesions_then])
    with torch.no_grad():
        torch.testing.assert_close(logit_b, model(*seen))
        _, expected_b = model.features(*again, lesions, model.draw_paths(again[1]))
    torch.testing.assert_close(missed_b, expected_b)
    assert not torch.equal(lesions_then, lesion[:2])


def test_what_is_seen_moved_is_not_scored() -> None:
    """One step, whose loss is taken before the weights move: the same loss, the same norm, other weights."""
    ends = []
    for share in (0.0, 0.5):
        study = finder("common", find_moved=share, rounds=1, local_epochs=1)
        model = build_classifier(study)
        result = finetune_round(
            model, shown_by_one(8, 3), study, round_index=0, site="a", device=torch.device("cpu")
        )
        assert (result.steps, result.cases) == (1, 8)
        ends.append((result, model.state_dict()))
    (plain, before), (with_moved, after) = ends
    assert with_moved == plain
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("norm.mean"))
    assert not torch.equal(before["pool.look.weight_tc"], after["pool.look.weight_tc"])


@pytest.mark.parametrize("look", ["own", "common"])
def test_how_much_was_looked_within_does_not_ask_an_untaught_phase(look: str) -> None:
    model = build_classifier(finder(look))
    cases = shown_by_one(4, 3)
    volumes, present = torch.from_numpy(cases.volumes_npdhw).float(), torch.from_numpy(cases.present_np)
    lesion = torch.from_numpy(cases.lesion_ndhw).float()
    assert isinstance(model.norm, CaseNorm)
    model.eval().norm.mass_t1[0] = 1.0
    with torch.no_grad():
        before = model(volumes, present, lesion)
        volumes[:, 1] += 5.0
        torch.testing.assert_close(model(volumes, present, lesion), before)
