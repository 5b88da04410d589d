from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.bias_field import correct_bias

GRID = Grid((24, 64, 64), np.diag([4.0, 2.5, 2.5]), np.zeros(3))


def body() -> NDArray[np.float32]:
    """An abdomen of three tissues in air, noise everywhere."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID.shape_dhw], indexing="ij")
    inside = (y / 0.8) ** 2 + (x / 0.9) ** 2 < 1
    organ = ((y + 0.2) / 0.4) ** 2 + ((x + 0.3) / 0.4) ** 2 + (z / 0.8) ** 2 < 1
    clean = np.where(organ, 500.0, np.where(inside, 300.0, 0.0))
    noise = np.random.default_rng(0).normal(0, 8, (2, *GRID.shape_dhw))
    return np.asarray(np.hypot(gaussian_filter(clean, 0.7) + noise[0], noise[1]), dtype=np.float32)


def bias() -> NDArray[np.float32]:
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID.shape_dhw], indexing="ij")
    return np.exp(0.5 * y + 0.3 * x**2 - 0.2 * z).astype(np.float32)


def test_a_bias_field_is_recovered() -> None:
    clean = body()
    inside = clean > 150
    corrected = correct_bias(clean * bias(), GRID)
    assert np.array_equal(corrected, correct_bias(clean * bias(), GRID))
    left = np.log(corrected[inside] / clean[inside])
    assert np.log(bias()[inside]).std() > 0.2
    assert left.std() < 0.05
    tissue = clean > 420
    assert corrected[tissue].std() / corrected[tissue].mean() < 0.05
    # The level stays: nobody's thresholds move.
    assert np.log(corrected[inside]).mean() == pytest.approx(
        np.log((clean * bias())[inside]).mean(), abs=0.02
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((24, 64, 64), np.float32),
        np.full((24, 64, 64), 5.0, np.float32),
        np.full((24, 64, 64), -5.0, np.float32),
        np.random.default_rng(0).uniform(1, 2, (3, 64, 64)).astype(np.float32),
        np.random.default_rng(0).uniform(1, 2, (1, 1, 1)).astype(np.float32),
        np.random.default_rng(0).normal(0, 1, (12, 24, 24)).astype(np.float32),
        np.random.default_rng(0).uniform(1, 2, (12, 24, 24)).astype(np.float32) * np.float32(1e30),
        np.random.default_rng(0).uniform(1, 2, (12, 24, 24)).astype(np.float32) * np.float32(1e-30),
        np.eye(24, 64, dtype=np.float32)[:, :, None] * np.eye(64, dtype=np.float32),
    ],
)
def test_images_without_a_body_do_no_harm(image: NDArray[np.float32]) -> None:
    grid = Grid((image.shape[0], image.shape[1], image.shape[2]), np.diag([4.0, 2.5, 2.5]), np.zeros(3))
    corrected = correct_bias(image, grid)
    assert corrected.shape == image.shape
    assert corrected.dtype == np.float32
    assert np.isfinite(corrected).all()
