"""An arm's name becomes what is run: the same splits and seed, and a study that differs in what the name says.

    full               the study as it is configured
    no-pretraining     stage 2 from random weights
    uniform            stage 1 without sample weighting: plain FCMAE
    attention concat mean                 another fusion of the phases
    absolute difference relative          one kind of dynamic feature alone
                       these two rows only where each phase has tokens of its own: ``shared+concat``, where not
    shared joint       one encoder for each phase in turn, or phases as channels
    zones              the lesion's rim and core pooled apart, on a last map as fine in plane as the stem's
    found given        pooled over what the network finds by itself; over the lesion as it is given
    plain              a plain small 3-D network instead of the encoder; it cannot be pre-trained
    fedavg fedprox fedadam fedyogi fedema fedbn scaffold
                       how the sites' work becomes one model (fedema: in stage 1, then as fedavg)
    fp32 fp16 int8     how it is written on the wire
    rarer-<n>          the sites meet n times less often: a round of both stages has n times as many local epochs
    unregularised      stage 2 without augmentation and dropout
    labels-<n>         n per cent of the labels
    phase:<phase>      a single phase, normalised without the others
    pooled             all training patients in one place: what sharing images would give
    local:<centre>     one centre alone
    afp ratio kinetics regions            logistic regression, no network: on alpha-fetoprotein; on one ratio of
                       two phases; on the lesion's mean and spread in each phase; on its rim and core as well

A ``+`` adds what follows: ``pooled+no-pretraining``, ``full+labels-25``. ``<arm>+afp`` adds AFP to a score.
``phase:*`` and ``local:*`` stand for one arm per phase of the study and per training centre. Stage 1 is the same
for arms that differ only in what follows it: they share an `ArmPlan.pretrain_key`, and it need run once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from phcc_model.config import EvaluationSettings, StudyConfig, leave_unsaid
from phcc_model.errors import ConfigError

Kind = Literal["federated", "pooled", "local", "baseline", "combined"]
Changes = Mapping[str, Mapping[str, Any]]

BASELINES = ("afp", "ratio", "kinetics", "regions")
"""Arms without a network."""
COMBINED = "+afp"
ZONES = "zones"

_OF_PHASES = ("attention", "concat", "mean", "absolute", "difference", "relative")
"""Ways to join phases, or to tell how they differ; phases that are channels of one volume are joined already."""

_NO_PRETRAINING = {"rounds": 0}
_CHANGES: dict[str, Changes] = {
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
_ONE_PLACE: Changes = {
    "federation": {"minimum_sites": 1, "required_sites": (), "algorithm": "fedavg", "encoding": "fp32"}
}


@dataclass(frozen=True)
class ArmPlan:
    """What one arm runs.

    Attributes:
        name: the arm's name, as in ``evaluation.arms``.
        kind: ``federated``; ``pooled`` the patients of ``sites`` as one site; ``local`` one site by itself;
            ``baseline`` no network at all; ``combined`` AFP added to the score of the arm `base`.
        study: the study with this arm's changes.
        sites: the centres whose patients are trained on.
    """

    name: str
    kind: Kind
    study: StudyConfig
    sites: tuple[str, ...]

    @property
    def base(self) -> str:
        """The arm whose network it is: its own name, but for a combined arm."""
        return self.name.removesuffix(COMBINED) if self.kind == "combined" else self.name

    @property
    def trained(self) -> bool:
        """Whether it trains a network of its own."""
        return self.kind not in ("baseline", "combined")

    @property
    def pretrain_key(self) -> str | None:
        """SHA-256 of all that stage 1 depends on, or None where there is no stage 1."""
        if not self.trained or self.study.pretrain.rounds == 0:
            return None
        plain = self.study.model_dump(
            mode="json",
            include={"seed", "data", "model", "pretrain", "federation"},
            exclude={"data": {"path"}, "model": {"classifier"}},
        )
        leave_unsaid(plain)
        text = json.dumps([plain, self.kind, sorted(self.sites)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan_arms(names: Iterable[str], study: StudyConfig, sites: Sequence[str]) -> tuple[ArmPlan, ...]:
    """Plan several arms, each once, ``phase:*`` and ``local:*`` written out.

    Raises:
        ConfigError: as `plan_arm`.
    """
    return tuple(plan_arm(name, study, sites) for name in written_out(names, study, sites))


def written_out(names: Iterable[str], study: StudyConfig, sites: Sequence[str]) -> tuple[str, ...]:
    """The arms that are meant, each once: ``phase:*`` and ``local:*`` as one arm per phase and site."""
    every = {
        "phase:*": [f"phase:{phase}" for phase in study.data.phases],
        "local:*": [f"local:{site}" for site in sites],
    }
    found = []
    for name in names:
        first, plus, rest = name.partition("+")
        found += [one + plus + rest for one in every.get(first, [first])]
    return tuple(dict.fromkeys(found))


def plan_arm(name: str, study: StudyConfig, sites: Sequence[str]) -> ArmPlan:
    """Plan one arm.

    Args:
        name: as listed at the head of this file.
        study: the study as configured; it stays as it is.
        sites: the training centres.

    Raises:
        ConfigError: there is no such arm for this study and these sites, or its quorum cannot be met.
    """
    first, which = _base(name)
    if first == "local" and which not in sites:
        raise _unknown(name, arm_names(study, sites))
    changed = arm_study(study, name)
    kind: Kind = "federated"
    if name in BASELINES:
        kind = "baseline"
    elif name.endswith(COMBINED):
        kind = "combined"
    elif first == "pooled":
        kind = "pooled"
    elif first == "local":
        kind = "local"
    if first not in ("pooled", "local", *BASELINES):
        _refuse_unmet_quorum(study, sites)
    return ArmPlan(name, kind, changed, (which,) if first == "local" else tuple(sites))


def refuse_unknown_arms(study: StudyConfig) -> None:
    """Look at the arms as far as one can before it is known which centres there are.

    Raises:
        ConfigError: there is no such arm, or it cannot be run in this study.
    """
    for name in written_out(study.evaluation.arms, study, ("*",)):
        arm_study(study, name)


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
    if name in BASELINES:
        return study
    for number, part in enumerate(name.removesuffix(COMBINED).split("+")):
        changes = _changes(study, part)
        if changes is None:
            raise _unknown(name if part in ("", *BASELINES) else part, arm_names(study, ()))
        if number and changes is _ONE_PLACE:
            raise _unknown(name, arm_names(study, ()))
        study = _changed(study, changes)
    _refuse_idle(name, study)
    return study


def _refuse_idle(name: str, study: StudyConfig) -> None:
    """An arm that would be compared as something that it is not."""
    idle = [part for part in name.removesuffix(COMBINED).split("+") if part in _OF_PHASES]
    if idle and study.model.phases == "joint":
        raise ConfigError(
            f"the arm {name!r} compares nothing: phases are the channels of one volume in this study, "
            f"{idle[0]} is for phases that are looked at one by one",
            where="evaluation.arms",
            remedy=f"Write shared+{idle[0]} for {idle[0]} and compare with the same arm without it, "
            "or set model.phases to shared",
        )


def _base(name: str) -> tuple[str, str]:
    """What an arm's name begins with, and which one of it."""
    what, _, which = name.split("+")[0].partition(":")
    return what, which


def _changes(study: StudyConfig, part: str) -> Changes | None:
    """What a part of an arm's name changes; None where there is no such part."""
    what, _, which = part.partition(":")
    if part == "pooled" or (what == "local" and which):
        return _ONE_PLACE
    if what == "phase" and which in study.data.phases:
        return _single_phase(study, which)
    if labels := _LABELS.fullmatch(part):
        return {"finetune": {"label_fraction": int(labels[1]) / 100}}
    if rarer := _RARER.fullmatch(part):
        return _rarer(study, int(rarer[1]))
    return _zones(study) if part == ZONES else _CHANGES.get(part)


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


def arm_names(study: StudyConfig, sites: Sequence[str]) -> tuple[str, ...]:
    """Every arm that this study can run at these training centres, without those that a ``+`` makes."""
    phases = [f"phase:{phase}" for phase in study.data.phases]
    changed = [arm for arm in _CHANGES if study.model.phases == "shared" or arm not in _OF_PHASES]
    return (*changed, ZONES, *phases, "pooled", *(f"local:{site}" for site in sites), *BASELINES)


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
        remedy=None
        if nearest
        else f"Choose among {', '.join(known)}, labels-<n>, rarer-<n>, or join some by +",
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
