"""A lesion's score by a package's model, what it means after recalibration, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.imaging.case import RawCase
from phcc_client.imaging.dataset import stack
from phcc_client.prediction.result import Verdict
from phcc_client.prediction.subject import Subject
from phcc_model.config import Phase
from phcc_model.explain import heat_maps
from phcc_model.package import ModelPackage
from phcc_model.training.predict import predict


@dataclass(frozen=True)
class Scored:
    """What the model says.

    Attributes:
        score: the model's probability.
        probability: after the package's recalibration; equal to the score where there is none.
        verdict: of the threshold, which belongs to the score.
        maps_pdhw: float32 heat maps on the crop's grid, 0 to 1, phases in the study's order.
        attention: share of each phase that is there; empty where the model has no attention.
        looked: share of the places where the model looked that lies in the lesion as it is drawn; None for a
            model that does not look for lesions by itself, and where nothing is drawn.
        untaught: phases that are there, but that no patient had whom the model was trained on.
        on_untaught_alone: whether the score rests on these for want of others; it leaves them out otherwise.
    """

    score: float
    probability: float
    verdict: Verdict
    maps_pdhw: NDArray[np.float32]
    attention: Mapping[Phase, float]
    looked: float | None
    untaught: tuple[str, ...]
    on_untaught_alone: bool


def score(package: ModelPackage, subject: Subject) -> Scored:
    """Score one lesion, as the evaluation of the study scored its patients.

    Raises:
        TrainingError: the score is not finite.
    """
    model = package.model()
    cases = stack([RawCase(subject.case, subject.patient, {})], [subject.prepared])
    logit = float(predict(model, cases, device=torch.device("cpu")).astype(np.float64)[0])
    probability = float(1.0 / (1.0 + np.exp(-logit)))
    prepared = subject.prepared
    given = (
        torch.from_numpy(prepared.volumes_pdhw.astype(np.float32))[None],
        torch.from_numpy(prepared.present_p)[None],
        torch.from_numpy(prepared.lesion_dhw)[None],
    )
    cam = heat_maps(model, *given)
    with torch.no_grad():
        looked_b = model.eval().looked_within(*given)
    present = zip(package.study.data.phases, prepared.present_p, strict=True)
    used = [phase for phase, there in present if there]
    untaught = tuple(phase for phase in model.untaught() if phase in used)
    shares = [] if cam.attention_bp is None else cam.attention_bp[0].tolist()
    there = zip(package.study.data.phases, prepared.present_p, shares, strict=True) if shares else ()
    return Scored(
        score=probability,
        probability=float(package.calibrated(probability)),
        verdict="positive" if probability >= package.threshold else "negative",
        maps_pdhw=cam.maps_bpdhw[0].numpy(),
        attention={phase: round(float(share), 4) for phase, present, share in there if present},
        looked=None if looked_b is None or subject.lesion.drawn_on is None else float(looked_b[0]),
        untaught=untaught,
        on_untaught_alone=set(untaught) == set(used),
    )
