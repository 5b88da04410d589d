"""Every norm of every model is found by its kind, and nothing else."""

from __future__ import annotations

import pytest

from phcc_model.build import build_autoencoder, build_classifier
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.parts import norm_names, running_names, running_names_of

PLAIN = {"model": {"encoder": "plain"}, "pretrain": {"rounds": 0}}
LAYER = {"model": {"classifier": {"feature_norm": "layer"}}}


def test_a_classifiers_norms() -> None:
    names = norm_names(build_classifier(StudyConfig()))
    assert {"norm.weight", "norm.bias", "norm.mean_tc", "norm.variance_tc", "norm.mass_t1"} <= names
    assert {"encoder.stem_norm.weight", "encoder.stem_norm.bias"} <= names
    assert any(name.endswith("grn.gamma") for name in names)
    assert not any("depthwise" in name or "expand" in name or "project" in name for name in names)
    assert "out.weight" not in names


@pytest.mark.parametrize("changes", [{}, PLAIN, LAYER])
def test_whatever_is_called_a_norm_is_one(changes: dict[str, object]) -> None:
    """Of this package's models: by name and by kind the same are found, but for layers without a name."""
    model = build_classifier(StudyConfig.model_validate(changes))
    named = {name for name in model.state_dict() if "norm" in name or ".grn." in name}
    assert named <= norm_names(model)
    assert all(model.state_dict()[name].ndim <= 2 for name in norm_names(model))


def test_an_autoencoders_norms_are_in_encoder_and_decoder() -> None:
    names = norm_names(build_autoencoder(StudyConfig()))
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}


def test_what_no_gradient_moves() -> None:
    assert running_names_of(StudyConfig(), keys.PRETRAIN) == frozenset()
    assert running_names_of(StudyConfig(), keys.FINETUNE) == {
        "norm.mean_tc",
        "norm.variance_tc",
        "norm.mass_t1",
    }
    plain = running_names(build_classifier(StudyConfig.model_validate(PLAIN)))
    assert {name.rpartition(".")[2] for name in plain} >= {"running_mean", "running_var", "mass_t1"}
