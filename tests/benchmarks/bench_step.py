"""One step of pre-training beside the same step as it is usually written (rows 1, 2 and 4 of the speed table).

Forward, loss, backward, clipping and AdamW on 4 volumes of 32x96x96 voxels, 60 % masked, three stages of 48, 96
and 192 channels, with kernels 7x7x7 and 3x7x7. R0 is the masked dense network of torch's own layers in NCDHW
memory, R1 the same in channels_last_3d, `dense` our kernels on the dense map, `packed` what trains. All have the
same weights, masks and optimiser; that loss and gradients agree is checked first. The volumes are noise
(synthetic); the time does not depend on what they hold.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from bench import Run, Times, as_launched, in_turns, of_turns, options, ratio, told
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from phcc_model.config import ModelSettings, PretrainSettings
from phcc_model.masking import grid_of, visible_count
from phcc_model.pointwise import pointwise
from phcc_model.pretrain import SWFCMAE, Chance
from phcc_model.reference import ReferenceBlock, reference_of
from phcc_model.sparse import Triple
from phcc_model.training.progress import Place
from phcc_model.training.steps import Recipe, RoundOptimiser

SIZE, TINY_SIZE = (32, 96, 96), (16, 32, 32)
GOALS = {(7, 7, 7): (7.0, 4.0), (3, 7, 7): (5.0, 3.0)}
"""By kernel: against R0, against R1."""
ALIKE = 1e-5
RECIPE = Recipe(learning_rate=1.5e-3, weight_decay=0.05, warmup=0.1, rounds=10)
STEPS = 10_000
"""Of the round that the optimiser believes itself in: more than are run."""


@dataclass(frozen=True)
class Step:
    """One training step of one model, to be called again and again."""

    model: SWFCMAE
    volumes_bpdhw: Tensor
    chance: Chance
    optimiser: RoundOptimiser = field(init=False)

    def __post_init__(self) -> None:
        optimiser = RoundOptimiser(self.model, RECIPE, Place(0, "pretrain", 0, "bench"), steps=STEPS)
        object.__setattr__(self, "optimiser", optimiser)

    def loss(self) -> Tensor:
        """Of the forward pass alone."""
        present_bp = torch.ones(self.volumes_bpdhw.shape[:2], dtype=torch.bool)
        mean: Tensor = self.model(self.volumes_bpdhw, present_bp, self.chance).loss_b.mean()
        return mean

    def __call__(self) -> float:
        return self.optimiser.step(self.loss(), epoch=0)


def settings(kernel: Triple, tiny: bool = False) -> ModelSettings:
    """The network of the speed table: cells of 8x16x16 voxels, a decoder as wide as the last stage."""
    sizes: dict[str, Any] = {"depths": (2, 2, 6), "dims": (48, 96, 192), "decoder_width": 192}
    if tiny:
        sizes = {"depths": (1, 1, 1), "dims": (8, 16, 16), "decoder_width": 16}
    return ModelSettings(
        size="custom", stem=(2, 4, 4), downsample=((2, 2, 2), (2, 2, 2)), kernel=kernel, **sizes
    )


def packed_step(kernel: Triple, tiny: bool = False) -> Step:
    """What trains: one case of four phases, each a sample of the encoder."""
    model = SWFCMAE(settings(kernel, tiny), phases=4, objective=PretrainSettings())
    source = torch.Generator().manual_seed(0)
    size = TINY_SIZE if tiny else SIZE
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "grn" in name:  # zero at the start: both sides would agree whatever GRN does
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=source))
    volumes = torch.randn(1, 4, *size, generator=source)
    return Step(model, volumes, Chance(model.draw_mask(1, size, source)))


def others(packed: Step, kernel: Triple, tiny: bool) -> dict[str, Step]:
    """The same step in other ways, from the same weights."""
    config = settings(kernel, tiny)
    made = {}
    for name, layout in (("R0", torch.contiguous_format), ("R1", torch.channels_last_3d)):
        # reference_of takes weights over, whose layers then settle in one memory layout throughout.
        model = reference_of(packed.model, config)
        model.to(memory_format=layout)  # type: ignore[call-overload]
        for part in model.modules():
            if isinstance(part, ReferenceBlock | nn.Conv3d):
                part.register_forward_pre_hook(partial(_lay_out, layout))
        made[name] = Step(model, packed.volumes_bpdhw, packed.chance)
    dense = SWFCMAE(config, 4, packed.model.objective)
    dense.load_state_dict(packed.model.state_dict())
    dense.encoder.packed = False
    made["dense"] = Step(dense, packed.volumes_bpdhw, packed.chance)
    return made


def _lay_out(layout: torch.memory_format, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *rest = inputs
    return (first.contiguous(memory_format=layout), *rest)


def apart(one: Step, other: Step) -> tuple[float, float]:
    """Relative difference of the losses, and of all gradients together (Euclidean)."""
    results = []
    for step in (one, other):
        loss = step.loss()
        slopes = torch.autograd.grad(loss, step.optimiser.parameters)
        results.append((float(loss.detach()), torch.cat([slope.flatten().double() for slope in slopes])))
    (loss_a, slopes_a), (loss_b, slopes_b) = results
    return abs(loss_a / loss_b - 1.0), float((slopes_a - slopes_b).norm() / slopes_b.norm())


def flops(step: Step, config: ModelSettings) -> tuple[float, float]:
    """Multiplications and additions of forward and backward, as run, and without those on masked cells.

    Counted as run, the depthwise convolution works on the whole map, masked or not. Its share beyond the
    visible cells is three convolutions (forward and both gradients) of each block of the encoder.
    """
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(step.loss(), step.optimiser.parameters)
    encoder = step.model.encoder
    size = (step.volumes_bpdhw.shape[2], step.volumes_bpdhw.shape[3], step.volumes_bpdhw.shape[4])
    grid = grid_of(size, encoder.patch)
    cells = math.prod(grid)
    masked = 1.0 - visible_count(grid, step.model.objective.mask_ratio) / cells
    taps = math.prod(config.kernel)
    wasted, tokens = 0.0, cells * step.volumes_bpdhw.shape[1]
    for blocks, width in reversed(list(zip(*config.stages, strict=True))):
        wasted += masked * blocks * 3 * 2 * tokens * width * taps
        tokens *= 8  # the stride of each downsampling is 2x2x2
    return float(counter.get_total_flops()), counter.get_total_flops() - wasted


def products(tiny: bool) -> tuple[float, dict[str, Callable[[], Tensor]]]:
    """Flops of one product of large matrices, and the ways to it that torch has."""
    rows, width = (2048, 64) if tiny else (16384, 768)
    x_1tc, weight_oc = torch.randn(1, rows, width), torch.randn(width, width)
    ways: dict[str, Callable[[], Tensor]] = {
        "oneDNN": lambda: pointwise(x_1tc, weight_oc, None),
        "BLAS": lambda: F.linear(x_1tc, weight_oc),
    }
    return 2.0 * rows * width * width, ways


def measure(kernel: Triple, rows: list[int], run: Run, repeats: int) -> bool:
    """One kernel; whether the sides agree."""
    packed = packed_step(kernel, run.tiny)
    steps = {"packed": packed} | others(packed, kernel, run.tiny)
    wanted = {"packed"} | ({"R0", "R1"} if 1 in rows else set()) | ({"dense"} if 2 in rows else set())
    steps = {name: step for name, step in steps.items() if name in wanted}
    named = "x".join(map(str, kernel))
    for name in sorted(wanted - {"packed"}):
        by_loss, by_slope = apart(packed, steps[name])
        words = f"{by_loss:.1e} apart in loss, {by_slope:.1e} in gradient"
        print(f"step-{named}: packed and {name} are {words}", flush=True)
        if max(by_loss, by_slope) > ALIKE:
            print(f"error: {name} does not compute the same step: nothing to compare", file=sys.stderr)
            return False
    counted, ways = products(run.tiny)
    sides: dict[str, Callable[[], object]] = {**steps, **(ways if 4 in rows else {})}
    times = in_turns(sides, repeats)
    if 1 in rows:
        for name, goal in zip(("R0", "R1"), GOALS[kernel], strict=True):
            run.tell(
                f"step-{named}-against-{name}",
                ratio(times[name], times["packed"]),
                goal,
                told({n: times[n] for n in (name, "packed")}),
            )
    if 2 in rows:
        detail = told({n: times[n] for n in ("dense", "packed")})
        run.tell(f"step-{named}-packed-against-dense", ratio(times["dense"], times["packed"]), 1.5, detail)
    if 4 in rows:
        tell_bound(named, packed, settings(kernel, run.tiny), times, counted, run)
    return True


def tell_bound(
    named: str, step: Step, config: ModelSettings, times: dict[str, Times], counted: float, run: Run
) -> None:
    """The step beside what its products would take if all ran as fast as one of large matrices."""
    asked, needed = flops(step, config)
    way = min(("oneDNN", "BLAS"), key=lambda name: times[name].wall)
    turns = zip(times["packed"].walls, times[way].walls, strict=True)
    bound = times[way].wall * asked / counted
    run.tell(
        f"step-{named}-against-flops",
        of_turns([own / (product * asked / counted) for own, product in turns]),
        3.5,
        f"packed {1e3 * times['packed'].wall:.4g} ms, {asked / 1e9:.1f} GFLOP as run at "
        f"{counted / times[way].wall / 1e9:.0f} GFLOP/s ({way}): {1e3 * bound:.4g} ms; on visible cells alone "
        f"{needed / 1e9:.1f} GFLOP, {times['packed'].wall / bound * asked / needed:.1f} times",
        at_most=True,
    )


def main(words: list[str] | None = None) -> int:
    """Both kernels; 1 where the sides do not agree, 0 whatever the ratios are."""
    parser = options(__doc__ or "")
    parser.add_argument("--row", type=int, nargs="+", choices=(1, 2, 4), default=[1, 2, 4])
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    run = Run.begin(arguments)
    return 0 if all(measure(kernel, arguments.row, run, arguments.repeats) for kernel in GOALS) else 1


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
