"""A finished run's model on images from outside: one score per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from phcc_client.imaging.dataset import stack
from phcc_client.imaging.medmnist import read_array
from phcc_client.imaging.preprocess import prepare
from phcc_model.errors import CaseError, DatasetError
from phcc_model.training.predict import predict
from phcc_simulation.finished import RunModel


def score_images(run: Path, npz: Path, array: str, arm: str) -> NDArray[np.float64]:
    """Probability of the positive class for each image of an array, in the array's order.

    Raises:
        ConfigError: the folder holds no run, or the arm has no network.
        StorageError: the run or the arm has not finished, or its checkpoint is damaged.
        DatasetError: the file or the array cannot be used; an image that cannot be scored is named.
    """
    found = RunModel.open(run, arm)
    reading = read_array(npz, array)
    prepared = []
    for raw in reading.cases:
        try:
            prepared.append(prepare(raw, found.plan.study.data))
        except CaseError as error:
            raise DatasetError(error.what, where=f"{npz}: {raw.case}", remedy=error.remedy) from error
    cases = stack(reading.cases, prepared)
    logit_n = predict(found.model, cases, device=torch.device("cpu")).astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-logit_n)))
