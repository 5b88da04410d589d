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
from phcc_model.contract.control import order_arrays
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.parts import running_names_of
from phcc_server.aggregation import CHUNK, Float

RuleState = Mapping[str, Array]
"""What a rule keeps from round to round, by name (FedAdam's moments, SCAFFOLD's control variate)."""

OPTIMISED = ("fedadam", "fedyogi")
"""Algorithms with an optimiser at the server."""
FIRST, SECOND = "first_moment", "second_moment"
_SITE = "site."
"""Before a site's name: the last round that is in the mean control variate, and the site's weight."""


class ServerRule(Protocol):
    """How the mean change becomes the next model. FedProx changes the site's loss only and is FedAvg here."""

    def start(self, size: int) -> RuleState:
        """The state before the first round of a stage, for a model of this many shared float32 weights."""
        ...

    def along(self, state: RuleState, site: str) -> dict[str, Array]:
        """What travels to a site beside the weights."""
        ...

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """The next weights and state; `mean_delta` may be overwritten, `base` and `state` are not."""
        ...

    def controlled(
        self, state: RuleState, mean_control: Float, weights: Mapping[str, float], round_index: int
    ) -> RuleState:
        """The state with a round's changes of the sites' control variates in it.

        Args:
            state: before it.
            mean_control: weighted mean of these changes; may be overwritten.
            weights: what each site's change counts, by site.
            round_index: the round, from 0.
        """
        ...


class _Plain:
    """Of most algorithms: nothing travels beside the weights."""

    def along(self, state: RuleState, site: str) -> dict[str, Array]:
        """Nothing."""
        del state, site
        return {}

    def controlled(
        self, state: RuleState, mean_control: Float, weights: Mapping[str, float], round_index: int
    ) -> RuleState:
        """There are no control variates."""
        del mean_control, weights, round_index
        return state


class FedAvg(_Plain):
    """The mean itself: w + mean change, server learning rate 1 [F] (McMahan et al., AISTATS 2017)."""

    def start(self, size: int) -> RuleState:
        """Nothing is kept."""
        del size
        return {}

    def apply(self, base: Float, mean_delta: Float, state: RuleState) -> tuple[Float, RuleState]:
        """Base plus mean change, in the memory of the latter."""
        np.add(base, mean_delta, out=mean_delta)
        return mean_delta, state


class FedOpt(_Plain):
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


class Scaffold(FedAvg):
    """The server's part of SCAFFOLD [F] (Karimireddy et al., ICML 2020): FedAvg, and c, the mean control variate.

    The sites' part, and what enters the gradient there, is `phcc_model.training.control`. There every site
    counts alike, c = c + |S| / N mean over S of (c_i's change), and the server's rate is 1, as here.

    [R] Sites may count by their patients here. So that the corrections c - c_i of all sites cancel in the mean
    that is taken of their work, c is the mean of the c_i with these weights, over the sites that have taken part:
    with W the weight of all of them, W' of those before this round and W_S of this round's,
    c = W' / W c + W_S / W mean_S (c_i's change). With equal weights and all sites from the start on, that is the
    published one. A site's weight is taken to be the same in every round of a stage.
    """

    def start(self, size: int) -> RuleState:
        """Control variates of zero."""
        return {keys.CONTROL: np.zeros(size, np.float32)}

    def along(self, state: RuleState, site: str) -> dict[str, Array]:
        """The mean control variate, and the last round of this site in it."""
        known = state.get(_SITE + site)
        return order_arrays(state[keys.CONTROL], -1 if known is None else int(known[0]))

    def controlled(
        self, state: RuleState, mean_control: Float, weights: Mapping[str, float], round_index: int
    ) -> RuleState:
        """The mean over all sites that have taken part, moved on by those of this round."""
        before = {name: float(array[1]) for name, array in state.items() if name.startswith(_SITE)}
        now = {_SITE + site: weight for site, weight in weights.items()}
        total = sum(weight for _, weight in sorted((before | now).items()))
        held = np.float32(sum(weight for _, weight in sorted(before.items())) / total)
        share = np.float32(sum(weight for _, weight in sorted(now.items())) / total)
        new = state[keys.CONTROL] * held + mean_control * share
        return {
            **state,
            **{name: np.array([round_index, weight], np.float64) for name, weight in now.items()},
            keys.CONTROL: new,
        }


def server_rule(settings: FederationSettings, averaged: Sequence[slice] = ()) -> ServerRule:
    """The rule of a study's algorithm.

    Args:
        settings: of the study.
        averaged: places of the running statistics in the flat weights.
    """
    if settings.algorithm in OPTIMISED:
        return FedOpt(settings, yogi=settings.algorithm == "fedyogi", averaged=averaged)
    return Scaffold() if settings.controlled else FedAvg()


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
