"""What the tests of the statistics share: samples with ties, and a worked example from the literature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class OvarianCancer:
    """Three scores of the same patients, 1 = benefits from surgery."""

    label: NDArray[np.int64]
    albumin: NDArray[np.float64]
    total_protein: NDArray[np.float64]
    kg_score: NDArray[np.float64]


# The data of DeLong, DeLong & Clarke-Pearson (Biometrics 1988;44:837-845), the 43 patients with all three
# tests, as printed in the SAS/STAT User's Guide (LOGISTIC, "Comparing Receiver Operating Characteristic
# Curves"): albumin, total protein, Krebs-Goplerud score, outcome.
_ROWS = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""


@pytest.fixture
def ovarian_cancer() -> OvarianCancer:
    rows = np.array(_ROWS.split(), dtype=np.float64).reshape(-1, 4)
    return OvarianCancer(rows[:, 3].astype(np.int64), rows[:, 0], rows[:, 1], 10.0 - rows[:, 2])
