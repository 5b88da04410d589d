"""The plain baseline: learns, travels as named arrays of floats, and is refused where the method is meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from phcc_model.build import build_classifier, state_of
from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.explain import heat_maps

STUDY = StudyConfig.model_validate(
    {
        "model": {"encoder": "plain", "phases": "joint", "classifier": {"pooling": "gap+lesion"}},
        "pretrain": {"rounds": 0},
    }
)
SIZE = STUDY.data.crop.size


def test_its_state_is_floats_only_so_that_it_can_be_averaged() -> None:
    assert {a.dtype for a in state_of(build_classifier(STUDY)).values()} == {np.dtype(np.float32)}


def test_it_learns_what_can_be_seen() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 4, *SIZE)
    label = torch.arange(16) % 2
    x[:, 1] += label[:, None, None, None].float()
    present, lesion = torch.ones(16, 4, dtype=torch.bool), torch.ones(16, *SIZE)
    model = build_classifier(STUDY)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x, present, lesion), label.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert max(model.parameter_depths().values()) == model.encoder.layers


def test_no_heat_map_is_drawn_of_it() -> None:
    model = build_classifier(STUDY)
    with pytest.raises(ConfigError, match="not of the plain baseline"):
        heat_maps(model, torch.randn(1, 4, *SIZE), torch.ones(1, 4, dtype=torch.bool), torch.ones(1, *SIZE))
