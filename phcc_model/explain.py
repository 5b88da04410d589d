"""Where the score comes from: one heat map per phase, and how much attention each phase got.

HiResCAM [F: Draelos & Carin, arXiv 2011.08891]: each cell of a stage's map times the logit's slope by that very
cell, summed over the channels; what is negative is left out. Grad-CAM [F: Selvaraju et al., ICCV 2017] takes the
mean slope of a channel for all cells, which is the same thing where pooling is the plain mean (``gap``), and
only there: where the lesion is pooled by itself, a channel's mean slope adds up parts that read different
places, and the part of the spread cancels altogether. Hence the choice [R]: Grad-CAM for ``gap``, HiResCAM for
every other pooling (DECISIONS 31). LayerCAM [F: Jiang et al., TIP 2021] takes positive slopes alone.

Before Grad-CAM what all cells of a case share is taken off [R]: a channel's mean over the map says nothing of
where, and its sign decides whether a map is empty: as published, 51 of 53 were (synthetic patients). `centred`
off is the published form.

What a map is not: pooled over the lesion as it is given, the slope by the last map is larger in the lesion's
cells whatever the network has learnt, so that part of where HiResCAM lies is the pooling's doing. How large a
part, networks drawn anew tell (`explain_measures`). Pooled over what the network finds by itself (``found``), it
is the network's doing: there it is told in fine-tuning where to look, and has to do it (DECISIONS 48). Where each
phase is encoded by itself it learns the middle of the crop instead, unless all phases look together and lesions
are shown elsewhere too (`model.classifier.look`, `finetune.find_moved`; DECISIONS 53, 54).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from phcc_model.classifier import Classifier
from phcc_model.encoder import Downsample, Encoder
from phcc_model.errors import CaseError, ConfigError, TrainingError
from phcc_model.explain_attention import AttentionBook
from phcc_model.layers import Strided
from phcc_model.sparse import spread

Method = Literal["grad-cam", "hires-cam", "layer-cam"]
Toward = Literal["positive", "negative"]
_METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class CamResult:
    """What `heat_maps` found, on the CPU.

    Attributes:
        maps_bpdhw: float32 on the input's grid, at least zero, at most 1 per case, which is where the case's
            strongest phase is strongest; zero for missing phases, and throughout where nothing speaks for what
            was asked. Where the phases are joint there is one map, which stands for every phase that is there.
        attention_bp: share of each phase, as `AttentionBook` says, sums to 1 over the phases that count; None
            where the model has no attention over phases.
        logit_b: the scores, as `Classifier.forward` gives them.
    """

    maps_bpdhw: Tensor
    attention_bp: Tensor | None
    logit_b: Tensor


def usual_method(model: Classifier) -> Method:
    """How a model's heat maps are drawn unless one asks for another: by what its pooling makes faithful."""
    return "grad-cam" if model.pooling == "gap" else "hires-cam"


def chosen_method(model: Classifier, name: str | None) -> Method:
    """The method of this name; None: the usual one.

    Raises:
        ConfigError: there is no such method.
    """
    if name is None:
        return usual_method(model)
    for method in _METHODS:
        if method == name:
            return method
    raise ConfigError(
        f"there is no heat map of the kind {name!r}",
        where="method",
        remedy=f"Choose among {', '.join(_METHODS)}",
    )


def heat_maps(
    model: Classifier,
    volumes_bpdhw: Tensor,
    present_bp: Tensor,
    lesion_bdhw: Tensor | None = None,
    *,
    method: Method | None = None,
    stage: int = -1,
    toward: Toward = "positive",
    centred: bool | None = None,
) -> CamResult:
    """Heat maps of a batch of cases; each depends on its own case alone.

    Args:
        model: the classifier; it is evaluated without dropout, and left as it was.
        volumes_bpdhw: normalised volumes, as in `Classifier.forward`.
        present_bp: bool, True where the phase is there; what stands in missing phases is never read.
        lesion_bdhw: 1 inside the lesion; None where it is not known: lesion pooling then takes all cells alike.
        method: how gradients weight the map; None: `usual_method`.
        stage: of the encoder, from its first (0) or its last (-1); later ones know more and see less sharply.
        toward: what the map speaks for: a higher logit, or a lower one.
        centred: whether each channel's mean over the case's cells is taken off first; None: for Grad-CAM only.

    Raises:
        ConfigError: there is no such method or stage.
        CaseError: not one phase of any case is there.
        TrainingError: a score is not finite.
    """
    method = chosen_method(model, method)
    centred = method == "grad-cam" if centred is None else centred
    _check_stage(model, stage)
    if not model.joint and not bool(present_bp.any()):
        raise CaseError(
            "none of the phases is there, so there is nothing to explain",
            where="heat map",
            remedy="Check the phases' names",
        )
    device = next(model.parameters()).device
    volumes_bpdhw, present_bp = volumes_bpdhw.to(device).float(), present_bp.to(device)
    b, _, d, h, w = volumes_bpdhw.shape
    lesion_bdhw = volumes_bpdhw.new_zeros(b, d, h, w) if lesion_bdhw is None else lesion_bdhw.to(device)
    tokens: list[Tensor] = []
    attention = AttentionBook(model.fusion)
    with _evaluated(model), attention, _hooked(_map_giver(model, stage), _leaf_keeper(tokens)):
        logit_b = _without_weights_gradients(model)(volumes_bpdhw, present_bp, lesion_bdhw)
        counted_bp = model.counted(present_bp)
        if not bool(logit_b.isfinite().all()):
            raise TrainingError(
                "a score is not finite, and cannot be explained",
                where="heat map",
                remedy="Look for damaged volumes, or take the checkpoint of an earlier round",
            )
        total = logit_b.sum() if toward == "positive" else -logit_b.sum()
        slopes = torch.autograd.grad(total, tokens, allow_unused=True, materialize_grads=True)
    map_ntc = torch.cat(tokens).detach()
    if centred:
        map_ntc = map_ntc - map_ntc.mean(dim=1, keepdim=True)
    cam_nt = _weighted(map_ntc, torch.cat(slopes), method)
    cam_n1dhw = cam_nt.view(-1, 1, *_grid(model, stage, (d, h, w)))
    maps_bpdhw = _on_the_input(cam_n1dhw, (d, h, w), present_bp, model.joint)
    attention_bp = None if model.joint else attention.shares(counted_bp)
    return CamResult(
        maps_bpdhw.cpu(), None if attention_bp is None else attention_bp.cpu(), logit_b.detach().cpu()
    )


