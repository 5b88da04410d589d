"""The depthwise convolution, forward and backward, beside torch's own (row 3 of the speed table).

4 maps of 48 channels and 16x24x24 tokens, kernel 7x7x7, which is the first stage of the step that row 1 times.
Output and gradients are compared first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench import Run, as_launched, in_turns, options, ratio, told
from torch import Tensor

from phcc_model.depthwise import depthwise
from phcc_model.sparse import dense_layout

SHAPE, KERNEL = (4, 48, 16, 24, 24), (7, 7, 7)
TINY_SHAPE, TINY_KERNEL = (2, 8, 4, 8, 8), (3, 3, 3)
ALIKE = 1e-5

Work = Callable[[], list[Tensor]]


def sides(shape: tuple[int, ...], kernel: tuple[int, ...]) -> dict[str, Work]:
    """Each gives the output and the gradients by map, kernel and bias, with the axes of torch's layer."""
    n, c, d, h, w = shape
    source = torch.Generator().manual_seed(0)
    x_ncdhw, pull_ncdhw = (torch.randn(shape, generator=source) for _ in range(2))
    weight = (0.05 * torch.randn(c, 1, *kernel, generator=source)).requires_grad_()
    bias = torch.randn(c, generator=source).requires_grad_()
    layout = dense_layout(n, (d, h, w), (1, 1, 1), None, fast=True)

    def theirs(memory: torch.memory_format) -> Work:
        x = x_ncdhw.contiguous(memory_format=memory).requires_grad_()
        pull = pull_ncdhw.contiguous(memory_format=memory)
        held = weight.detach().contiguous(memory_format=memory).requires_grad_()

        def work() -> list[Tensor]:
            out = F.conv3d(x, held, bias, padding="same", groups=c)
            return [out, *torch.autograd.grad(out, (x, held, bias), pull)]

        return work

    def tokens(maps_ncdhw: Tensor) -> Tensor:
        return maps_ncdhw.flatten(2).transpose(1, 2).contiguous()

    x_ntc, pull_ntc = tokens(x_ncdhw).requires_grad_(), tokens(pull_ncdhw)

    def ours() -> list[Tensor]:
        out = depthwise(x_ntc, weight, bias, layout)
        by_x, by_weight, by_bias = torch.autograd.grad(out, (x_ntc, weight, bias), pull_ntc)
        out, by_x = (maps.transpose(1, 2).view(n, c, d, h, w) for maps in (out, by_x))
        return [out, by_x, by_weight, by_bias]

    return {"NCDHW": theirs(torch.contiguous_format), "channels_last": theirs(torch.channels_last_3d)} | {
        "ours": ours
    }


def main(words: list[str] | None = None) -> int:
    """Check, and measure; 1 where the sides do not agree."""
    arguments = options(__doc__ or "").parse_args(words)
    torch.set_num_threads(arguments.threads)
    run = Run.begin(arguments)
    works = sides(*((TINY_SHAPE, TINY_KERNEL) if run.tiny else (SHAPE, KERNEL)))
    ours = works["ours"]()
    for name in ("NCDHW", "channels_last"):
        pairs = zip(ours, works[name](), strict=True)
        worst = max(float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs)
        print(f"depthwise: ours and {name} are at most {worst:.1e} apart in output and gradients", flush=True)
        if worst > ALIKE:
            print(f"error: {name} does not compute the same: nothing to compare", file=sys.stderr)
            return 1
    times = in_turns(works, arguments.repeats)
    for name, goal in (("channels_last", 3.0), ("NCDHW", 10.0)):
        detail = told({n: times[n] for n in (name, "ours")})
        run.tell(f"depthwise-7x7x7-against-{name}", ratio(times[name], times["ours"]), goal, detail)
    return 0


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
