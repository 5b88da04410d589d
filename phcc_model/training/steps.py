"""What both stages share: one site's optimiser for one round, and randomness that follows from names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phcc_model.errors import TrainingError
from phcc_model.layers import is_decayed
from phcc_model.schedule import climb, rate_factor, step_position
from phcc_model.training.control import Control
from phcc_model.training.progress import Place, Progress, ProgressListener

BETAS = (0.9, 0.95)
"""AdamW's, as in masked autoencoders [F]; the short memory also suits rounds of few steps."""

CLIP_NORM = 1.0
"""Largest norm of the gradient of all trained weights together [R]: a fresh AdamW has no memory that would
damp the first step of a round."""


@dataclass(frozen=True)
class Recipe:
    """How the weights move; the same for every site of a study.

    Attributes:
        learning_rate: the peak.
        weight_decay: AdamW's, for weights that `is_decayed` names.
        warmup: share of all rounds spent warming up.
        rounds: rounds of the stage.
        layer_decay: the learning rate of a layer is this times that of the layer above it.
        proximal: FedProx's mu, 0 for FedAvg.
        round_warmup: share of a round's steps in which the rate climbs from zero [R]. A fresh AdamW knows one
            gradient, and its first steps are as long as the rate allows whatever that gradient is.
    """

    learning_rate: float
    weight_decay: float
    warmup: float
    rounds: int
    layer_decay: float = 1.0
    proximal: float = 0.0
    round_warmup: float = 0.0


class RoundOptimiser:
    """A fresh AdamW for one round of one site: nothing but weights survives a round.

    FedProx (Li et al., MLSys 2020) adds mu / 2 ||w - w_global||^2 to the loss, that is mu (w - w_global) to
    the gradient; w_global are the weights at the beginning of the round unless others are given.

    Args:
        model: its parameters with `requires_grad` are trained.
        recipe: how.
        place: the round and the site.
        steps: steps that this site takes in the round.
        depths: layer of each parameter by name; None: no layer-wise decay.
        reference: global weights by name, for FedProx.
        control: SCAFFOLD's, which corrects the gradient.
        listener: called after each step.

    Raises:
        TrainingError: `reference` lacks one of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        place: Place,
        *,
        steps: int,
        depths: Mapping[str, int] | None = None,
        reference: Mapping[str, Tensor] | None = None,
        control: Control | None = None,
        listener: ProgressListener | None = None,
    ) -> None:
        self.recipe = recipe
        self.place = place
        self.steps = steps
        self.control = control
        self.listener = listener
        self.done = 0
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.trained, self.parameters = trained, list(trained.values())
        self.optimiser = torch.optim.AdamW(_groups(trained, recipe, depths or {}), betas=BETAS, fused=True)
        self.reference = self._global_weights(trained, reference) if recipe.proximal else []

    @property
    def position(self) -> float:
        """Share of the whole stage that is done at the next step."""
        return step_position(
            self.place.round_index, self.done, rounds=self.recipe.rounds, steps_per_round=self.steps
        )

    def step(self, loss: Tensor, epoch: int) -> float:
        """One step down a loss.

        Args:
            loss: a scalar with a graph.
            epoch: the local epoch, for the listener.

        Returns:
            The loss, without FedProx's term.

        Raises:
            TrainingError: the loss or its gradient is not finite; the weights are left as they were.
        """
        value = float(loss.detach())
        self._check(value, "loss")
        climbed = climb(self.done, self.steps, self.recipe.round_warmup)
        factor = rate_factor(self.position, self.recipe.warmup) * climbed
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.reference:
            for parameter, held in zip(self.parameters, self.reference, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - held, alpha=self.recipe.proximal)
        if self.control is not None:
            self.control.correct(self.trained)
        self._check(float(nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)), "gradient")
        self.optimiser.step()
        self.done += 1
        if self.listener:
            at = self.place
            self.listener(Progress(at.stage, at.site, at.round_index, epoch, self.done, self.steps, value))
        return value

    def _check(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} is not finite ({value})",
                where=f"{self.place}, step {self.done + 1} of {self.steps}",
                remedy=f"lower {self.place.stage}.learning_rate, and look for damaged volumes at this site",
            )

    def _global_weights(
        self, trained: Mapping[str, nn.Parameter], reference: Mapping[str, Tensor] | None
    ) -> list[Tensor]:
        if reference is None:
            return [parameter.detach().clone() for parameter in trained.values()]
        missing = trained.keys() - reference.keys()
        if missing:
            raise TrainingError(
                f"the global weights lack {len(missing)} of this model's, first {min(missing)!r}",
                where=str(self.place),
                remedy="send the whole model to a site that trains with FedProx",
            )
        return [reference[name].to(parameter).detach().clone() for name, parameter in trained.items()]


def _groups(
    trained: Mapping[str, nn.Parameter], recipe: Recipe, depths: Mapping[str, int]
) -> list[dict[str, object]]:
    """Parameters with one learning rate and one weight decay each; the topmost layer has the peak rate."""
    top = max(depths.values(), default=0)
    members: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        members.setdefault((depths.get(name, top), is_decayed(name, parameter)), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": recipe.learning_rate * recipe.layer_decay ** (top - depth),
            "lr": 0.0,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (depth, decayed), parameters in members.items()
    ]


@contextmanager
def training_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Train `model` on `device`; torch's global randomness and the model's mode are put back afterwards.

    Dropout and drop path draw from torch's global generators: seed them inside with `torch.manual_seed`.
    """
    was_training = model.training
    model.to(device)
    model.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        model.train(was_training)


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluate `model` on `device` without gradients; its mode is put back afterwards."""
    was_training = model.training
    model.to(device)
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def precision(device: torch.device, bf16: bool) -> torch.autocast:
    """bfloat16 where torch deems it safe, or float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
