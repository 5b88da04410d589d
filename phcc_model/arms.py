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
    pretrained-at:<centre>                stage 1 at one centre alone, stage 2 at all of them
    finetuned-at:<centre>                 stage 1 at all of them, stage 2 at one centre alone
    afp ratio kinetics regions            logistic regression, no network: on alpha-fetoprotein; on one ratio of
                       two phases; on the lesion's mean and spread in each phase; on its rim and core as well

A ``+`` adds what follows: ``pooled+no-pretraining``, ``full+labels-25``. ``<arm>+afp`` adds AFP to a score.
``phase:*`` stands for one arm per phase of the study; ``local:*``, ``pretrained-at:*`` and ``finetuned-at:*`` for
one per training centre. Stage 1 is the same for arms that differ only in what follows it: they share an
`ArmPlan.pretrain_key`, and it need run once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from phcc_model.arm_changes import CHANGES, OF_PHASES, ONE_PLACE, ZONES, Changes, changes_of
from phcc_model.config import EvaluationSettings, StudyConfig, leave_unsaid
from phcc_model.errors import ConfigError

Kind = Literal["federated", "pooled", "local", "baseline", "combined"]

BASELINES = ("afp", "ratio", "kinetics", "regions")
"""Arms without a network."""
COMBINED = "+afp"
LOCAL, PRETRAINED_AT, FINETUNED_AT = "local", "pretrained-at", "finetuned-at"
AT_CENTRE = (LOCAL, PRETRAINED_AT, FINETUNED_AT)
"""Arms that name a training centre after a colon."""


@dataclass(frozen=True)
class ArmPlan:
    """What one arm runs.

    Attributes:
        name: the arm's name, as in ``evaluation.arms``.
        kind: ``federated``; ``pooled`` the patients of ``sites`` as one site; ``local`` one site by itself;
            ``baseline`` no network at all; ``combined`` AFP added to the score of the arm `base`.
        study: the study with this arm's changes.
        sites: the centres whose patients are trained on; where stage 1 is another arm's, in stage 2.
        stage_one: the arm whose stage 1 this one's begins with; None where it has its own.
    """

    name: str
    kind: Kind
    study: StudyConfig
    sites: tuple[str, ...]
    stage_one: ArmPlan | None = None

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
        if self.stage_one is not None:
            return self.stage_one.pretrain_key
        plain = self.study.model_dump(
            mode="json",
            include={"seed", "data", "model", "pretrain", "federation"},
            exclude={"data": {"path"}, "model": {"classifier"}},
        )
        leave_unsaid(plain)
        text = json.dumps([plain, self.kind, sorted(self.sites)], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def plan_arms(names: Iterable[str], study: StudyConfig, sites: Sequence[str]) -> tuple[ArmPlan, ...]:
    """Plan several arms, each once, ``phase:*``, ``local:*`` and the like written out.

    Raises:
        ConfigError: as `plan_arm`.
    """
    return tuple(plan_arm(name, study, sites) for name in written_out(names, study, sites))


def written_out(names: Iterable[str], study: StudyConfig, sites: Sequence[str]) -> tuple[str, ...]:
    """The arms that are meant, each once: ``phase:*`` and ``local:*`` as one arm per phase and site."""
    every = {
        "phase:*": [f"phase:{phase}" for phase in study.data.phases],
        **{f"{what}:*": [f"{what}:{site}" for site in sites] for what in AT_CENTRE},
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
    if first in AT_CENTRE and which not in sites:
        raise _unknown(name, arm_names(study, sites))
    changed = arm_study(study, name)
    kind: Kind = "federated"
    if name in BASELINES:
        kind = "baseline"
    elif name.endswith(COMBINED):
        kind = "combined"
    elif first == "pooled":
        kind = "pooled"
    elif first in (LOCAL, FINETUNED_AT):
        kind = "local"
    if first not in ("pooled", LOCAL, *BASELINES):
        _refuse_unmet_quorum(study, sites)
    where = (which,) if first in (LOCAL, FINETUNED_AT) else tuple(sites)
    begins = _begins_as(name)
    return ArmPlan(name, kind, changed, where, plan_arm(begins, study, sites) if begins else None)


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
        if number and (part == "pooled" or part.partition(":")[0] in AT_CENTRE):
            raise _unknown(name, arm_names(study, ()))
        study = _changed(study, changes)
    _refuse_idle(name, study)
    return study


def _refuse_idle(name: str, study: StudyConfig) -> None:
    """An arm that would be compared as something that it is not."""
    if _begins_as(name) is not None and study.pretrain.rounds == 0:
        raise ConfigError(
            f"the arm {name!r} compares nothing: there is no pre-training in it",
            where="evaluation.arms",
            remedy="Leave it out",
        )
    idle = [part for part in name.removesuffix(COMBINED).split("+") if part in OF_PHASES]
    if idle and study.model.phases == "joint":
        raise ConfigError(
            f"the arm {name!r} compares nothing: phases are the channels of one volume in this study, "
            f"{idle[0]} is for phases that are looked at one by one",
            where="evaluation.arms",
            remedy=f"Write shared+{idle[0]} for {idle[0]} and compare with the same arm without it, "
            "or set model.phases to shared",
        )


def _begins_as(name: str) -> str | None:
    """The arm whose stage 1 an arm begins with; None where it has its own."""
    _, plus, rest = name.removesuffix(COMBINED).partition("+")
    first, which = _base(name)
    return {PRETRAINED_AT: f"{LOCAL}:{which}{plus}{rest}", FINETUNED_AT: f"full{plus}{rest}"}.get(first)


def _changes(study: StudyConfig, part: str) -> Changes | None:
    """What a part of an arm's name changes; None where there is no such part."""
    what, _, which = part.partition(":")
    if part == "pooled" or (what in (LOCAL, FINETUNED_AT) and which):
        return ONE_PLACE
    return {} if what == PRETRAINED_AT and which else changes_of(study, part)


def _base(name: str) -> tuple[str, str]:
    """What an arm's name begins with, and which one of it."""
    what, _, which = name.split("+")[0].partition(":")
    return what, which


def arm_names(study: StudyConfig, sites: Sequence[str]) -> tuple[str, ...]:
    """Every arm that this study can run at these training centres, without those that a ``+`` makes."""
    phases = [f"phase:{phase}" for phase in study.data.phases]
    changed = [arm for arm in CHANGES if study.model.phases == "shared" or arm not in OF_PHASES]
    at_centre = [f"{what}:{site}" for what in AT_CENTRE for site in sites]
    return (*changed, ZONES, *phases, "pooled", *at_centre, *BASELINES)


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
