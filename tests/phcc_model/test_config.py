"""The schema: cross-checks refuse what cannot be, derived quantities follow, the digest names the study."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phcc_model.config import PHASES, SIZES, ModelSettings, StudyConfig


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"data": {"split": {"test": 0.6, "validation": 0.4}}}, "leave patients to train on"),
        ({"data": {"phases": []}}, "at least one"),
        ({"data": {"phases": ["arterial", "arterial"]}}, "once each"),
        ({"data": {"phases": ["delayed", "arterial"]}}, "order of acquisition"),
        ({"data": {"phases": ["arterial"], "required_phases": ["delayed"]}}, "required_phases must be among"),
        ({"data": {"crop": {"size": [12, 48, 50]}}}, "along W is 50"),
        ({"data": {"crop": {"size": [0, 48, 48]}}}, "greater than or equal to 1"),
        ({"model": {"kernel": [3, 4, 3]}}, "kernel must be odd"),
        ({"model": {"size": "atto"}}, "4 stages need 3 downsample steps, not 2"),
        ({"model": {"size": "custom"}}, "custom needs depths and dims"),
        ({"model": {"size": "custom", "depths": [1, 1], "dims": [8]}}, "one number per stage"),
        ({"model": {"depths": [1]}}, "are for size custom"),
        ({"model": {"classifier": {"width": 10, "heads": 4}}}, "multiple of classifier.heads"),
        ({"pretrain": {"mask_ratio": 1.0}}, "less than 1"),
        ({"pretrain": {"learning_rate": math.inf}}, "finite number"),
        ({"finetune": {"warmup": math.nan}}, "finite number"),
        ({"name": "../runs"}, "match pattern"),
        ({"rounds": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyConfig.model_validate(tree)


def test_a_study_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StudyConfig().finetune.rounds = 3  # type: ignore[misc]  # that mypy refuses it too is the point


@pytest.mark.parametrize("size", SIZES)
def test_each_published_size_has_one_width_per_stage(size: str) -> None:
    depths, dims = SIZES[size]
    assert len(depths) == len(dims)
    assert list(dims) == [dims[0] * 2**stage for stage in range(len(dims))]


def test_the_largest_stride_of_the_method_gives_its_grid() -> None:
    # METHOD 2: 16x96x96 voxels, stem (1,2,2), three steps = patch (4,16,16), grid 4x6x6.
    study = StudyConfig.model_validate(
        {
            "data": {"crop": {"size": [16, 96, 96]}},
            "model": {"size": "nano", "downsample": [[1, 2, 2], [2, 2, 2], [2, 2, 2]]},
        }
    )
    assert study.model.patch == (4, 16, 16)
    assert study.grid == (4, 6, 6)


steps = st.tuples(*[st.integers(1, 3)] * 3)


@settings(deadline=None, max_examples=50)
@given(
    stem=steps, downsample=st.lists(steps, min_size=2, max_size=2), cells=st.tuples(*[st.integers(1, 4)] * 3)
)
def test_crop_is_patch_times_grid(
    stem: tuple[int, ...], downsample: list[tuple[int, ...]], cells: tuple[int, ...]
) -> None:
    model = ModelSettings.model_validate({"stem": stem, "downsample": downsample})
    for axis in range(3):
        assert model.patch[axis] == stem[axis] * math.prod(step[axis] for step in downsample)
    size = [unit * n for unit, n in zip(model.patch, cells, strict=True)]
    study = StudyConfig.model_validate({"data": {"crop": {"size": size}}, "model": model.model_dump()})
    assert study.grid == cells


def test_digest_covers_everything_but_the_path_of_the_data() -> None:
    study = StudyConfig()
    moved = StudyConfig.model_validate({"data": {"path": "/elsewhere"}})
    assert moved.digest == study.digest
    others = [
        {"seed": 1},
        {"name": "other"},
        {"data": {"phases": list(PHASES[:3])}},
        {"model": {"drop_path": 0.1}},
        {"pretrain": {"weighting": {"mode": "uniform"}}},
        {"finetune": {"augmentation": {"flip": False}}},
        {"federation": {"encoding": "fp32"}},
        {"evaluation": {"bootstrap": 10}},
    ]
    digests = {StudyConfig.model_validate(tree).digest for tree in others}
    assert len(digests) == len(others)
    assert study.digest not in digests


def test_digest_is_the_same_on_every_machine_and_day() -> None:
    # A golden value would change with every new key; that equal studies, written differently, agree counts.
    a = StudyConfig.model_validate({"pretrain": {"learning_rate": 1.5e-3}, "seed": 0})
    b = StudyConfig.model_validate({"seed": "0", "pretrain": {"learning_rate": "0.0015"}})
    assert a.digest == b.digest == StudyConfig().digest
