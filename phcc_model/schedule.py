"""The learning rate as a function of where a study stands: warm-up, then a half cosine, over all rounds.

A site keeps nothing from one round to the next, so the rate must follow from the round's number alone: sites
with many patients take more steps a round than sites with few, and all are at the same point of the curve.
"""

from __future__ import annotations

import math


def rate_factor(position: float, warmup: float) -> float:
    """Share of the peak learning rate at a point of the whole training.

    Linear from 0 at the start to 1 at `warmup`, then ``(1 + cos(pi t)) / 2`` down to 0 at the end
    (Loshchilov & Hutter, ICLR 2017, without restarts; the schedule of ConvNeXt V2's FCMAE [F]).

    Args:
        position: share of the training that is done, in [0, 1].
        warmup: share of the training spent warming up, in [0, 1].

    Raises:
        ValueError: `position` or `warmup` lies outside [0, 1].
    """
    if not (0.0 <= position <= 1.0 and 0.0 <= warmup <= 1.0):
        raise ValueError(f"position {position} and warmup {warmup} must lie in [0, 1]")
    if position < warmup:
        return position / warmup
    if warmup == 1.0:
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (position - warmup) / (1.0 - warmup)))


def step_position(round_index: int, step: int, *, rounds: int, steps_per_round: int) -> float:
    """Where the middle of one optimiser step lies in the whole training, in (0, 1).

    The middle, so that neither the first step nor the last one is spent at a rate of zero.

    Args:
        round_index: the round, from 0.
        step: the step within this site's round, from 0.
        rounds: rounds of the stage.
        steps_per_round: optimiser steps that this site takes in one round.

    Raises:
        ValueError: the round or the step does not exist.
    """
    if not (0 <= round_index < rounds and 0 <= step < steps_per_round):
        raise ValueError(f"round {round_index} of {rounds}, step {step} of {steps_per_round}: no such point")
    return (round_index + (step + 0.5) / steps_per_round) / rounds


def climb(step: int, steps_per_round: int, share: float) -> float:
    """Share of the rate at one step of a round whose first steps are smaller, in (0, 1].

    Linear over the first `share` of the round's steps, at the middle of each step, then 1.

    Args:
        step: the step within the round, from 0.
        steps_per_round: optimiser steps of the round.
        share: share of the round spent climbing, in [0, 1]; 0: the whole rate from the first step.

    Raises:
        ValueError: there is no such step, or `share` lies outside [0, 1].
    """
    if not (0 <= step < steps_per_round and 0.0 <= share <= 1.0):
        raise ValueError(f"step {step} of {steps_per_round}, share {share}: no such point")
    return min(1.0, (step + 0.5) / (share * steps_per_round)) if share else 1.0
