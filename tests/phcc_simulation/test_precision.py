"""What a simulation takes from its machine: arithmetic and devices."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import tiny_study

from phcc_model.errors import ConfigError
from phcc_simulation import precision
from phcc_simulation.commands import run_study
from phcc_simulation.precision import as_able, in_words


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_study_is_run_in_float32_where_the_processor_has_no_bf16_and_says_so(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tiny_study(**{stage: {"bf16": True}})
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert as_able(short, "cpu") == (short, "")
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    study, said = as_able(short, "cpu")
    assert said == "bf16 is not supported by this processor: float32"
    # What is written of the run is what was computed: the digest is that of the study in float32.
    assert study == tiny_study()
    assert study.digest == tiny_study().digest != short.digest
    assert as_able(tiny_study(), "cpu") == (tiny_study(), "")


@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "torch can use no GPUs here"), ("gpu", "gpu is no device that torch knows")],
)
def test_a_device_that_is_not_there_is_told_before_any_patient_is_made(
    device: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=said) as raised:
        run_study("demo", tmp_path / "out", [], [], None, 1, device, in_memory=True)
    assert raised.value.where == f"--device {device}"
    assert not (tmp_path / "out").exists()


def test_the_arithmetic_of_both_stages_is_told() -> None:
    assert in_words(tiny_study()) == "float32"
    assert in_words(tiny_study(pretrain={"bf16": True}, finetune={"bf16": True})) == "bf16"
    assert in_words(tiny_study(pretrain={"bf16": True})) == "bf16 in stage 1, float32 in stage 2"
