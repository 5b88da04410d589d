"""How the mean of the sites' changes becomes the next model: one rule for each ``federation.algorithm``.

A rule is pure: weights, mean change and what it keeps from round to round go in, weights and what it keeps come
out. The coordinator stores the latter beside each round's weights, so that a run goes on after a crash as if
there had been none. At the beginning of a stage a rule starts afresh: the second stage trains another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from phcc_model.config import FederationSettings, StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.parts import running_names_of
from phcc_server.aggregation import CHUNK, Float

RuleState = Mapping[str, Array]
"""What a rule keeps from round to round, by name (FedAdam's moments)."""

OPTIMISED = ("fedadam", "fedyogi")
"""Algorithms with an optimiser at the server."""
FIRST, SECOND = "first_moment", "second_moment"


class ServerRule(Protocol):
    """How the mean change becomes the next model. FedProx changes the site's loss only and is FedAvg here."""

    def start(self, size: int) -> RuleState:
        """The state before the first round of a stage, for a model of this many shared float32 weights."""
        ...

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """The next weights and state; `mean_delta` may be overwritten, `base` and `state` are not."""
        ...


class FedAvg:
    """The mean itself: w + mean change, server learning rate 1 [F] (McMahan et al., AISTATS 2017)."""

    def start(self, size: int) -> RuleState:
        """Nothing is kept."""
        del size
        return {}

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """Base plus mean change, in the memory of the latter."""
        np.add(base, mean_delta, out=mean_delta)
        return mean_delta, state


class FedOpt:
    """FedAdam and FedYogi [F]: Reddi et al., Adaptive Federated Optimization, ICLR 2021, Algorithm 2.

    The mean change D of a round is taken as the negative of a gradient:

    - m = beta1 m + (1 - beta1) D
    - FedAdam: v = beta2 v + (1 - beta2) D^2; FedYogi: v = v - (1 - beta2) D^2 sign(v - D^2)
    - w = w + eta m / (sqrt(v) + tau)

    m starts at 0 and v at tau^2, as published; there is no bias correction, as published: the first steps are
    short. Every operation is elementwise in float32.

    [R] The paper has no running statistics. Here what no gradient moves is averaged as FedAvg does: a step of
    eta's size, whatever the statistic's unit, could make a variance negative.

    Args:
        settings: `server_learning_rate`, `server_betas`, `server_tau`.
        yogi: FedYogi's second moment in place of FedAdam's.
        averaged: places of the running statistics in the flat weights.
    """

    def __init__(self, settings: FederationSettings, *, yogi: bool, averaged: Sequence[slice] = ()) -> None:
        self._eta = np.float32(settings.server_learning_rate)
        self._betas = tuple(np.float32(beta) for beta in settings.server_betas)
        self._rest = tuple(np.float32(1.0 - beta) for beta in settings.server_betas)
        self._tau = np.float32(settings.server_tau)
        self._yogi = yogi
        self._averaged = tuple(averaged)

    def start(self, size: int) -> RuleState:
        """No momentum, and a second moment of tau^2."""
        return {FIRST: np.zeros(size, np.float32), SECOND: np.full(size, self._tau * self._tau, np.float32)}

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """One step of the server's optimiser."""
        new, first, second = (np.empty_like(mean_delta) for _ in range(3))
        for at in range(0, base.size, CHUNK):
            part = slice(at, at + CHUNK)
            delta = mean_delta[part]
            first[part] = self._betas[0] * state[FIRST][part] + self._rest[0] * delta
            second[part] = self._second(state[SECOND][part], delta * delta)
            new[part] = base[part] + self._eta * first[part] / (np.sqrt(second[part]) + self._tau)
        for part in self._averaged:
            new[part] = base[part] + mean_delta[part]
        return new, {FIRST: first, SECOND: second}

    def _second(self, held: Float, square: Float) -> Float:
        if self._yogi:
            moved: Float = held - self._rest[1] * square * np.sign(held - square)
        else:
            moved = self._betas[1] * held + self._rest[1] * square
        return moved


def server_rule(settings: FederationSettings, averaged: Sequence[slice] = ()) -> ServerRule:
    """The rule of a study's algorithm.

    Args:
        settings: of the study.
        averaged: places of the running statistics in the flat weights.
    """
    if settings.algorithm in OPTIMISED:
        return FedOpt(settings, yogi=settings.algorithm == "fedyogi", averaged=averaged)
    return FedAvg()


def rule_of(study: StudyConfig, stage: str, manifest: Manifest) -> ServerRule:
    """The rule by which one stage of an arm is aggregated."""
    if study.federation.algorithm not in OPTIMISED:
        return server_rule(study.federation)
    running = running_names_of(study, stage)
    places = [
        slice(entry.offset, entry.offset + entry.size)
        for entry in manifest.shared
        if entry.dtype == keys.FLOAT and entry.name in running
    ]
    return server_rule(study.federation, places)
