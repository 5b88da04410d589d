"""An arm's name becomes what is run: the same splits and seed, and a study that differs in one thing.

    full               the study as it is configured
    no-pretraining     stage 2 from random weights
    uniform            stage 1 without sample weighting: plain FCMAE
    attention concat mean                 another fusion of the phases
    absolute difference relative          one kind of dynamic feature alone
    shared joint       one encoder for each phase in turn, or phases as channels
    phase:<phase>      a single phase, normalised without the others
    pooled             all training patients in one place: what sharing images would give
    local:<centre>     one centre alone
    afp                logistic regression on alpha-fetoprotein; no image, no network

``phase:*`` and ``local:*`` stand for one arm per phase of the study and per training centre. Stage 1 is the
same for arms that differ only in what follows it: they share an `ArmPlan.pretrain_key`, and it need run once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from phcc_model.config import EvaluationSettings, StudyConfig
from phcc_model.errors import ConfigError

Kind = Literal["federated", "pooled", "local", "afp"]
Changes = Mapping[str, Mapping[str, Any]]

_FEDERATED: dict[str, Changes] = {
    "full": {},
    "no-pretraining": {"pretrain": {"rounds": 0}},
    "uniform": {"pretrain": {"weighting": {"mode": "uniform"}}},
    "attention": {"model": {"classifier": {"fusion": "attention"}}},
    "concat": {"model": {"classifier": {"fusion": "concat"}}},
    "mean": {"model": {"classifier": {"fusion": "mean"}}},
    "absolute": {"model": {"classifier": {"features": ("absolute",)}}},
    "difference": {"model": {"classifier": {"features": ("difference",)}}},
    "relative": {"model": {"classifier": {"features": ("relative",)}}},
    "shared": {"model": {"phases": "shared"}},
    "joint": {"model": {"phases": "joint"}},
}

# With one place to train there is nothing to wait for, average or send: no wire coding, no proximal term.
_ONE_PLACE: Changes = {
    "federation": {"minimum_sites": 1, "required_sites": (), "algorithm": "fedavg", "encoding": "fp32"}
}


@dataclass(frozen=True)
class ArmPlan:
    """What one arm runs.

    Attributes:
        name: the arm's name, as in ``evaluation.arms``.
        kind: ``federated``; ``pooled`` the patients of ``sites`` as one site; ``local`` one site by itself;
            ``afp`` no network at all.
        study: the study with this arm's changes.
        sites: the centres whose patients are trained on.
    """

    name: str
    kind: Kind
    study: StudyConfig
    sites: tuple[str, ...]

    @property
    def pretrain_key(self) -> str | None:
        """SHA-256 of all that stage 1 depends on, or None where there is no stage 1."""
        if self.kind == "afp" or self.study.pretrain.rounds == 0:
            return None
        plain = self.study.model_dump(
            mode="json",
            include={"seed", "data", "model", "pretrain", "federation"},
            exclude={"data": {"path"}, "model": {"classifier"}},
        )
        text = json.dumps([plain, self.kind, sorted(self.sites)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan_arms(names: Iterable[str], study: StudyConfig, sites: Sequence[str]) -> tuple[ArmPlan, ...]:
    """Plan several arms, each once, ``phase:*`` and ``local:*`` written out.

    Raises:
        ConfigError: as `plan_arm`.
    """
    every = {
        "phase:*": [f"phase:{phase}" for phase in study.data.phases],
        "local:*": [f"local:{s}" for s in sites],
    }
    written_out = [arm for name in names for arm in every.get(name, [name])]
    return tuple(plan_arm(name, study, sites) for name in dict.fromkeys(written_out))


def plan_arm(name: str, study: StudyConfig, sites: Sequence[str]) -> ArmPlan:
    """Plan one arm.

    Args:
        name: as listed at the head of this file.
        study: the study as configured; it stays as it is.
        sites: the training centres.

    Raises:
        ConfigError: there is no such arm for this study and these sites, or its quorum cannot be met.
    """
    if name not in arm_names(study, sites):
        raise _unknown(name, arm_names(study, sites))
    what, _, which = name.partition(":")
    kind: Kind = "federated"
    if what == "afp":
        kind = "afp"
    elif what == "pooled":
        kind = "pooled"
    elif what == "local":
        kind = "local"
    else:
        _refuse_unmet_quorum(study, sites)
    return ArmPlan(name, kind, arm_study(study, name), (which,) if kind == "local" else tuple(sites))


def arm_study(study: StudyConfig, name: str) -> StudyConfig:
    """What an arm runs: the study with that arm's changes. Coordinator and site work it out alike.

    Args:
        study: the study as configured; it stays as it is.
        name: of the arm.

    Raises:
        ConfigError: there is no such arm.
    """
    # What an arm is compared with does not change what it is: its digest, and so its checkpoints, are its own.
    study = study.model_copy(update={"evaluation": EvaluationSettings()})
    what, _, which = name.partition(":")
    if name == "afp":
        return study
    if name == "pooled" or (what == "local" and which):
        return _changed(study, _ONE_PLACE)
    if what == "phase" and which in study.data.phases:
        return _changed(study, _single_phase(study, which))
    if name not in _FEDERATED:
        raise _unknown(name, arm_names(study, ()))
    return _changed(study, _FEDERATED[name])


def arm_names(study: StudyConfig, sites: Sequence[str]) -> tuple[str, ...]:
    """Every arm that this study can run at these training centres."""
    phases = [f"phase:{phase}" for phase in study.data.phases]
    return (*_FEDERATED, *phases, "pooled", *(f"local:{site}" for site in sites), "afp")


def _single_phase(study: StudyConfig, phase: str) -> Changes:
    """One phase as all there is: required, unchanging, and normalised without a look at another phase."""
    data: dict[str, Any] = {"phases": (phase,), "required_phases": (phase,)}
    if study.data.normalisation == "log-ratio":
        data["normalisation"] = "own-liver"
    return {"data": data, "model": {"classifier": {"features": ("absolute",)}}}


def _changed(study: StudyConfig, changes: Changes) -> StudyConfig:
    return StudyConfig.model_validate(_merged(study.model_dump(), changes))


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **tree,
        **{k: _merged(tree[k], v) if isinstance(v, Mapping) else v for k, v in changes.items()},
    }


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    nearest = get_close_matches(name, known, n=1)
    meant = f" (did you mean {nearest[0]}?)" if nearest else ""
    return ConfigError(
        f"there is no arm {name!r} in this study{meant}",
        where="evaluation.arms",
        remedy=None if nearest else f"Choose among {', '.join(known)}",
    )


def _refuse_unmet_quorum(study: StudyConfig, sites: Sequence[str]) -> None:
    wanted = study.federation
    if wanted.minimum_sites > len(sites):
        raise ConfigError(
            f"a round needs {wanted.minimum_sites} sites, but only {len(sites)} train",
            where="federation.minimum_sites",
            remedy=f"Lower it to {len(sites)} or less",
        )
    absent = [site for site in wanted.required_sites if site not in sites]
    if absent:
        raise ConfigError(
            f"{absent[0]} is not among the training sites",
            where="federation.required_sites",
            remedy=f"Choose among {', '.join(sites)}",
        )
