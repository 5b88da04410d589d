"""Which centres a phantom has: those of its scanners, first or second, and how many patients each."""

from __future__ import annotations

import numpy as np

from phcc_model.config import PhantomSettings
from phcc_model.errors import ConfigError

from .scanner import EXTERNAL_CENTRE, TRAINING_CENTRES, ScannerProfile
from .second import SECOND_CENTRES, SECOND_EXTERNAL_CENTRE


def training_centres(settings: PhantomSettings) -> tuple[ScannerProfile, ...]:
    """The centres that are trained on, in the order in which they are taken."""
    centres = SECOND_CENTRES if settings.scanners == "second" else TRAINING_CENTRES
    return centres[: settings.training_centres]


def external_centre(settings: PhantomSettings) -> ScannerProfile:
    """The centre that is kept out of training."""
    return SECOND_EXTERNAL_CENTRE if settings.scanners == "second" else EXTERNAL_CENTRE


def centres_of(settings: PhantomSettings) -> tuple[tuple[ScannerProfile, int], ...]:
    """The centres of a phantom with their numbers of patients, the external one last (if it has any).

    Patients are dealt by the centres' shares (largest remainder), at least one to each.

    Raises:
        ConfigError: there are fewer patients than training centres.
    """
    chosen = training_centres(settings)
    if settings.patients < len(chosen):
        raise ConfigError(
            f"{settings.patients} patients cannot be dealt to {len(chosen)} training centres",
            where="data.phantom.patients",
            remedy="Ask for at least one patient per training centre",
        )
    spare = settings.patients - len(chosen)
    exact = np.array([profile.share for profile in chosen]) * spare / sum(profile.share for profile in chosen)
    count = np.floor(exact).astype(int)
    largest = np.argsort(-(exact - count), kind="stable")[: spare - int(count.sum())]
    count[largest] += 1
    dealt = [(profile, int(n) + 1) for profile, n in zip(chosen, count, strict=True)]
    if settings.external_patients:
        dealt.append((external_centre(settings), settings.external_patients))
    return tuple(dealt)