def _encoder(model: Classifier) -> Encoder:
    if not isinstance(model.encoder, Encoder):
        raise ConfigError(
            "heat maps are drawn of the method's encoder, not of the plain baseline",
            where="model.encoder",
            remedy="Choose another arm",
        )
    return model.encoder


def _check_stage(model: Classifier, stage: int) -> None:
    stages = len(_encoder(model).stages)
    if not -stages <= stage < stages:
        raise ConfigError(
            f"the encoder has no stage {stage}",
            where="stage",
            remedy=f"Choose from 0 to {stages - 1}, or -1 for the last",
        )


def _without_weights_gradients(model: Classifier) -> Callable[..., Tensor]:
    """The model as a function whose weights ask for no gradient: below the kept map nothing is recorded."""
    still = {name: value.detach() for name, value in model.named_parameters()}
    return lambda *inputs: functional_call(model, still, inputs)


def _leaf_keeper(kept: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that cuts the graph at a layer's output, and keeps the piece that the gradient is asked for."""

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        kept.append(leaf)
        return leaf

    return keep


@contextmanager
def _hooked(module: nn.Module, hook: Callable[[nn.Module, Any, Tensor], Tensor]) -> Iterator[None]:
    """A forward hook for as long as the block lasts."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients, also within a caller's `no_grad`; the mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.train(was_training)


def _map_giver(model: Classifier, stage: int) -> nn.Module:
    """The layer whose output is a stage's map as the next one reads it: after the norm that lies between.

    Before that norm a cell's slopes and values cancel to nothing (what a layer norm gives does not depend on the
    length of what it gets), and HiResCAM would show rounding errors.
    """
    encoder = _encoder(model)
    last = stage % len(encoder.stages)
    if last < len(encoder.downs):
        between = encoder.downs[last]
        assert isinstance(between, Downsample)
        return between.norm
    blocks = encoder.stages[last]
    assert isinstance(blocks, nn.ModuleList)
    return blocks[-1]


def _grid(model: Classifier, stage: int, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Cells of a stage's map along D, H, W."""
    encoder = _encoder(model)
    last = stage % len(encoder.stages)
    strided = [part for part in encoder.modules() if isinstance(part, Strided)][: last + 1]
    d, h, w = (n // math.prod(part.stride[axis] for part in strided) for axis, n in enumerate(size))
    return d, h, w


def _weighted(map_ntc: Tensor, slope_ntc: Tensor, method: Method) -> Tensor:
    """What of each cell speaks for what was asked, [n, t]."""
    if method == "grad-cam":
        slope_ntc = slope_ntc.mean(dim=1, keepdim=True)
    elif method == "layer-cam":
        slope_ntc = slope_ntc.relu()
    return (slope_ntc * map_ntc).sum(dim=2).relu()


def _on_the_input(cam_n1dhw: Tensor, size: tuple[int, int, int], present_bp: Tensor, joint: bool) -> Tensor:
    """Maps of the samples as maps of cases and phases, each case's strongest place 1."""
    fine_ndhw = F.interpolate(cam_n1dhw, size, mode="trilinear", align_corners=False)[:, 0]
    maps_bpdhw = _by_phase(fine_ndhw, present_bp, joint)
    strongest_b1111 = maps_bpdhw.flatten(1).amax(dim=1)[:, None, None, None, None]
    return maps_bpdhw / torch.where(strongest_b1111 > 0, strongest_b1111, 1.0)


def _by_phase(fine_ndhw: Tensor, present_bp: Tensor, joint: bool) -> Tensor:
    """Each sample's map at its case and phase, zero elsewhere; a joint one at every phase that is there."""
    if joint:
        return fine_ndhw[:, None] * present_bp[:, :, None, None, None].to(fine_ndhw.dtype)
    return spread(fine_ndhw, present_bp)
