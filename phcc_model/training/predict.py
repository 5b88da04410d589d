"""Scores of cases by a trained classifier."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.errors import CaseError, TrainingError
from phcc_model.training.batches import Batch, in_order
from phcc_model.training.steps import evaluation_mode

CASES_AT_ONCE = 8


def predict(
    model: Classifier, cases: CaseSet, *, device: torch.device, batch_size: int = CASES_AT_ONCE
) -> NDArray[np.float32]:
    """One logit per case, in the cases' order, without dropout or augmentation, in float32.

    Args:
        model: the classifier; its mode is left as it was.
        cases: any cases, labelled or not.
        device: where to compute.
        batch_size: cases at a time; the scores do not depend on it beyond rounding (1e-5).

    Returns:
        float32 [n]; `1 / (1 + exp(-logit))` is the probability.

    Raises:
        CaseError: a case has none of the study's phases: there is nothing to score.
        TrainingError: a score is not finite.
    """
    empty = np.flatnonzero(~cases.present_np.any(axis=1))
    if empty.size:
        raise CaseError(
            "none of the study's phases is there, so it has no score",
            where=f"case {cases.case[empty[0]]}",
            remedy="Leave it out, or give an image of at least one phase",
        )
    parts = [np.zeros(0, np.float32)]
    with evaluation_mode(model, device):
        for at_b in in_order(len(cases), batch_size):
            batch = Batch.of(cases, at_b, device)
            parts.append(model(batch.volumes_bpdhw, batch.present_bp, batch.lesion_bdhw).cpu().numpy())
    logit_n = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(logit_n))
    if bad.size:
        raise TrainingError(
            f"{bad.size} of {len(cases)} scores are not finite, first that of case {cases.case[bad[0]]}",
            where="prediction",
            remedy="look for damaged volumes, or take the checkpoint of an earlier round",
        )
    return logit_n
