from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import tiny_study

from phcc_model.build import build_autoencoder, build_classifier, first_weights, load_state, state_of
from phcc_model.checkpoint import state_digest
from phcc_model.contract import keys
from phcc_model.errors import ConfigError, ContractError

STUDY = tiny_study()
BUILDERS = {keys.PRETRAIN: build_autoencoder, keys.FINETUNE: build_classifier}


@pytest.mark.parametrize("stage", keys.STAGES)
def test_a_models_start_follows_from_the_study_alone(stage: str) -> None:
    torch.manual_seed(1)
    one = state_of(BUILDERS[stage](STUDY))
    torch.manual_seed(2)
    assert state_digest(state_of(BUILDERS[stage](STUDY))) == state_digest(one)
    assert state_digest(first_weights(STUDY, stage)) == state_digest(one)
    assert state_digest(first_weights(tiny_study(seed=1), stage)) != state_digest(one)
    assert all(np.isfinite(array).all() for array in one.values())


@pytest.mark.parametrize("stage", keys.STAGES)
def test_building_draws_nothing_from_the_global_generator(stage: str) -> None:
    before = torch.get_rng_state()
    BUILDERS[stage](STUDY)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_is_put_back_where_building_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        torch.rand(3)
        raise RuntimeError

    monkeypatch.setattr("phcc_model.build.Classifier", fails)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        build_classifier(STUDY)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_takes_over_the_pre_trained_encoder_and_nothing_else() -> None:
    pretrained = {name: array + 1 for name, array in first_weights(STUDY, keys.PRETRAIN).items()}
    plain, taken = first_weights(STUDY, keys.FINETUNE), first_weights(STUDY, keys.FINETUNE, pretrained)
    assert plain.keys() == taken.keys()
    encoder = [name for name in plain if name.startswith("encoder.")]
    assert encoder
    for name in plain:
        expected = pretrained[name] if name in encoder else plain[name]
        np.testing.assert_array_equal(taken[name], expected, err_msg=name)


def test_an_encoder_of_another_size_is_refused() -> None:
    other = first_weights(tiny_study(model={"dims": [8, 24]}), keys.PRETRAIN)
    with pytest.raises(ConfigError, match="encoder"):
        first_weights(STUDY, keys.FINETUNE, other)


@pytest.mark.parametrize("stage", keys.STAGES)
def test_a_state_goes_into_a_model_and_comes_out_again(stage: str) -> None:
    model = BUILDERS[stage](STUDY)
    state = {name: array + np.array(2, array.dtype) for name, array in state_of(model).items()}
    load_state(model, state)
    assert state_digest(state_of(model)) == state_digest(state)


def test_a_state_is_a_copy_of_the_model() -> None:
    model = build_classifier(STUDY)
    state = state_of(model)
    digest = state_digest(state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert state_digest(state) == digest


def test_a_state_of_another_model_is_refused_by_name() -> None:
    model = build_classifier(STUDY)
    state = state_of(model)
    name = next(iter(state))
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        {**state, "something_else": np.zeros(3, np.float32)},
        {**state, name: np.zeros((1, 2, 3), np.float32)},
    ):
        with pytest.raises(ContractError, match="weights: the weights are not those of this study's model"):
            load_state(model, wrong)
    assert state_digest(state_of(model)) == state_digest(state)  # nothing was half loaded


@pytest.mark.parametrize("stage", keys.STAGES)
def test_weights_that_cannot_be_written_to_are_loaded(stage: str) -> None:
    """As they come over the wire; torch would share their memory, and warns."""
    state = first_weights(tiny_study(seed=1), stage)
    for array in state.values():
        array.flags.writeable = False
    model = BUILDERS[stage](STUDY)
    load_state(model, state)
    assert state_digest(state_of(model)) == state_digest(state)
    with torch.no_grad():
        next(model.parameters()).add_(1)  # its own memory
    assert state_digest(state) == state_digest(first_weights(tiny_study(seed=1), stage))
