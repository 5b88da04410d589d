"""How the cases of a batch are shared out: over the ranks of one machine, and over time where memory is short.

One site trains one model, however many GPUs it has and however little memory. So the batch stays the study's,
and what belongs to it is computed on the whole of it, on every rank alike: the random draws, the sample weights
with their memory, the classifier's head with its norm over cases, loss, AUC and the optimiser's step. Only what
looks at one case at a time is shared out (the masked autoencoder, the classifier's encoder): each rank has its
own cases, takes them `at_once` by `at_once`, and the results are gathered.

- **Over ranks**: torch's DistributedDataParallel averages the gradients, so that all ranks take the same step.
- **Over time**: torch's checkpointing drops what a part computed on its way and computes it again on the way
  back, so that one part's activations are held at a time: one forward pass more, and the gradients of all parts
  add up before the step. The norm over cases and the sample weights see the whole batch, unlike with gradients
  accumulated over small batches.

Equal to one process that takes the whole batch at once: sampling order, masks, augmentation, dropout and drop
path to the bit; weights, loss, AUC, statistics and memory to rounding of sums in another order (AdamW divides
by the gradient's size, so where a gradient is itself rounding, its sign may differ). In bf16 that is bf16's
rounding: each part's share of a gradient is rounded before the shares are added. Not equal: where ranks run on
cards of different kinds, their copies of the weights drift apart by rounding within a round; rank 0's count.
The same number of ranks and of cases at once gives the same bits again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")
Run = Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]
"""Runs a forward pass of a model in training, so that its gradients become those of the whole batch."""


@dataclass(frozen=True)
class Share:
    """This process's share of a batch.

    Attributes:
        rank: of this process, from 0.
        ranks: processes that train together; more than one need torch's default process group.
        at_once: cases that this process takes at once, at most; None: all of its own.
    """

    rank: int = 0
    ranks: int = 1
    at_once: int | None = None

    def own(self, cases: int) -> slice:
        """Which cases of a batch are this rank's: neighbours, as many as any other's, or one more or less."""
        return slice(cases * self.rank // self.ranks, cases * (self.rank + 1) // self.ranks)

    def parts(self, cases: int) -> list[slice]:
        """This rank's cases as parts that fit; of a batch with fewer cases than ranks it may have none."""
        own = self.own(cases)
        step = self.at_once or max(own.stop - own.start, 1)
        return [slice(at, min(at + step, own.stop)) for at in range(own.start, own.stop, step)]

    def gather(self, work: Callable[[slice], tuple[Tensor, ...]], cases: int) -> tuple[Tensor, ...]:
        """What `work` gives for a batch, though no process does the whole of it.

        Args:
            work: some cases to tensors with one row per case; it draws nothing at random.
            cases: of the batch.

        Returns:
            Tensors with one row per case, on every rank the same.
        """
        # A rank without a case does the first one along, and nothing of it counts: all must join in.
        parts = self.parts(cases) or [slice(0, 1)]
        if len(parts) == 1:
            own = work(parts[0])
        else:
            done = [checkpoint(work, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
            own = tuple(torch.cat(column) for column in zip(*done, strict=True))
        return own if self.ranks == 1 else tuple(_whole(x, self, cases) for x in own)

    @contextmanager
    def runner(self, model: nn.Module) -> Iterator[Run]:
        """Forward passes of `model`; those parameters that are trained must need a gradient by now."""
        if self.ranks == 1:
            yield lambda work: work()
            return
        yield DistributedDataParallel(_Forward(model))

    def agreed(self, flag: bool, device: torch.device) -> bool:
        """Whether a flag is true on every rank."""
        if self.ranks == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        dist.all_reduce(flags, dist.ReduceOp.MIN)
        return bool(flags)


class _Forward(nn.Module):
    """Stands between DistributedDataParallel and a model, of which it may run whatever part it likes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], T]) -> T:
        return work()


class _Whole(torch.autograd.Function):
    """Every rank's rows at their places in the batch; the way back leads to one's own rows.

    What follows is computed on every rank alike, and with it the gradient by the whole batch. As gradients by
    parameters are averaged over ranks afterwards, that by one's own rows is taken times their number.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share, cases: int) -> Tensor:
        ctx.share, ctx.rows, ctx.shape = share, share.own(cases), own.shape
        whole = own.new_zeros(cases, *own.shape[1:])
        whole[ctx.rows] = own[: ctx.rows.stop - ctx.rows.start]
        dist.all_reduce(whole)  # every place is zero on all ranks but one: a sum that rounds nothing
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        by_own = grads[0].new_zeros(ctx.shape)
        by_own[: ctx.rows.stop - ctx.rows.start] = grads[0][ctx.rows] * ctx.share.ranks
        return by_own, None, None


_whole: Callable[[Tensor, Share, int], Tensor] = _Whole.apply
