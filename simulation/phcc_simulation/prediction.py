"""A finished run's model on images from outside: one score per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.imaging.dataset import stack
from phcc_client.imaging.medmnist import read_array
from phcc_client.imaging.preprocess import prepare
from phcc_client.splits import read_splits
from phcc_model.arms import plan_arm
from phcc_model.build import build_classifier, load_state
from phcc_model.errors import CaseError, ConfigError, DatasetError
from phcc_model.study_file import load_study
from phcc_model.training.predict import predict
from phcc_server.store import RunStore


def score_images(run: Path, npz: Path, array: str, arm: str) -> NDArray[np.float64]:
    """Probability of the positive class for each image of an array, in the array's order.

    Raises:
        ConfigError: the folder holds no run, or the arm has no network.
        StorageError: the arm has not finished, or its checkpoint is damaged.
        DatasetError: the file or the array cannot be used; an image that cannot be scored is named.
    """
    study_file = run / "study.yaml"
    if not study_file.is_file():
        raise ConfigError(
            "this folder holds no run", where=str(run), remedy="Give the --out of a finished run"
        )
    plan = plan_arm(arm, load_study(study_file), read_splits(run / "splits.json").centres)
    if not plan.trained:
        raise ConfigError(
            "this arm trains no network of its own", where=f"--arm {arm}", remedy="Choose another arm"
        )
    final = RunStore(run / "checkpoints", plan.study.digest).final(arm)
    model = build_classifier(plan.study)
    load_state(model, final.arrays)
    reading = read_array(npz, array)
    prepared = []
    for raw in reading.cases:
        try:
            prepared.append(prepare(raw, plan.study.data))
        except CaseError as error:
            raise DatasetError(error.what, where=f"{npz}: {raw.case}", remedy=error.remedy) from error
    cases = stack(reading.cases, prepared)
    logit_n = predict(model, cases, device=torch.device("cpu")).astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-logit_n)))
