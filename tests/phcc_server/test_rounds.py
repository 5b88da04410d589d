from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_model.config import FederationSettings, FinetuneSettings, PretrainSettings, StudyConfig
from phcc_model.errors import StorageError
from phcc_server.rounds import (
    Evaluate,
    Finish,
    RoundStatus,
    StudyState,
    Train,
    after_evaluation,
    after_training,
    first_state,
    judge_round,
    next_step,
)

SETTINGS = settings(max_examples=100, deadline=None)
losses = st.none() | st.floats(0.0, 5.0) | st.just(float("nan"))


def study_of(pretrain: int, finetune: int, patience: int = 0) -> StudyConfig:
    return StudyConfig(
        pretrain=PretrainSettings(rounds=pretrain),
        finetune=FinetuneSettings(rounds=finetune, patience=patience),
    )


def play(study: StudyConfig, loss_of, *, pretrain: bool = True, failures: int = 0):
    """Run the machine to its end: all steps, and the state after each."""
    state = first_state(study, pretrain=pretrain)
    steps, states = [], [state]
    for _ in range(2 * (study.pretrain.rounds + study.finetune.rounds) + failures + 1):
        step = next_step(state, study)
        steps.append(step)
        if isinstance(step, Finish):
            return steps, states
        if isinstance(step, Train):
            outcome = RoundStatus.FAILED if failures else RoundStatus.COMPLETE
            failures = max(0, failures - 1)
            state = after_training(state, outcome)
        else:
            state = after_evaluation(state, loss_of(step), study)
        states.append(state)
    raise AssertionError("the machine did not end")


@SETTINGS
@given(pretrain=st.integers(0, 5), finetune=st.integers(1, 6), patience=st.integers(0, 3), data=st.data())
def test_it_ends_skips_nothing_and_never_trains_too_much(pretrain, finetune, patience, data) -> None:
    study = study_of(pretrain, finetune, patience)
    failures = data.draw(st.integers(0, 3))
    steps, _ = play(study, lambda _: data.draw(losses), failures=failures)
    assert isinstance(steps[-1], Finish)
    done = [s for a, s in enumerate(steps[:-1]) if steps[a + 1] != s]  # a failed round is asked for again
    for train, evaluate in zip(done[::2], done[1::2], strict=True):
        assert isinstance(train, Train)
        assert evaluate == Evaluate(train.stage, train.round)
    trained = [(s.stage, s.round) for s in done if isinstance(s, Train)]
    first = [("pretrain", r) for r in range(pretrain)]
    second = [r for stage, r in trained if stage == "finetune"]
    assert trained[:pretrain] == first
    assert second == list(range(len(second)))
    assert 1 <= len(second) <= finetune
    assert len(trained) == pretrain + len(second)
    assert patience or len(second) == finetune
    assert all(
        s.rounds == (pretrain if s.stage == "pretrain" else finetune) for s in done if isinstance(s, Train)
    )


@SETTINGS
@given(
    seen=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=8),
    patience=st.integers(0, 4),
    pretrain_loss=st.floats(0.0, 5.0),
)
def test_the_best_round_is_the_first_with_the_lowest_validation_loss(seen, patience, pretrain_loss) -> None:
    study = study_of(2, len(seen), patience)
    steps, _ = play(study, lambda s: seen[s.round] if s.stage == "finetune" else pretrain_loss)
    finish = steps[-1]
    played = seen[: sum(isinstance(s, Train) and s.stage == "finetune" for s in steps)]
    assert finish.best_loss == min(played)
    assert finish.best_round == played.index(min(played))
    if len(played) < len(seen):
        assert patience
        assert len(played) - 1 - finish.best_round == patience
    elif patience:
        assert len(played) - 1 - finish.best_round <= patience


@SETTINGS
@given(seen=st.lists(losses, min_size=1, max_size=8))
def test_an_unknown_loss_is_never_the_best_while_another_is_known(seen) -> None:
    steps, states = play(study_of(0, len(seen)), lambda s: seen[s.round])
    known = {at: loss for at, loss in enumerate(seen) if loss is not None and loss == loss}
    finish = steps[-1]
    if known:
        assert finish.best_loss == min(known.values())
        assert known[finish.best_round] == finish.best_loss
    else:
        assert finish == Finish(len(seen) - 1, None)
    evaluated = [s for s in states if s.best_round is not None]
    assert len(evaluated) >= len(seen)


