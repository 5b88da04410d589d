"""What each part of an arm's name changes in the study; `arms` lists the names and says what they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError

Changes = Mapping[str, Mapping[str, Any]]

ZONES = "zones"

OF_PHASES = ("attention", "concat", "mean", "absolute", "difference", "relative")
"""Ways to join phases, or to tell how they differ; phases that are channels of one volume are joined already."""

_NO_PRETRAINING = {"rounds": 0}
CHANGES: dict[str, Changes] = {
    "full": {},
    "no-pretraining": {"pretrain": _NO_PRETRAINING},
    "uniform": {"pretrain": {"weighting": {"mode": "uniform"}}},
    "attention": {"model": {"classifier": {"fusion": "attention"}}},
    "concat": {"model": {"classifier": {"fusion": "concat"}}},
    "mean": {"model": {"classifier": {"fusion": "mean"}}},
    "absolute": {"model": {"classifier": {"features": ("absolute",)}}},
    "difference": {"model": {"classifier": {"features": ("difference",)}}},
    "relative": {"model": {"classifier": {"features": ("relative",)}}},
    "shared": {"model": {"phases": "shared"}},
    "joint": {"model": {"phases": "joint"}},
    "found": {"model": {"classifier": {"pooling": "gap+found+spread"}}},
    "given": {"model": {"classifier": {"pooling": "gap+lesion+spread"}}},
    "plain": {"model": {"encoder": "plain"}, "pretrain": _NO_PRETRAINING},
    "fedavg": {"federation": {"algorithm": "fedavg"}},
    "fedprox": {"federation": {"algorithm": "fedprox"}},
    "fedadam": {"federation": {"algorithm": "fedadam"}},
    "fedyogi": {"federation": {"algorithm": "fedyogi"}},
    "fedbn": {"federation": {"algorithm": "fedbn"}},
    "fedema": {"federation": {"algorithm": "fedema"}},
    "scaffold": {"federation": {"algorithm": "scaffold"}},
    "fp32": {"federation": {"encoding": "fp32"}},
    "fp16": {"federation": {"encoding": "fp16"}},
    "int8": {"federation": {"encoding": "int8"}},
    "unregularised": {
        "finetune": {
            "augmentation": {
                "flip": False,
                "rotation_degrees": 0.0,
                "scale": 0.0,
                "shift_voxels": 0.0,
                "intensity": 0.0,
                "noise": 0.0,
                "phase_dropout": 0.0,
            }
        },
        "model": {"classifier": {"dropout": 0.0}},
    },
}
_LABELS = re.compile(r"labels-(100|[1-9]\d?)")
_RARER = re.compile(r"rarer-([2-9])")

# With one place to train there is nothing to wait for, average or send: no wire coding, no proximal term.
ONE_PLACE: Changes = {
    "federation": {"minimum_sites": 1, "required_sites": (), "algorithm": "fedavg", "encoding": "fp32"}
}


def changes_of(study: StudyConfig, part: str) -> Changes | None:
    """What a part of an arm's name changes at every centre alike; None where there is no such part.

    Args:
        study: it names the phases, and rounds can be made fewer only by what they can be divided by.
        part: as between two ``+``.

    Raises:
        ConfigError: the rounds cannot be made so much fewer.
    """
    what, _, which = part.partition(":")
    if what == "phase" and which in study.data.phases:
        return _single_phase(study, which)
    if labels := _LABELS.fullmatch(part):
        return {"finetune": {"label_fraction": int(labels[1]) / 100}}
    if rarer := _RARER.fullmatch(part):
        return _rarer(study, int(rarer[1]))
    return _zones(study) if part == ZONES else CHANGES.get(part)


def _zones(study: StudyConfig) -> Changes:
    """A rim of a few millimetres needs cells of a few millimetres."""
    steps = tuple((d, 1, 1) for d, _, _ in study.model.downsample)
    return {"model": {"downsample": steps, "classifier": {"pooling": "gap+lesion+rim+core+spread"}}}


def _rarer(study: StudyConfig, times: int) -> Changes:
    """As many epochs in fewer rounds; each stage by itself."""
    changes = {}
    for name, stage in (("pretrain", study.pretrain), ("finetune", study.finetune)):
        if stage.rounds % times:
            raise ConfigError(
                f"{stage.rounds} rounds cannot be made {times} times fewer",
                where=f"{name}.rounds",
                remedy=f"Choose a multiple of {times}, or leave out the arm rarer-{times}",
            )
        changes[name] = {"rounds": stage.rounds // times, "local_epochs": stage.local_epochs * times}
    return changes


def _single_phase(study: StudyConfig, phase: str) -> Changes:
    """One phase as all there is: required, unchanging, and normalised without a look at another phase."""
    data: dict[str, Any] = {"phases": (phase,), "required_phases": (phase,)}
    if study.data.normalisation == "log-ratio":
        data["normalisation"] = "own-liver"
    return {"data": data, "model": {"classifier": {"features": ("absolute",)}}}
