"""A batch shared out is the batch: however few of its cases are taken at once, the round ends the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import CPU, STAGES, Stage, moved, run, same, start, tiny_cases, tiny_study, weights
from torch import Tensor

from phcc_model.config import StudyConfig
from phcc_model.training.sharing import Share


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Length of the difference over the length of the weights."""
    return moved(a, b) / float(sum(array.square().sum() for array in b.values()) ** 0.5)


def study_of(stage: Stage, phases: str, **settings: Any) -> StudyConfig:
    """Three batches of 8, 8 and 5 cases, twice; sample weights learned from the first step on."""
    weighting = {"weighting": {"uniform_fraction": 0.0}} if stage == "pretrain" else {}
    plain = tiny_study(**{stage: {"batch_size": 8, "local_epochs": 2, **weighting, **settings}})
    return plain.model_copy(update={"model": plain.model.model_copy(update={"phases": phases})})


@pytest.mark.parametrize("phases", ["shared", "joint"])
@pytest.mark.parametrize("stage", STAGES)
def test_cases_taken_a_few_at_once_give_the_same_round(stage: Stage, phases: str) -> None:
    study = study_of(stage, phases)
    model = start(stage, study)
    begin = weights(model)
    expected = run(stage, model, tiny_cases(21), study)
    whole = weights(model)
    for at_once in (1, 3, 8):
        model.load_state_dict(begin)
        result = run(stage, model, tiny_cases(21), study, share=Share(at_once=at_once))
        assert apart(weights(model), whole) < 1e-5
        assert same(weights(model), whole) == (at_once == 8)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (result.steps, result.cases) == (expected.steps, expected.cases)
        if stage == "pretrain":
            for name, array in expected.memory.items():
                assert result.memory[name] == pytest.approx(array, rel=1e-4, abs=1e-6)
            assert result.effective_rank == pytest.approx(expected.effective_rank, rel=1e-4)
        else:
            assert result.auc_training == pytest.approx(expected.auc_training, abs=0.02)


@pytest.mark.parametrize("look", ["own", "common"])
def test_cases_seen_once_more_are_shared_out_like_the_others(look: str) -> None:
    """A batch of 8 is ten then: all at once gives the same bits, and fewer at once the same round."""
    plain = study_of("finetune", "shared", find_moved=0.25)
    head = plain.model.classifier.model_copy(update={"pooling": "gap+found+spread", "look": look})
    study = plain.model_copy(update={"model": plain.model.model_copy(update={"classifier": head})})
    assert [study.moved_of(cases) for cases in (8, 5, 1)] == [2, 1, 0]
    assert plain.moved_of(8) == 0  # a network that does not look for lesions has nothing to find
    model = start("finetune", study)
    begin = weights(model)
    run("finetune", model, tiny_cases(21), study)
    whole = weights(model)
    # Their gradients are rounding: what is alike for all cells drops out of a softmax. AdamW steps none the less.
    alike = ("pool.look.bias", "pool.look_norm.bias")
    rest = {name: array for name, array in whole.items() if name not in alike}
    for at_once in (1, 3, 8, 10):
        model.load_state_dict(begin)
        run("finetune", model, tiny_cases(21), study, share=Share(at_once=at_once))
        assert apart({name: weights(model)[name] for name in rest}, rest) < 1e-5
        assert same(weights(model), whole) == (at_once == 10)


@pytest.mark.parametrize("stage", STAGES)
def test_the_same_share_gives_the_same_bits(stage: Stage) -> None:
    study = study_of(stage, "shared")
    model = start(stage, study)
    begin, ends = weights(model), []
    for _ in range(2):
        model.load_state_dict(begin)
        run(stage, model, tiny_cases(21), study, share=Share(at_once=3))
        ends.append(weights(model))
    assert same(*ends)


def test_in_parts_what_a_part_computed_on_its_way_is_not_kept() -> None:
    study, kept = study_of("finetune", "joint"), []
    model = start("finetune", study)

    def pack(x: Tensor) -> Tensor:
        kept[-1] += x.numel()
        return x

    for share in (Share(), Share(at_once=1)):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            run("finetune", model, tiny_cases(8), study, share=share)
    assert kept[1] < kept[0] / 2


def test_a_frozen_encoder_stands_still_in_parts_too() -> None:
    study = study_of("finetune", "shared", freeze_encoder_rounds=3)
    model = start("finetune", study)
    begin = weights(model)
    run("finetune", model, tiny_cases(), study, share=Share(at_once=2))
    assert all(
        torch.equal(begin[name], a) for name, a in weights(model).items() if name.startswith("encoder")
    )
    assert not torch.equal(begin["out.weight"], model.state_dict()["out.weight"])


@given(cases=st.integers(1, 40), ranks=st.integers(1, 9), at_once=st.none() | st.integers(1, 9))
def test_every_case_is_in_one_part_of_one_rank(cases: int, ranks: int, at_once: int | None) -> None:
    taken = []
    for rank in range(ranks):
        parts = Share(rank, ranks, at_once).parts(cases)
        sizes = [part.stop - part.start for part in parts]
        assert all(0 < size <= (at_once or cases) for size in sizes)
        assert cases // ranks <= sum(sizes) <= -(-cases // ranks)
        taken += [at for part in parts for at in range(part.start, part.stop)]
    assert taken == list(range(cases))


def test_one_rank_agrees_with_itself() -> None:
    assert Share().agreed(True, CPU)
    assert not Share().agreed(False, CPU)