def test_patience_stops_the_second_stage_only() -> None:
    steps, _ = play(study_of(4, 9, patience=2), lambda s: float(s.round))
    assert [s.round for s in steps if isinstance(s, Train) and s.stage == "pretrain"] == [0, 1, 2, 3]
    assert [s.round for s in steps if isinstance(s, Train) and s.stage == "finetune"] == [0, 1, 2]
    assert steps[-1] == Finish(0, 0.0)


def test_an_arm_without_pretraining_begins_with_the_classifier() -> None:
    assert first_state(study_of(3, 2)).stage == "pretrain"
    assert first_state(study_of(3, 2), pretrain=False).stage == "finetune"
    assert first_state(study_of(0, 2)).stage == "finetune"


def test_a_failed_round_is_still_to_be_trained_and_a_partial_one_is_not() -> None:
    state = first_state(study_of(1, 1))
    assert after_training(state, RoundStatus.FAILED) == state
    assert after_training(state, RoundStatus.PARTIAL).trained


def test_steps_out_of_turn_are_errors() -> None:
    study = study_of(0, 1)
    state = first_state(study)
    with pytest.raises(ValueError, match="no evaluation"):
        after_evaluation(state, 1.0, study)
    trained = after_training(state, RoundStatus.COMPLETE)
    with pytest.raises(ValueError, match="no training"):
        after_training(trained, RoundStatus.COMPLETE)
    finished = after_evaluation(trained, 1.0, study)
    assert finished.finished
    with pytest.raises(ValueError, match="no training"):
        after_training(finished, RoundStatus.COMPLETE)
    with pytest.raises(ValueError, match="no evaluation"):
        after_evaluation(finished, 1.0, study)


@SETTINGS
@given(pretrain=st.integers(0, 3), finetune=st.integers(1, 4), data=st.data())
def test_a_run_can_be_taken_up_again_from_json_at_every_step(pretrain, finetune, data) -> None:
    study = study_of(pretrain, finetune, patience=2)
    _, states = play(study, lambda _: data.draw(losses))
    for state in states:
        again = StudyState.from_json(state.to_json())
        assert again == state
        assert next_step(again, study) == next_step(state, study)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"stage":"pretrain"}',
        StudyState("finetune").to_json().replace("finetune", "done"),
        StudyState("finetune").to_json().replace('"round": 0', '"round": "0"'),
        StudyState("finetune").to_json().replace('"round": 0', '"round": -1'),
        StudyState("finetune").to_json().replace('"trained": false', '"trained": 0'),
        StudyState("finetune").to_json().replace('"finished": false', '"finished": true'),
        StudyState("finetune").to_json().replace('"best_loss": null', '"best_loss": 0.5'),
    ],
)
def test_a_state_that_is_none_is_refused(text) -> None:
    with pytest.raises(StorageError, match="state"):
        StudyState.from_json(text)


def test_a_state_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StudyState("finetune").round = 3


SITES = ["A", "B", "C"]


@pytest.mark.parametrize(
    ("replied", "refused", "required", "expected"),
    [
        ("ABC", "", "", RoundStatus.COMPLETE),
        ("AB", "", "", RoundStatus.PARTIAL),
        ("ABC", "C", "", RoundStatus.PARTIAL),
        ("ABC", "BC", "", RoundStatus.FAILED),
        ("A", "", "", RoundStatus.FAILED),
        ("", "", "", RoundStatus.FAILED),
        ("AB", "", "C", RoundStatus.FAILED),
        ("BC", "", "C", RoundStatus.PARTIAL),
        ("ABX", "", "", RoundStatus.PARTIAL),  # a site that was not asked counts for nothing
        ("AXY", "", "", RoundStatus.FAILED),
    ],
)
def test_quorum(replied, refused, required, expected) -> None:
    federation = FederationSettings(minimum_sites=2, required_sites=tuple(required))
    assert judge_round(SITES, list(replied), list(refused), federation) is expected


def test_a_round_of_nobody_fails() -> None:
    assert judge_round([], [], [], FederationSettings(minimum_sites=1)) is RoundStatus.FAILED


@SETTINGS
@given(
    replied=st.sets(st.sampled_from("ABCDE")),
    refused=st.sets(st.sampled_from("ABCDE")),
    minimum=st.integers(1, 5),
)
def test_one_more_refusal_never_makes_a_round_better(replied, refused, minimum) -> None:
    federation = FederationSettings(minimum_sites=minimum)
    rank = [RoundStatus.FAILED, RoundStatus.PARTIAL, RoundStatus.COMPLETE]
    whole = rank.index(judge_round("ABCDE", replied, refused, federation))
    for site in "ABCDE":
        assert rank.index(judge_round("ABCDE", replied, refused | {site}, federation)) <= whole
